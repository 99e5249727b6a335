// Layers by time: the share of a layer's weights as one of eight shades, with fixed limits so that runs can be compared.
//
// Options: rows [{ name, steps, x, y }], limits (ascending, the first 0), x { label, tell }, chosen (a place), choose(place).

const LIMITS = {
  oscillating: [0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
  frozen: [0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8],
};

const HEATMAP = {
  height: ({ rows }) => rows.length * ROW + 50,

  draw(svg, width, options) {
    const { rows, limits, x: horizontal, chosen, choose } = options;
    const finals = rows.map((row) => asPercent(row.y.at(-1)));
    const frame = rowFrame(width, rows.map((row) => row.name), finals);
    const [first, last] = extent(rows.map((row) => row.x)) ?? [0, 1];
    const scale = linearScale(Math.min(0, first), last, frame.left, frame.right - 8);
    const paths = [...limits, null].map(() => []);
    rows.forEach((row, place) => {
      drawRowTexts(svg, frame, place, row.name, finals[place], place === chosen);
      addCells(paths, row, limits, scale, frame, frame.top + place * ROW + 1);
    });
    paths.forEach((cells, level) => {
      if (cells.length) svg.append(shape("path", { class: `heat heat-${level}`, d: cells.join("") }));
    });
    drawHorizontalAxis(svg, { ...frame, right: frame.right - 8, margin: 8 }, scale, { label: horizontal.label, format: asShort });
    svg.onclick = (event) => {
      const place = rowAt(frame, event.clientY - svg.getBoundingClientRect().top, rows.length);
      if (place !== null) choose(place);
    };
    return (x, y) => pointedCell(options, frame, scale, x, y);
  },

  legend: ({ limits }) =>
    [...limits, null].map((limit, level) => ({
      text: level === 0 ? "0" : limit === null ? `over ${asPercent(limits.at(-1))}` : `to ${asPercent(limit)}`,
      swatch: shape("svg", { width: 18, height: 12, class: "swatch", "aria-hidden": "true" }, shape("rect", { class: `heat heat-${level}`, width: 18, height: 12 })),
    })),

  label({ rows }) {
    const last = (row) => row.y.findLast((value) => value !== null) ?? 0;
    const top = [...rows].sort((one, other) => last(other) - last(one)).slice(0, 3);
    return `Heat map of ${rows.length} layers over training. At the end the largest shares are ${top.map((row) => `${row.name} ${asPercent(last(row))}`).join(", ")}.`;
  },

  table({ rows }) {
    const steps = [...new Set(rows.flatMap((row) => row.steps))].sort((one, other) => one - other);
    const every = Math.ceil(steps.length / 24); // a table that can be read; the last step is always in it
    const kept = steps.filter((_, at) => (steps.length - 1 - at) % every === 0);
    const cell = (row, step) => (row.steps.includes(step) ? asPercent(row.y[row.steps.indexOf(step)]) : "");
    return { head: ["layer", ...kept.map((step) => `step ${asCount(step)}`)], rows: rows.map((row) => [row.name, ...kept.map((step) => cell(row, step))]) };
  },
};

/** Adds a row's cells to the paths of their shades; a cell reaches from the time before to its own. */
function addCells(paths, row, limits, scale, frame, y) {
  let end = frame.left;
  row.x.forEach((value, at) => {
    const start = end;
    end = Math.max(scale(value), start);
    if (row.y[at] === null) return;
    paths[levelOf(row.y[at], limits)].push(`M${start.toFixed(1)} ${y}H${(end + 0.3).toFixed(1)}v${ROW - 2}H${start.toFixed(1)}z`);
  });
}

/** Gives the shade of a share: 0 for none, then one more for each limit that it exceeds. */
function levelOf(value, limits) {
  return value <= 0 ? 0 : 1 + limits.slice(1).filter((limit) => value > limit).length;
}

function pointedCell({ rows, x: horizontal }, frame, scale, x, y) {
  const place = rowAt(frame, y, rows.length);
  if (place === null || x < frame.left) return null;
  const row = rows[place];
  const found = row.x.findIndex((value) => scale(value) >= x);
  const at = found < 0 ? row.x.length - 1 : found;
  return { rule: "", lines: [element("b", {}, row.name), `${horizontal.tell(row, at)}: ${asPercent(row.y[at])}`] };
}
