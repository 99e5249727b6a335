// What the page shows of the chosen run, by layer; and of the chosen layer, at the chosen time.

class Layers {
  constructor(time) {
    this.time = time;
    const chart = (id, kind, wide) => new Chart(document.getElementById(id), kind, wide);
    this.oscillating = chart("oscillation-charts", HEATMAP, true);
    this.frozen = chart("oscillation-charts", HEATMAP, true);
    this.histogram = chart("weight-charts", HISTOGRAM);
    this.trajectories = chart("weight-charts", TRAJECTORIES);
    this.scale = chart("scale-charts", LINES);
    this.relative = chart("scale-charts", LINES);
    this.inputs = chart("scale-charts", LINES);
    this.activations = chart("scale-charts", LINES);
    this.batchnorms = chart("batchnorm-charts", PAIRS, true);
    this.sizes = chart("size-charts", BARS, true);
    this.totals = chart("size-charts", BARS, true);
    this.controls = document.getElementById("layer-controls");
    this.place = 0;
  }

  /** Shows a run: its entry in the page's data, and its details. */
  show(run, details) {
    const name = this.layer?.name;
    this.run = run;
    this.details = details;
    this.place = Math.max(0, details.layers.findIndex((layer) => layer.name === name));
    if (name === undefined) this.place = mostRestless(details.layers);
    this.buildControls();
    this.batchnorms.show(batchnormOptions(details));
    this.sizes.show(sizeOptions(details));
    this.totals.show(totalOptions(details));
    this.showTimes();
  }

  get layer() {
    return this.details?.layers[this.place];
  }

  /** Shows all that has a time axis, or depends on the chosen layer. */
  showTimes() {
    this.oscillating.show(this.heatmap("oscillating", "Oscillating share by layer"));
    this.frozen.show(this.heatmap("frozen", "Frozen share by layer"));
    this.relative.show(this.relatives("Scales of all weights, relative to their first", this.details.layers, (layer) => layer === this.layer));
    const near = (activation) => activation.name.startsWith(`${this.layer?.name}.`);
    this.activations.show(this.relatives("Scales of all activations, relative to their first", this.details.activations, near));
    this.scale.show(this.scaleOptions());
    this.inputs.show(this.inputOptions(near));
    this.showWeights();
  }

  buildControls() {
    const { layers } = this.details;
    this.controls.hidden = !layers.length;
    if (!layers.length) return;
    const { node, select } = chooser("Layer", layers.map((layer) => layer.name), (place) => this.choose(place));
    this.select = select;
    this.slider = element("input", { type: "range", min: 0, step: 1 });
    this.slider.addEventListener("input", () => this.showHistogram());
    this.when = element("output", {});
    this.player = element("button", { type: "button", class: "play" }, "Play");
    this.player.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    const time = element("label", { class: "control slider" }, element("span", {}, "Time"), this.slider);
    this.windows = element("span", { class: "control" });
    this.controls.replaceChildren(node, time, this.player, this.when, this.windows);
  }

  /** Shows another layer, at the same time where it has one. */
  choose(place) {
    this.place = place;
    this.showTimes();
  }

  showWeights() {
    const { layer } = this;
    this.stop();
    if (layer) this.select.value = this.place;
    const count = layer?.histograms.length ?? 0;
    if (this.slider) {
      const latest = !this.slider.max || this.slider.value === this.slider.max;
      this.slider.max = Math.max(0, count - 1);
      if (latest) this.slider.value = this.slider.max;
      this.slider.disabled = this.player.disabled = count < 2;
    }
    this.highest = count ? Math.max(...layer.histograms.map(({ counts }) => Math.max(...counts) / counts.reduce((sum, each) => sum + each, 0))) : 0;
    this.showHistogram();
    if (!layer) {
      this.trajectories.show(null);
      return;
    }
    this.windows.hidden = !layer.trajectories.length;
    const firsts = [...new Set(layer.trajectories.map((one) => one.first))].sort((one, other) => other - one);
    const change = (place) => this.showTrajectories(firsts[place]);
    this.windows.replaceChildren(chooser("Steps of single weights", firsts.map((first) => `from ${asCount(first)}`), change).node);
    this.showTrajectories(firsts[0]);
  }

  /** Shows one of the stretches of steps through which single weights were followed. */
  showTrajectories(first) {
    const { layer } = this;
    const trajectories = layer.trajectories.filter((one) => one.first === first && one.positions.length > 1).slice(0, 8);
    const title = `Most restless weights of ${layer.name}`;
    const note = "A strip a weight, each with a range of its own round the boundary that it crosses.";
    const tell = (step) => this.time.tell(this.run, step);
    this.trajectories.show(trajectories.length ? { title, note, layer, trajectories, tell } : null);
  }

  showHistogram() {
    const histogram = this.layer?.histograms[Number(this.slider.value)];
    if (!histogram) {
      this.histogram.show(null);
      return;
    }
    const when = this.time.tell(this.run, histogram.step);
    this.slider.setAttribute("aria-valuetext", when);
    this.when.textContent = when;
    const { layer, highest } = this;
    const note = `${layer.quantizer}, ${layer.bits} bits, ${asCount(layer.weights)} weights (${layer.shape.join("×")}), ${asCount(layer.scales)} scale${layer.scales === 1 ? "" : "s"}. The outermost bars hold all that lies beyond.`;
    this.histogram.show({ title: `Latent weights of ${layer.name}`, note, layer, histogram, highest });
  }

  play() {
    if (this.slider.value === this.slider.max) this.slider.value = 0;
    this.player.textContent = "Stop";
    this.timer = setInterval(() => {
      this.slider.value = Number(this.slider.value) + 1;
      this.showHistogram();
      if (this.slider.value === this.slider.max) this.stop();
    }, 250);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    if (this.player) this.player.textContent = "Play";
  }

  heatmap(key, title) {
    const known = this.details.layers.map((layer, place) => ({ layer, place })).filter(({ layer }) => layer[key]);
    if (!known.length || !known.some(({ layer }) => layer[key].y.some((value) => value > 0))) {
      return known.length && key === "oscillating" ? this.emptyHeatmap(title, known, key) : null;
    }
    return this.heatmapOptions(title, known, key);
  }

  /** All zero is a finding, too. */
  emptyHeatmap(title, known, key) {
    return { ...this.heatmapOptions(title, known, key), note: "No weight oscillates in any layer." };
  }

  heatmapOptions(title, known, key) {
    const rows = known.map(({ layer }) => ({ name: layer.name, ...this.time.series(this.run, this.details.axes, layer[key], layer.name, 0) }));
    const chosen = known.findIndex(({ place }) => place === this.place);
    const note = "A row a layer, from the input down; at the right the last value. A click on a row chooses the layer for the charts below.";
    return { title, note, rows, limits: LIMITS[key], x: this.time.options(), chosen, choose: (place) => this.choose(known[place].place) };
  }

  scaleOptions() {
    const { layer } = this;
    if (!layer?.scale) return null;
    const many = layer.scales > 1;
    const band = many ? {} : { low: null, high: null };
    const series = [this.time.series(this.run, this.details.axes, layer.scale, many ? "mean of the scales" : "scale", 0, band)];
    const note = many ? "The band reaches from the smallest to the largest scale of the layer." : "";
    return { title: `Weight scale${many ? "s" : ""} of ${layer.name}`, note, series, x: this.time.options(), y: { label: "scale", format: asNumber } };
  }

  /** The activations that belong to the chosen layer, if there are any. */
  inputOptions(isNear) {
    const known = this.details.activations.filter((each) => each.scale && isNear(each));
    if (!known.length) return null;
    const nameOf = (each) => each.name.slice(this.layer.name.length + 1);
    const series = known.map((each, at) => this.time.series(this.run, this.details.axes, each.scale, nameOf(each), at, { low: null, high: null }));
    return { title: `Activation scales of ${this.layer.name}`, series, x: this.time.options(), y: { label: "scale", format: asNumber } };
  }

  relatives(title, owners, isChosen) {
    const known = owners.filter(({ scale }) => scale && scale.y[0] > 0);
    if (!known.length) return null;
    const series = known.map((owner) => {
      const y = owner.scale.y.map((value) => (value === null ? null : value / owner.scale.y[0]));
      const strong = isChosen(owner);
      return this.time.series(this.run, this.details.axes, { x: owner.scale.x, y }, owner.name, strong ? 0 : 5, { faint: !strong, strong });
    });
    series.sort((one, other) => Number(one.strong) - Number(other.strong));
    const legendOf = [{ text: "chosen layer", swatch: lineSwatch(0) }, { text: "other layers", swatch: faintSwatch() }];
    const y = { label: "scale / first scale", format: asNumber, log: true };
    return { title, series, x: this.time.options(), y, single: true, legendOf: series.some((one) => one.strong) ? legendOf : [] };
  }
}

function faintSwatch() {
  return shape("svg", { width: 28, height: 10, class: "swatch", "aria-hidden": "true" }, shape("path", { d: "M0 5H28", class: "line faint" }));
}

/** Gives the place of the layer with the largest oscillating share at the end. */
function mostRestless(layers) {
  const shares = layers.map((layer) => layer.oscillating?.y.findLast((value) => value !== null) ?? -1);
  return Math.max(0, shares.indexOf(Math.max(...shares)));
}

function batchnormOptions({ batchnorms }) {
  const rows = batchnorms.map(({ layer, before, after }) => ({ name: layer, before, after }));
  return rows.length ? { title: "KL divergence by batch norm", rows, axis: "KL divergence, nats (logarithmic)" } : null;
}

function sizeOptions({ layers }) {
  if (!layers.length) return null;
  const rows = layers.map((layer) => ({
    name: layer.name,
    value: layer.bytes,
    text: `${asBytes(layer.bytes)}, ${layer.bits} bit`,
    lines: [`${asCount(layer.weights)} weights of ${layer.bits} bits: ${asBytes(layer.bytes)}`, `${asBytes(4 * layer.weights)} as float32`],
    cells: [String(layer.bits), asCount(layer.weights), asCount(layer.bytes), asCount(layer.scales)],
  }));
  const head = ["layer", "bits", "weights", "bytes of the codes", "scales"];
  return { title: "Codes by layer", rows, head, cells: (row) => row.cells };
}

function totalOptions({ layers, otherBytes, floatBytes }) {
  if (!floatBytes) return null;
  const codes = layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const total = codes + otherBytes;
  const bar = (name, value, note) => ({ name, value, text: asBytes(value), lines: [note] });
  const rows = [
    bar("float32", floatBytes, "every parameter and buffer in 32 bits"),
    bar("this network", total, `${asPercent(total / floatBytes)} of float32`),
    ...(layers.length ? [bar("its codes", codes, "weights, packed at their width"), bar("all the rest", otherBytes, "scales, biases, norms")] : []),
  ];
  const note = layers.length ? `${asBytes(total)}, ${asNumber(floatBytes / total)} times smaller than float32` : "";
  return { title: "Whole network", note, rows, head: ["part", "bytes"], cells: (row) => [asCount(row.value)] };
}
