// Making elements. Text only ever goes in as text, so nothing that a run or a file says can become markup.

const SVG = new Set(["svg", "path", "line", "rect", "text", "circle", "g"]);

export function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Columns: [title, is it a number?, how a row's cell is made].
export function table(label, columns, rows) {
  const head = columns.map(([title, isNumber]) => h("th", { scope: "col", class: isNumber ? "number" : null }, title));
  const cells = (row) =>
    columns.map(([title, isNumber, cell]) => h("td", { class: isNumber ? "number" : null, "data-label": title }, cell(row)));
  return h("div", { class: "wide" },
    h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))))));
}

export function number(value) {
  if (value === null || value === undefined) return "-";
  if (Math.abs(value) >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

export function seconds(value) {
  const whole = Math.max(0, Math.round(value));
  return whole < 120 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
