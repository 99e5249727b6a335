// How a layer's weights lie on its grid at one time.

/** Gives where codes and the boundaries between them stand, as positions. */
function gridOf(layer) {
  const codes = Array.from({ length: layer.high - layer.low + 1 }, (_, place) => layer.low + place);
  return { codes, boundaries: codes.slice(1).map((code) => code - 0.5) };
}

// Options: layer, histogram, highest (share that the axis reaches at all times).
const HISTOGRAM = {
  height: (options, width) => (width < 460 ? 250 : 290),

  draw(svg, width, { layer, histogram, highest }) {
    const { codes, boundaries } = gridOf(layer);
    const frame = { top: 24, right: width - 10, bottom: HISTOGRAM.height({}, width) - 42 };
    const yScale = linearScale(0, Math.sqrt(highest) * 1.03 || 1, frame.bottom, frame.top);
    const shares = roundTicks(0, highest, 4).concat(highest > 0.1 ? [0.01] : []);
    frame.left = axisWidth(shares, asPercent);
    const end = histogram.start + histogram.width * histogram.counts.length;
    const xScale = linearScale(Math.min(histogram.start, layer.low - 0.6), Math.max(end, layer.high + 0.6), frame.left, frame.right);
    for (const share of shares) {
      const y = yScale(Math.sqrt(share));
      svg.append(shape("path", { class: "grid-line", d: `M${frame.left} ${y}H${frame.right}` }));
      svg.append(shape("text", { class: "tick", x: frame.left - 6, y: y + 4, "text-anchor": "end" }, asPercent(share)));
    }
    svg.append(shape("text", { class: "axis", x: 0, y: 12 }, "share of the weights (square-root axis)"));
    for (const code of codes) svg.append(shape("path", { class: "code-line", d: `M${xScale(code)} ${frame.top}V${frame.bottom}` }));
    for (const each of boundaries) svg.append(shape("path", { class: "boundary", d: `M${xScale(each)} ${frame.top}V${frame.bottom}` }));
    svg.append(shape("path", { class: "bar", d: barsPath(histogram, xScale, yScale, frame.bottom) }));
    drawCodes(svg, frame, xScale, codes);
    return (x) => pointedBin(histogram, layer, frame, xScale, x);
  },

  legend: () => [
    { text: "codes of the grid", swatch: ruleSwatch("code-line") },
    { text: "boundaries of rounding", swatch: ruleSwatch("boundary") },
  ],

  label({ layer, histogram }) {
    const shares = byCode(layer, histogram);
    const largest = shares.reduce((best, each) => (each.share > best.share ? each : best));
    return `Histogram of ${asCount(layer.weights)} latent weights at step ${asCount(histogram.step)}. Most round to code ${largest.code}: ${asPercent(largest.share)}.`;
  },

  table: ({ layer, histogram }) => ({
    head: ["code", "share of the weights nearest to it", "of these, within 0.1 of a boundary"],
    rows: byCode(layer, histogram).map((each) => [String(each.code), asPercent(each.share), asPercent(each.near)]),
  }),
};

function drawCodes(svg, frame, xScale, codes) {
  svg.append(shape("path", { class: "base", d: `M${frame.left} ${frame.bottom}H${frame.right}` }));
  const every = Math.ceil((codes.length * 26) / (frame.right - frame.left));
  codes.forEach((code) => {
    if (code % every === 0) svg.append(shape("text", { class: "tick", x: xScale(code), y: frame.bottom + 17, "text-anchor": "middle" }, String(code)));
  });
  svg.append(shape("text", { class: "axis", x: frame.right, y: frame.bottom + 34, "text-anchor": "end" }, "position, in grid steps"));
}

function barsPath({ start, width, counts }, xScale, yScale, bottom) {
  const total = counts.reduce((sum, count) => sum + count, 0) || 1;
  const bars = counts.map((count, place) => {
    if (!count) return "";
    const [left, right] = [xScale(start + place * width), xScale(start + (place + 1) * width)];
    return `M${left.toFixed(2)} ${bottom}V${yScale(Math.sqrt(count / total)).toFixed(1)}H${right.toFixed(2)}V${bottom}z`;
  });
  return bars.join("");
}

function pointedBin({ start, width, counts }, layer, frame, xScale, x) {
  const place = counts.findIndex((_, at) => xScale(start + at * width) <= x && x < xScale(start + (at + 1) * width));
  if (place < 0) return null;
  const [from, to] = [start + place * width, start + (place + 1) * width];
  const total = counts.reduce((sum, count) => sum + count, 0) || 1;
  const lines = [`position ${from.toFixed(2)} to ${to.toFixed(2)}`, `${asCount(counts[place])} weights, ${asPercent(counts[place] / total)}`];
  return { rule: `M${x} ${frame.top}V${frame.bottom}`, lines };
}

/** Sums a histogram by code; a bin in whose middle a boundary stands counts half for either side. */
function byCode(layer, { start, width, counts }) {
  const found = gridOf(layer).codes.map((code) => ({ code, share: 0, near: 0 }));
  const total = counts.reduce((sum, count) => sum + count, 0) || 1;
  const sumOf = (position) => found[Math.min(layer.high, Math.max(layer.low, Math.round(position))) - layer.low];
  counts.forEach((count, place) => {
    const middle = start + (place + 0.5) * width;
    const boundary = Math.floor(middle + 1e-6) + 0.5;
    const near = boundary > layer.low && boundary < layer.high && Math.abs(middle - boundary) < 0.1 + 1e-6;
    for (const sum of [sumOf(middle - 1e-4), sumOf(middle + 1e-4)]) {
      sum.share += count / total / 2;
      if (near) sum.near += count / total / 2;
    }
  });
  return found;
}

function ruleSwatch(kind) {
  return shape("svg", { width: 14, height: 12, class: "swatch", "aria-hidden": "true" }, shape("path", { class: kind, d: "M7 0V12" }));
}
