// The frame of every chart: title, legend, picture with a text alternative, what the pointer is on, and the data as a table.
//
// A kind of chart is an object of functions of its options:
//   height(options, width)              pixels
//   draw(svg, width, options)           draws; gives a function (x, y) -> null or { rule, lines } for the pointer
//   legend(options)                     [{ text, swatch }]
//   label(options)                      what a reader who does not see the picture is told
//   table(options)                      { head, rows }

const DASHES = [null, "7 3", "2 3", "9 3 2 3", "14 4", "5 2 1 2 1 2"];
const COLOURS = 6;

class Chart {
  constructor(host, kind, wide = false) {
    this.kind = kind;
    this.title = element("h3");
    this.note = element("p", { class: "note", hidden: true });
    this.legend = element("ul", { class: "legend" });
    this.svg = shape("svg", { role: "img" });
    this.tip = element("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.plot = element("div", { class: "plot" }, this.svg, this.tip);
    this.data = element("details", { class: "data" }, element("summary", {}, "Data"));
    this.figure = element("figure", { class: wide ? "chart wide" : "chart" }, this.title, this.note, this.legend, this.plot, this.data);
    this.data.addEventListener("toggle", () => this.fillTable());
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    host.append(this.figure);
    Chart.observer.observe(this.plot);
    Chart.of.set(this.plot, this);
  }

  /** Shows new options: `title`, `note`, and what the kind of chart takes. No options hide the chart. */
  show(options) {
    this.options = options;
    this.figure.hidden = !options;
    if (!options) return;
    this.title.textContent = options.title;
    this.note.textContent = options.note ?? "";
    this.note.hidden = !options.note;
    const entries = this.kind.legend(options);
    this.legend.replaceChildren(...entries.map(({ text, swatch }) => element("li", {}, swatch, text)));
    this.legend.hidden = entries.length === 0;
    this.svg.setAttribute("aria-label", `${options.title}. ${this.kind.label(options)} The numbers stand in the table below.`);
    this.data.firstChild.textContent = `Data: ${options.title}`;
    this.fillTable();
    this.draw();
  }

  /** Draws at the width that the observer has told: to ask for it here would lay the page out once a chart. */
  draw() {
    const { width } = this;
    if (!width || !this.options) return;
    const height = this.kind.height(this.options, width);
    this.svg.replaceChildren();
    filled(this.svg, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    this.near = this.kind.draw(this.svg, width, this.options);
    this.rule = shape("path", { class: "rule" });
    this.svg.append(this.rule);
  }

  /** The table is made when it is opened: most never are. */
  fillTable() {
    while (this.data.childNodes.length > 1) this.data.lastChild.remove();
    if (!this.data.open || !this.options) return;
    const { head, rows } = this.kind.table(this.options);
    this.data.append(dataTable(this.options.title, head, rows));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    const found = this.near?.(x, event.clientY - box.top);
    if (!found) {
      this.leave();
      return;
    }
    this.rule.setAttribute("d", found.rule);
    this.tip.replaceChildren(...found.lines.map((line) => element("div", {}, ...(Array.isArray(line) ? line : [line]))));
    this.tip.hidden = false;
    this.tip.style.left = "0"; // its width is measured where it has all the room
    const left = x > this.width / 2 ? x - this.tip.offsetWidth - 14 : x + 14;
    this.tip.style.left = `${Math.max(0, Math.min(left, this.width - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${Math.max(0, event.clientY - box.top - this.tip.offsetHeight / 2)}px`;
  }

  leave() {
    this.tip.hidden = true;
    this.rule?.setAttribute("d", "");
  }
}

Chart.of = new Map();
Chart.observer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const chart = Chart.of.get(target);
    const width = Math.floor(contentRect.width);
    if (width === chart.width) continue;
    chart.width = width;
    chart.draw();
  }
});

/** The sample of a line in a legend: colour and dashes. */
function lineSwatch(style) {
  const line = shape("path", { d: "M0 5H28", class: `line colour-${style % COLOURS}`, "stroke-dasharray": dashOf(style) });
  return shape("svg", { width: 28, height: 10, class: "swatch", "aria-hidden": "true" }, line);
}

/** Dashes differ wherever colours do, and again where colours begin anew. */
function dashOf(style) {
  return DASHES[(style + Math.floor(style / COLOURS)) % DASHES.length];
}
