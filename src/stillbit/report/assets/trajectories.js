// The paths of a layer's most restless weights, one strip a weight: each goes back and forth by little, round a boundary of its own.
//
// Options: layer, trajectories.

const STRIP = 74;

const TRAJECTORIES = {
  height: ({ trajectories }) => trajectories.length * STRIP + 46,

  draw(svg, width, { layer, trajectories, tell }) {
    const frame = { left: 58, right: width - 10, top: 4, bottom: trajectories.length * STRIP + 4 };
    const first = Math.min(...trajectories.map((one) => one.first));
    const last = Math.max(...trajectories.map((one) => one.first + one.positions.length - 1));
    const xScale = linearScale(first, last, frame.left, frame.right);
    drawHorizontalAxis(svg, frame, xScale, { label: "step", format: asCount });
    const scales = trajectories.map((one, place) => drawStrip(svg, frame, layer, one, place, xScale));
    return (x, y) => pointedPosition(trajectories, scales, frame, xScale, tell, x, y);
  },

  legend: () => [
    { text: "weight", swatch: lineSwatch(0) },
    { text: "code of the grid", swatch: ruleSwatch("code-line") },
    { text: "boundary of rounding", swatch: ruleSwatch("boundary") },
  ],

  label({ layer, trajectories }) {
    const told = trajectories.slice(0, 5).map((one) => `weight ${one.index} changes its code ${changesOf(layer, one)} times in ${one.positions.length} steps`);
    return `${told.join("; ")}.`;
  },

  table: ({ layer, trajectories }) => ({
    head: ["weight", "frequency", "steps", "changes of its code", "smallest position", "largest position"],
    rows: trajectories.map((one) => {
      const [low, high] = extent([one.positions]) ?? [null, null];
      const steps = `${asCount(one.first)} to ${asCount(one.first + one.positions.length - 1)}`;
      return [String(one.index), asNumber(one.frequency), steps, asCount(changesOf(layer, one)), asNumber(low), asNumber(high)];
    }),
  }),
};

/** Counts how often a weight's code differs from that of the step before. */
function changesOf(layer, { positions }) {
  const codes = positions.map((position) => (position === null ? null : Math.min(layer.high, Math.max(layer.low, Math.round(position)))));
  return codes.slice(1).filter((code, at) => code !== codes[at]).length;
}

function drawStrip(svg, frame, layer, one, place, xScale) {
  const top = frame.top + place * STRIP;
  const [low, high] = reach(extent([one.positions]) ?? [0, 0], layer);
  const scale = linearScale(low, high, top + STRIP - 10, top + 18);
  const inside = (position) => position >= low && position <= high;
  const { codes, boundaries } = gridOf(layer);
  for (const [kind, marks] of [["code-line", codes], ["boundary", boundaries]]) {
    for (const mark of marks.filter(inside)) {
      svg.append(shape("path", { class: kind, d: `M${frame.left} ${scale(mark)}H${frame.right}` }));
      svg.append(shape("text", { class: "tick", x: frame.left - 6, y: scale(mark) + 4, "text-anchor": "end" }, String(mark)));
    }
  }
  const points = one.positions.map((position, at) => (position === null ? null : [xScale(one.first + at), scale(position)]));
  svg.append(shape("path", { class: "line thin colour-0", d: linePath(points) }));
  const title = `weight ${one.index}, frequency ${asNumber(one.frequency)}`;
  svg.append(shape("text", { class: "strip-title", x: frame.left, y: top + 12 }, title));
  return scale;
}

/** Widens a range of positions so that the nearest boundary is in it, with some room round both. */
function reach([low, high], layer) {
  const nearest = Math.floor((low + high) / 2) + 0.5;
  const boundary = Math.min(layer.high - 0.5, Math.max(layer.low + 0.5, nearest));
  const [from, to] = [Math.min(low, boundary), Math.max(high, boundary)];
  const room = Math.max(0.08 * (to - from), 0.002);
  return [from - room, to + room];
}

function pointedPosition(trajectories, scales, frame, xScale, tell, x, y) {
  const place = Math.floor((y - frame.top) / STRIP);
  const one = trajectories[place];
  if (!one || x < frame.left) return null;
  const span = one.positions.length - 1 || 1;
  const start = xScale(one.first);
  const at = Math.round(((x - start) / (xScale(one.first + span) - start)) * span);
  if (!(at >= 0 && at < one.positions.length)) return null;
  const top = frame.top + place * STRIP;
  return {
    rule: `M${xScale(one.first + at)} ${top + 16}v${STRIP - 20}`,
    lines: [element("b", {}, `weight ${one.index}`), tell(one.first + at), `position ${asNumber(one.positions[at])}`],
  };
}
