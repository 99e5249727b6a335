// Scales from numbers to pixels, their ticks, and how both are drawn.

/** Gives round numbers within a range. */
function roundTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw * 0.999) ?? 10 * power;
  const ticks = [];
  for (let place = Math.ceil(low / size - 1e-9); place * size <= high + size * 1e-9; place += 1) ticks.push(place * size);
  return ticks.map((tick) => Number(tick.toPrecision(12)));
}

/** Gives a linear scale; `ticks(count)` are round numbers. */
function linearScale(low, high, from, to) {
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) / 2, low + (Math.abs(low) || 1) / 2];
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  scale.ticks = (count) => roundTicks(low, high, count);
  scale.low = low;
  scale.high = high;
  return scale;
}

/** Gives a logarithmic scale; `ticks(count)` are powers of ten, and 2 and 5 times these where there are few. */
function logarithmicScale(low, high, from, to) {
  if (high / low < 1.2) [low, high] = [low / 1.1, high * 1.1];
  const inner = linearScale(Math.log10(low), Math.log10(high), from, to);
  const scale = (value) => inner(Math.log10(Math.max(value, low)));
  scale.low = low;
  scale.high = high;
  scale.ticks = (count) => {
    const [first, last] = [Math.floor(inner.low), Math.ceil(inner.high)];
    const factors = last - first > 2 ? [1] : [1, 2, 5];
    const every = Math.max(1, Math.ceil((last - first) / count));
    const ticks = [];
    for (let power = first; power <= last; power += every) ticks.push(...factors.map((factor) => factor * 10 ** power));
    const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    return inside.length > 1 ? inside : roundTicks(low, high, Math.min(count, 4)).filter((tick) => tick > 0);
  };
  return scale;
}

/** Gives the smallest and largest of all finite numbers in some lists; null if there is none. */
function extent(lists) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) {
    for (const value of list ?? []) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/** Gives about how many ticks a vertical axis has room for. */
function verticalCount(frame) {
  return Math.max(2, Math.floor((frame.bottom - frame.top) / 32));
}

/** Draws rules and numbers of a vertical axis, its title above. */
function drawVerticalAxis(svg, frame, scale, { label, format, rules = true }) {
  for (const tick of scale.ticks(verticalCount(frame))) {
    const y = scale(tick);
    if (rules) svg.append(shape("path", { class: "grid-line", d: `M${frame.left} ${y}H${frame.right}` }));
    svg.append(shape("text", { class: "tick", x: frame.left - 6, y: y + 4, "text-anchor": "end" }, format(tick)));
  }
  if (label) svg.append(shape("text", { class: "axis", x: 0, y: 12 }, label));
}

/** Draws ticks and numbers of a horizontal axis, its title at the right end below. */
function drawHorizontalAxis(svg, frame, scale, { label, format, rules = false }) {
  svg.append(shape("path", { class: "base", d: `M${frame.left} ${frame.bottom}H${frame.right}` }));
  const widest = 24 + 7 * Math.max(...[scale.low, scale.high].map((value) => format(Math.round(value)).length));
  for (const tick of scale.ticks(Math.max(2, Math.floor((frame.right - frame.left) / Math.max(64, widest))))) {
    const x = scale(tick);
    const mark = rules ? `M${x} ${frame.top}V${frame.bottom}` : `M${x} ${frame.bottom}v4`;
    svg.append(shape("path", { class: rules ? "grid-line" : "base", d: mark }));
    const text = format(tick);
    const anchor = x + 4 * text.length > frame.right + (frame.margin ?? 8) ? "end" : "middle";
    svg.append(shape("text", { class: "tick", x, y: frame.bottom + 17, "text-anchor": anchor }, text));
  }
  if (label) svg.append(shape("text", { class: "axis", x: frame.right, y: frame.bottom + 34, "text-anchor": "end" }, label));
}

/** Gives the room that the numbers of a vertical axis take. */
function axisWidth(ticks, format) {
  return 12 + 6.6 * Math.max(3, ...ticks.map((tick) => format(tick).length));
}
