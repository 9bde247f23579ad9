// Charts of a run over time, as SVG in the page's own colours: the run's phases are behind each of them.

import { h, number } from "./dom.js";

const HEIGHT = 170, LEFT = 46, RIGHT = 10, TOP = 22, BOTTOM = 22;
const MIN_S = 30;  // of a run that goes on, so that its first seconds are not stretched over a whole chart

// `of(point, before)` gives a chart's value; null without a value. `worst`: which of many values in one pixel is drawn.
const rate = (key) => (point, before) => (before && point.t > before.t ? (point[key] - before[key]) / (point.t - before.t) : null);
export const CHARTS = [
  { title: "Live clients (minimum per half second)", unit: "clients", of: (point) => point.fewest_live, worst: Math.min, most: (shown) => shown.clients, series: 1, isStep: true,
    empty: "no client has been counted yet" },
  { title: "Connects", unit: "per s", of: rate("connects"), worst: Math.max, series: 2, empty: "no client has connected yet" },
  { title: "Replay lag: largest distance of a client from the head", unit: "events", of: (point) => point.behind_events, worst: Math.max, series: 3,
    empty: "no client has a position yet" },
  { title: "Replay: the slowest way back, bootstrap to caught up", unit: "ms", of: (point) => point.replay_ms, worst: Math.max, series: 4,
    isSparse: true, empty: "no client has replayed yet" },
  { title: "Events delivered to clients", unit: "per s", of: rate("applied"), worst: Math.max, series: 1, empty: "no deliveries yet" },
  { title: "Delivery: the slowest, due to applied", unit: "ms", of: (point) => point.delivery_ms, worst: Math.max, series: 2,
    empty: "no deliveries yet" },
];

export function charts(curve, shown) {
  return h("div", { class: "charts" }, CHARTS.map((kind) => figure(kind, curve, shown)));
}

function figure(kind, curve, shown) {
  const points = curve.map((point, at) => [point.t, kind.of(point, curve[at - 1])]).filter(([, y]) => y !== null && y !== undefined);
  const last = points.at(-1);
  const most = points.reduce((so_far, [, y]) => Math.max(so_far, y), 0);
  const says = last ? `${shown.state === "running" ? "now" : "last"} ${number(last[1])} ${kind.unit}, at most ${number(most)}` : "";
  return h("figure", {}, h("figcaption", {}, h("b", {}, kind.title), h("span", {}, says)),
    last ? drawn(kind, points, Math.max(most, kind.most ? kind.most(shown) : 0) || 1, shown, says)
      : h("p", { class: "empty" }, shown.state === "idle" ? "Nothing yet: start a run." : `Nothing yet: ${kind.empty}.`));
}

function drawn(kind, points, top, shown, says) {
  const width = Math.max(280, Math.min(520, (document.documentElement.clientWidth || 560) - 64));
  const until = Math.max(shown.elapsed_s, points.at(-1)[0], Math.min(shown.state === "running" ? shown.expected_s : 0, MIN_S), 1);
  const x = (t) => LEFT + (t / until) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / (top * 1.05)) * (HEIGHT - TOP - BOTTOM);
  const svg = h("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${kind.title}, ${kind.unit}: ${says}` },
    phases(shown, x, until), grid(kind, top, y, width, until, x),
    kind.most ? h("line", { class: "limit", x1: LEFT, x2: width - RIGHT, y1: y(kind.most(shown)), y2: y(kind.most(shown)) }) : null,
    curveOf(kind, thinned(points, kind.worst, until / width), x, y));
  read(svg, kind, points, width, x, y);
  return svg;
}

// Under the pointer, the value of the nearest moment.
function read(svg, kind, points, width, x, y) {
  const line = h("line", { class: "limit", y1: TOP, y2: HEIGHT - BOTTOM }), dot = h("circle", { r: 3 }), text = h("text", { y: TOP + 10, class: "reading" });
  const reading = h("g", { visibility: "hidden" }, line, dot, text);
  svg.append(reading);
  svg.addEventListener("pointerleave", () => reading.setAttribute("visibility", "hidden"));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    const [t, value] = points.reduce((best, point) => (Math.abs(x(point[0]) - at) < Math.abs(x(best[0]) - at) ? point : best));
    for (const name of ["x1", "x2"]) line.setAttribute(name, x(t));
    dot.setAttribute("cx", x(t));
    dot.setAttribute("cy", y(value));
    text.setAttribute("x", x(t) + (x(t) > width / 2 ? -6 : 6));
    text.setAttribute("text-anchor", x(t) > width / 2 ? "end" : "start");
    text.textContent = `${number(value)} ${kind.unit} at ${t.toFixed(1)} s`;
    reading.removeAttribute("visibility");
  });
}

function phases(shown, x, until) {
  const begun = Object.entries(shown.phases).filter(([name]) => name !== "end");
  return begun.flatMap(([name, t], at) => {
    const end = begun[at + 1] ? begun[at + 1][1] : shown.phases.end ?? shown.elapsed_s;
    const room = at === begun.length - 1 ? x(until) - x(t) : x(end) - x(t);
    return [h("rect", { class: `phase ${name}`, x: x(t), y: TOP, width: Math.max(0, x(end) - x(t)), height: HEIGHT - TOP - BOTTOM }),
      h("line", { class: "edge", x1: x(t), x2: x(t), y1: TOP - 4, y2: HEIGHT - BOTTOM }),
      room > name.length * 6.5 ? h("text", { x: x(t) + 3, y: TOP - 7 }, name) : null];
  });
}

function grid(kind, top, y, width, until, x) {
  const step = niceStep(top / 3), along = niceStep(until / 5);
  const out = [];
  for (let value = 0; value <= top * 1.05; value += step) {
    out.push(h("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      h("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  for (let t = 0; t <= until; t += along) {
    out.push(h("text", { x: x(t), y: HEIGHT - 6, "text-anchor": t ? "middle" : "start" }, t ? number(t) : "0 s"));
  }
  out.push(h("text", { x: 2, y: TOP - 7 }, kind.unit));
  return out;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

function thinned(points, worst, perPixel) {
  const kept = [];
  for (const [t, value] of points) {
    const last = kept.at(-1);
    if (last && Math.floor(last[0] / perPixel) === Math.floor(t / perPixel)) last[1] = worst(last[1], value);
    else kept.push([t, value]);
  }
  return kept;
}

function curveOf(kind, points, x, y) {
  const at = ([t, value]) => [x(t).toFixed(1), y(value).toFixed(1)];
  if (kind.isSparse || points.length === 1) {  // between two of them nothing is known
    return h("g", { class: `series series-${kind.series}` }, points.map(at).map(([cx, cy]) =>
      [h("line", { x1: cx, x2: cx, y1: y(0), y2: cy }), h("circle", { cx, cy, r: 2.5 })]));
  }
  const to = ([px, py]) => (kind.isStep ? `H${px}V${py}` : `L${px} ${py}`);
  const [first, ...others] = points.map(at);
  return h("g", { class: `series series-${kind.series}` }, h("path", { d: `M${first.join(" ")}${others.map(to).join("")}` }));
}
