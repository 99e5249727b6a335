// Figures of whole networks over training: of one run several in a chart, of several runs one figure a chart.

const FIGURES = {
  loss: "training loss, single steps",
  train_loss: "training loss, mean of the epoch",
  val_loss: "validation loss",
  val_loss_before_reestimation: "validation loss before re-estimation",
  accuracy: "training accuracy, single steps",
  train_accuracy: "training accuracy, mean of the epoch",
  val_top1: "validation top-1",
  val_top5: "validation top-5",
  val_top1_before_reestimation: "validation top-1 before re-estimation",
  oscillating: "oscillating share",
  frozen: "frozen share",
};
const SHARES = /accuracy|top\d|oscillating|frozen|^free$/;

/** Names a figure of the record for people. */
function figureName(name) {
  return FIGURES[name] ?? name.replaceAll("_", " ");
}

function verticalOf(name, label) {
  const share = SHARES.test(name);
  return { label: label ?? "", format: share ? asPercent : asNumber, zero: /oscillating|frozen/.test(name), log: /learning_rate/.test(name) };
}

/** The horizontal axis of all charts over time: steps, or epochs where every run knows its steps of an epoch. */
class TimeAxis {
  constructor(runs) {
    this.runs = runs;
    this.epochs = false;
    this.possible = runs.every((run) => run.stepsPerEpoch > 0);
  }

  get label() {
    return this.epochs ? "epoch" : "step";
  }

  at(run, step) {
    return this.epochs ? step / run.stepsPerEpoch : step;
  }

  tell(run, step) {
    return run.stepsPerEpoch > 0 ? `step ${asCount(step)}, epoch ${asNumber(step / run.stepsPerEpoch)}` : `step ${asCount(step)}`;
  }

  /** Gives a series for a chart, of one as the page's data holds it. */
  series(run, axes, one, label, style, more = {}) {
    const steps = axes[one.x];
    return { run, label, style, steps, x: steps.map((step) => this.at(run, step)), y: one.y, low: one.low, high: one.high, ...more };
  }

  /** Gives the options of a horizontal axis. */
  options() {
    return { label: this.label, tell: (one, at) => this.tell(one.run, one.steps[at]) };
  }
}

/** Charts of the training section, and of whole networks in the section on oscillation. */
class Training {
  constructor(data, time) {
    this.runs = data.runs;
    this.groups = data.groups;
    this.time = time;
    const hosts = ["training-charts", "oscillation-charts"].map((id) => document.getElementById(id));
    this.plans = this.runs.length === 1 ? SINGLE : SEVERAL;
    this.charts = this.plans.map((plan) => new Chart(hosts[plan.oscillation ? 1 : 0], LINES, plan.wide));
    this.other = new Chart(hosts[0], LINES);
    this.names = [...new Set(this.runs.flatMap((run) => FAMILIES.flatMap((family) => Object.keys(run[family]).map((name) => `${family}.${name}`))))].sort();
    this.chosen = Math.max(0, this.names.findIndex((name) => name.includes("learning_rate")));
  }

  /** Builds the chooser of any figure that the record has. */
  chooser() {
    const names = this.names.map((name) => `${figureName(name.split(".")[1])} (${name.startsWith("steps") ? "by step" : "by epoch"})`);
    const { node, select } = chooser("Last chart shows", names, (place) => {
      this.chosen = place;
      this.showOther();
    });
    select.value = this.chosen;
    return this.names.length ? node : null;
  }

  show() {
    this.plans.forEach((plan, place) => {
      const series = this.runs.length === 1 ? this.ofOne(plan.figures) : this.ofAll(plan.figures);
      this.charts[place].show(series.length ? this.options(plan.title, series, plan.figures[0], plan.label) : null);
    });
    this.showOther();
  }

  showOther() {
    if (!this.names.length) return;
    const [family, name] = this.names[this.chosen].split(".");
    const series = this.ofAll([name], [family]);
    const title = figureName(name);
    this.other.show(this.options(title[0].toUpperCase() + title.slice(1), series, name));
  }

  options(title, series, name, label) {
    const legendOf = this.runs.length > 1 ? this.legendOf(series) : series.length > 1 ? null : [];
    return { title, series, x: this.time.options(), y: verticalOf(name, label), legendOf };
  }

  /** Several figures of the only run. */
  ofOne(figures) {
    const [run] = this.runs;
    const found = figures.map((name) => [name, FAMILIES.map((family) => run[family][name]).find((one) => one)]);
    return found.flatMap(([name, one], style) => (one ? [this.time.series(run, run.axes, one, figureName(name), style)] : []));
  }

  /** One figure of every run that has it: of the first name and family that a run knows. Runs of a recipe look alike. */
  ofAll(figures, families = FAMILIES) {
    return this.runs.flatMap((run) => {
      const one = figures.flatMap((name) => families.map((family) => run[family][name])).find((each) => each);
      return one ? [this.time.series(run, run.axes, { ...one, low: null, high: null }, run.name, run.group)] : [];
    });
  }

  legendOf(series) {
    const shown = [...new Set(series.map((one) => one.run.group))];
    return shown.map((group) => ({ text: this.groups[group], swatch: lineSwatch(group) }));
  }
}

const FAMILIES = ["epochs", "steps"];

const SINGLE = [
  { title: "Loss", label: "loss", figures: ["loss", "train_loss", "val_loss", "val_loss_before_reestimation"] },
  { title: "Accuracy", label: "accuracy", figures: ["accuracy", "train_accuracy", "val_top1", "val_top1_before_reestimation"] },
  { title: "Oscillating and frozen share of all weights", label: "share of the weights", figures: ["oscillating", "frozen"], oscillation: true, wide: true },
];

const SEVERAL = [
  { title: "Validation top-1 of all runs", figures: ["val_top1"] },
  { title: "Validation loss of all runs", figures: ["val_loss"] },
  { title: "Training loss of all runs", label: "training loss", figures: ["train_loss", "loss"] },
  { title: "Oscillating share of all runs", figures: ["oscillating"], oscillation: true },
  { title: "Frozen share of all runs", figures: ["frozen"], oscillation: true },
];
