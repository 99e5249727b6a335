// Curves over training.
//
// Options: series [{ label, style, steps, x, y, low, high, faint, strong }], x { label }, y { label, format, log, zero }, single (the
// pointer names the nearest curve alone), legendOf (entries that replace those of the series).

const LINES = {
  height: (options, width) => (width < 460 ? 230 : 270),

  draw(svg, width, options) {
    const { series, x: horizontal, y: vertical } = options;
    const frame = { top: 24, right: width - 10, bottom: LINES.height(options, width) - 42 };
    const yScale = verticalScale(series, vertical, frame);
    frame.left = axisWidth(yScale.ticks(verticalCount(frame)), vertical.format);
    const [first, last] = extent(series.map((one) => one.x)) ?? [0, 1];
    const xScale = linearScale(Math.min(first, last > first ? first : 0), last, frame.left, frame.right);
    drawVerticalAxis(svg, frame, yScale, vertical);
    drawHorizontalAxis(svg, frame, xScale, { label: horizontal.label, format: asShort });
    for (const one of series) drawSeries(svg, one, xScale, yScale, vertical.log);
    return (x, y) => (x < frame.left - 4 || x > frame.right + 4 ? null : nearest(options, frame, xScale, yScale, x, y));
  },

  legend({ series, legendOf }) {
    return legendOf ?? series.map((one) => ({ text: one.label, swatch: lineSwatch(one.style) }));
  },

  label({ series, y }) {
    const told = series.slice(0, 8).map((one) => {
      const known = one.y.filter((value) => value !== null);
      if (!known.length) return `${one.label}: no values.`;
      const [low, high] = extent([known]);
      return `${one.label}: from ${y.format(known[0])} to ${y.format(known.at(-1))}, between ${y.format(low)} and ${y.format(high)}.`;
    });
    return `${told.join(" ")}${series.length > 8 ? ` And ${series.length - 8} more.` : ""}`;
  },

  table({ series, y }) {
    const rows = new Map();
    series.forEach((one, place) => {
      one.steps.forEach((step, at) => {
        if (!rows.has(step)) rows.set(step, series.map(() => ""));
        const band = one.low ? ` (${y.format(one.low[at])} to ${y.format(one.high[at])})` : "";
        rows.get(step)[place] = y.format(one.y[at]) + band;
      });
    });
    const sorted = [...rows].sort(([one], [other]) => one - other);
    return { head: ["step", ...series.map((one) => one.label)], rows: sorted.map(([step, cells]) => [asCount(step), ...cells]) };
  },
};

function verticalScale(series, { log, zero }, frame) {
  const lists = series.flatMap((one) => [one.y, one.low, one.high]);
  const positive = lists.map((list) => list?.filter((value) => value === null || value > 0));
  let [low, high] = extent(log ? positive : lists) ?? [log ? 0.1 : 0, 1];
  if (log) return logarithmicScale(low, high, frame.bottom, frame.top);
  const room = 0.04 * (high - low);
  if (zero) [low, high] = [0, high + room || 0.01];
  else [low, high] = [low - room, high + room];
  return linearScale(low, high, frame.bottom, frame.top);
}

function drawSeries(svg, one, xScale, yScale, log) {
  const known = (value) => value !== null && value !== undefined && (!log || value > 0);
  const points = one.x.map((x, at) => (known(one.y[at]) ? [xScale(x), yScale(one.y[at])] : null));
  const colour = `colour-${one.style % COLOURS}`;
  if (one.low) svg.append(shape("path", { class: `band ${colour}`, d: bandPath(one, xScale, yScale, known) }));
  const kind = one.faint ? "line faint" : one.strong ? "line strong" : "line";
  svg.append(shape("path", { class: `${kind} ${colour}`, d: linePath(points), "stroke-dasharray": one.faint ? null : dashOf(one.style) }));
  const drawn = points.filter((point) => point);
  if (drawn.length <= 32 && !one.faint) {
    for (const [x, y] of drawn) svg.append(shape("circle", { class: `dot ${colour}`, cx: x, cy: y, r: 2.5 }));
  }
}

function linePath(points) {
  let path = "";
  let open = false;
  for (const point of points) {
    if (point) path += `${open ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    open = Boolean(point);
  }
  return path;
}

function bandPath(one, xScale, yScale, known) {
  const places = one.x.map((_, at) => at).filter((at) => known(one.low[at]) && known(one.high[at]));
  if (places.length < 2) return "";
  const corner = (list) => (at) => `${xScale(one.x[at]).toFixed(1)} ${yScale(list[at]).toFixed(1)}`;
  return `M${places.map(corner(one.high)).join("L")}L${places.reverse().map(corner(one.low)).join("L")}Z`;
}

/** Finds what lies at the pointer: the nearest step, and each curve's value there (or the nearest curve alone). */
function nearest({ series, x: horizontal, y: vertical, single }, frame, xScale, yScale, x, y) {
  const found = series.map((one) => closest(one, xScale, x)).filter((each) => each);
  if (!found.length) return null;
  const distance = (each) => Math.abs(yScale(each.value) - y) + Math.abs(each.x - x);
  const main = single ? found.reduce((best, each) => (distance(each) < distance(best) ? each : best)) : found.reduce((best, each) => (Math.abs(each.x - x) < Math.abs(best.x - x) ? each : best));
  const shown = single ? [main] : found.filter((each) => Math.abs(each.x - main.x) < 12).slice(0, 12);
  const lines = shown.map(({ one, value }) => [lineSwatch(one.style), ` ${one.label}: `, element("b", {}, vertical.format(value))]);
  return { rule: `M${main.x} ${frame.top}V${frame.bottom}`, lines: [horizontal.tell(main.one, main.at), ...lines] };
}

function closest(one, xScale, x) {
  let best = null;
  one.x.forEach((value, at) => {
    if (one.y[at] === null) return;
    const away = Math.abs(xScale(value) - x);
    if (!best || away < best.away) best = { one, at, away, x: xScale(value), value: one.y[at] };
  });
  return best;
}
