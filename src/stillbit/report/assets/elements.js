"use strict";

// Elements, and numbers as people read them. Texts from a record only ever become text nodes or attributes.

const SVG = "http://www.w3.org/2000/svg";
const COUNT = new Intl.NumberFormat("en");

/** Builds an HTML element; strings among the children become text. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Builds an SVG element. */
function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Writes a number with three or four digits. */
function asNumber(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  return size >= 1e4 ? asCount(value) : String(Number(value.toPrecision(4)));
}

/** Writes a share of 1 as percent. */
function asPercent(value) {
  return value === null || value === undefined ? "-" : `${Number((100 * value).toPrecision(3))} %`;
}

/** Writes a whole number with its thousands apart. */
function asCount(value) {
  return COUNT.format(Math.round(value));
}

/** Writes a number for an axis, where room is scarce: 1,500,000 becomes 1.5M. */
function asShort(value) {
  const [divisor, letter] = Math.abs(value) >= 1e6 ? [1e6, "M"] : Math.abs(value) >= 1e4 ? [1e3, "k"] : [1, ""];
  return Number((value / divisor).toPrecision(7)) + letter;
}

/** Writes bytes in powers of 1024. */
function asBytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${place ? value.toFixed(1) : value} ${units[place]}`;
}

/** Builds a labelled chooser; `change` is told the chosen place. */
function chooser(label, options, change) {
  const select = element("select", {}, ...options.map((option, place) => element("option", { value: place }, option)));
  select.addEventListener("change", () => change(Number(select.value)));
  return { node: element("label", { class: "control" }, element("span", {}, label), select), select };
}

/** Builds a data table; the first cell of a row is its head. */
function dataTable(caption, head, rows) {
  const header = element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((text) => element("td", {}, text))),
  );
  const table = element("table", {}, element("caption", {}, caption), element("thead", {}, header), element("tbody", {}, ...body));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Data: ${caption}` }, table);
}
