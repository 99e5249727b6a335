// Charts with one row a layer: their common layout, bars, and pairs of points on a logarithmic axis.

const ROW = 19;
const LETTER = 6.7; // width of a letter of the names, which are set in a fixed-width font

/** Gives where names, drawing and values of rows stand. */
function rowFrame(width, names, values, bottom = 6, top = 4) {
  const longest = Math.max(...names.map((name) => name.length));
  const left = Math.ceil(Math.min(longest * LETTER + 12, width * 0.4));
  const right = width - 8 - Math.ceil(Math.max(0, ...values.map((value) => value.length)) * LETTER);
  return { left, right, top, bottom: top + names.length * ROW, height: top + names.length * ROW + bottom, margin: width - right };
}

/** Draws a row's name, cut in its middle where it is too long, and its value. */
function drawRowTexts(svg, frame, place, name, value, chosen = false) {
  const room = Math.floor((frame.left - 10) / LETTER);
  const half = Math.floor((room - 1) / 2);
  const shown = name.length <= room ? name : `${name.slice(0, half)}…${name.slice(name.length - (room - 1 - half))}`;
  const y = frame.top + place * ROW + 13;
  const text = shape("text", { class: chosen ? "row-name chosen" : "row-name", x: frame.left - 8, y, "text-anchor": "end" }, shown);
  if (shown !== name) text.prepend(shape("title", {}, name));
  svg.append(text, shape("text", { class: "row-value", x: svg.width.baseVal.value - 2, y, "text-anchor": "end" }, value));
}

/** Gives the place of the row at a height, or null. */
function rowAt(frame, y, count) {
  const place = Math.floor((y - frame.top) / ROW);
  return place >= 0 && place < count ? place : null;
}

// Options: rows [{ name, value, text, lines }], head (titles of the table), cells(row).
const BARS = {
  height: ({ rows }) => rows.length * ROW + 10,

  draw(svg, width, { rows }) {
    const frame = rowFrame(width, rows.map((row) => row.name), rows.map((row) => row.text));
    const scale = linearScale(0, Math.max(...rows.map((row) => row.value), 1), frame.left, frame.right);
    rows.forEach((row, place) => {
      const y = frame.top + place * ROW;
      drawRowTexts(svg, frame, place, row.name, row.text);
      svg.append(shape("path", { class: "bar", d: `M${frame.left} ${y + 3}H${Math.max(scale(row.value), frame.left + 1)}v${ROW - 6}H${frame.left}z` }));
    });
    svg.append(shape("path", { class: "base", d: `M${frame.left} ${frame.top}V${frame.bottom}` }));
    return (x, y) => {
      const place = rowAt(frame, y, rows.length);
      return place === null ? null : { rule: "", lines: [element("b", {}, rows[place].name), ...rows[place].lines] };
    };
  },

  legend: () => [],
  label: ({ rows }) => `Bars, one a row. The largest is ${largestOf(rows)}.`,
  table: ({ rows, head, cells }) => ({ head, rows: rows.map((row) => [row.name, ...cells(row)]) }),
};

function largestOf(rows) {
  const largest = rows.reduce((best, row) => (row.value > best.value ? row : best));
  return `${largest.name} with ${largest.text}`;
}

// Options: rows [{ name, before, after }], label (of the axis).
const PAIRS = {
  height: ({ rows }) => rows.length * ROW + 50,

  draw(svg, width, { rows, axis }) {
    const texts = rows.map((row) => `${asNumber(row.before)} → ${asNumber(row.after)}`);
    const frame = rowFrame(width, rows.map((row) => row.name), width < 460 ? [""] : texts);
    const known = rows.flatMap((row) => [row.before, row.after]).filter((value) => value !== null && value > 0);
    const [low, high] = extent([known]) ?? [1e-4, 1];
    const scale = logarithmicScale(low, high, frame.left + 8, frame.right - 12);
    drawHorizontalAxis(svg, frame, scale, { label: axis, format: asNumber, rules: true });
    rows.forEach((row, place) => {
      drawRowTexts(svg, frame, place, row.name, width < 460 ? "" : texts[place]);
      drawPair(svg, scale, row, frame.top + place * ROW + ROW / 2);
    });
    return (x, y) => {
      const place = rowAt(frame, y, rows.length);
      return place === null ? null : { rule: "", lines: [element("b", {}, rows[place].name), texts[place]] };
    };
  },

  legend: () => [
    { text: "before re-estimation (ring)", swatch: pointSwatch("ring colour-1") },
    { text: "after it (disc)", swatch: pointSwatch("dot colour-0") },
  ],

  label({ rows }) {
    const worst = rows.reduce((best, row) => ((row.before ?? 0) > (best.before ?? 0) ? row : best));
    const told = `${worst.name} with ${asNumber(worst.before)} before re-estimation and ${asNumber(worst.after)} after it`;
    return `Two points a layer on a logarithmic axis. The largest divergence is that of ${told}.`;
  },

  table: ({ rows }) => ({
    head: ["layer", "before re-estimation", "after it"],
    rows: rows.map((row) => [row.name, asNumber(row.before), asNumber(row.after)]),
  }),
};

function drawPair(svg, scale, { before, after }, y) {
  if (before !== null && after !== null) svg.append(shape("path", { class: "pair", d: `M${scale(before)} ${y}H${scale(after)}` }));
  if (before !== null) svg.append(shape("circle", { class: "ring colour-1", cx: scale(before), cy: y, r: 4.5 }));
  if (after !== null) svg.append(shape("circle", { class: "dot colour-0", cx: scale(after), cy: y, r: 3.5 }));
}

function pointSwatch(kind) {
  return shape("svg", { width: 14, height: 12, class: "swatch", "aria-hidden": "true" }, shape("circle", { class: kind, cx: 7, cy: 6, r: 4 }));
}
