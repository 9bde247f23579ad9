// Shows a run on our own page, or as a part of Locust's: the form before it, then the tabs Gates and Sync.

import { h } from "./dom.js";
import { startForm } from "./form.js";
import * as panel from "./panel.js";

const isOwnPage = document.body.classList.contains("storm-page");
const OFTEN_MS = 1000, SELDOM_MS = 3000;
const nothing = { state: "idle", checks: [], durations: [], noticed: [], downloads: [], ended: [], phases: {}, elapsed_s: 0, expected_s: 0 };
let shown = nothing, curve = [], isLost = false, drawnIn = null, saidLast = "", timer;

const place = h("div", { class: "stormgate" });
const parts = Object.fromEntries(["top", "form", "gates", "sync", "files"].map((name) => [name, h("div", { class: `part-${name}` })]));
const buttons = panel.buttons();
place.append(parts.top, buttons.element, parts.form, parts.sync, parts.gates, parts.files);

// --- where we are -----------------------------------------------------------------------------------

// Of Locust's page: `start` while it shows its form, else the tab that is open; "" for those that are not ours.
function view() {
  if (isOwnPage) return "all";
  if (!document.querySelector("main [role=tablist]")) return window.templateArgs?.state === "ready" ? "start" : "";
  const tab = new URLSearchParams(location.search).get("tab");
  return tab === "gates" || tab === "sync" ? tab : "";
}

const SHOWN_IN = {
  top: ["all", "start", "gates", "sync"], form: ["all", "start", "gates"], gates: ["all", "gates"], sync: ["all", "sync"], files: ["all", "gates"],
};

function arrange() {
  const main = document.querySelector("main");
  if (!main) return;
  if (main.lastElementChild !== place) main.append(place);
  const now = (drawnIn = view()), isOn = ["starting", "running", "judging"].includes(shown.state);
  document.body.classList.toggle("storm-start", now === "start");
  for (const [name, views] of Object.entries(SHOWN_IN)) parts[name].hidden = !views.includes(now) || (name === "form" && isOn);
  buttons.element.hidden = !["all", "gates", "sync"].includes(now);
}

// Locust's page has a switch of its own between light and dark, of which our colours, made for the browser's choice, know nothing.
function paint() {
  const isDark = localStorage.theme ? localStorage.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const sheet = [...document.styleSheets].find((each) => each.href?.endsWith("colours.css"));
  const rules = [...(sheet?.cssRules ?? [])];
  const chosen = isDark ? rules.find((rule) => rule.media)?.cssRules[0] : rules[0];
  for (const name of chosen?.style ?? []) place.style.setProperty(name, chosen.style.getPropertyValue(name));
  place.style.colorScheme = isDark ? "dark" : "light";
}

// --- what there is to see ---------------------------------------------------------------------------

function draw() {
  arrange();
  if (!isOwnPage) paint();
  parts.top.replaceChildren(...(isLost ? [lost()] : []), panel.standing(shown), ...elsewhere());
  buttons.update(shown);
  if (!parts.gates.hidden) parts.gates.replaceChildren(panel.gates(shown));
  if (!parts.sync.hidden) parts.sync.replaceChildren(panel.sync(shown, curve));
  if (!parts.files.hidden) parts.files.replaceChildren(panel.downloads(shown));
}

function lost() {
  return h("p", { class: "lost", role: "alert" }, "Locust does not answer any more; this page shows its last state. See its terminal for the reason.");
}

function elsewhere() {
  if (isOwnPage) return [h("p", { class: "note" }, h("a", { href: "./" }, "Locust's own tables and charts"))];
  const page = h("a", { href: "stormgate" }, "Everything on one page");
  const isOn = shown.state === "running" || shown.state === "judged";
  return [h("p", { class: "note" }, view() === "start" && isOn ? [h("a", { href: "?tab=gates" }, "Watch this run"), " · "] : null, page)];
}

async function look() {
  clearTimeout(timer);
  try {
    const after = curve.length ? curve.at(-1).t : "";
    const text = await (await fetch(`stormgate/state?after=${after}`)).text();
    if (text === saidLast && !isLost) return again();  // nothing to draw, so nobody's focus or selection is taken away
    const said = JSON.parse(text);
    saidLast = text;
    if (said.run_id !== shown.run_id && after !== "") {  // another run: its curve from the beginning
      curve = [];
      shown = said;
      return look();
    }
    curve.push(...said.curve);
    shown = said;
    isLost = false;
  } catch {
    isLost = true;
  }
  draw();
  again();
}

function again() {
  timer = setTimeout(look, ["starting", "running", "judging"].includes(shown.state) ? OFTEN_MS : SELDOM_MS);
}

// Locust's page learns that a test goes on only when it is reopened.
async function watchStart() {
  shown = { ...nothing, state: "starting", ended: shown.ended };
  saidLast = "";
  curve = [];
  draw();
  await look();
  while (!isOwnPage && !shown.is_busy && shown.state !== "refused") {
    await new Promise((resolve) => setTimeout(resolve, 200));
    await look();
  }
  if (!isOwnPage && shown.state !== "refused") location.assign("?tab=gates");
}

// Locust's button for a new test would open its own form, which knows neither units nor what a drill has.
function openForm(event) {
  const button = event.target.closest?.("button");
  if (button?.textContent !== "New" || place.contains(button)) return;
  event.stopImmediatePropagation();
  if (view() !== "gates") location.assign("?tab=gates#start");
  else openAsked();
}

function openAsked() {
  form.open = true;
  form.scrollIntoView();
}

if (!isOwnPage) {
  document.addEventListener("click", openForm, { capture: true });
  for (const name of ["colours.css", "page.css"]) document.head.append(h("link", { rel: "stylesheet", href: `stormgate/static/${name}` }));
  // React draws what is above us, and tells nobody of it: another tab, or the page's first.
  const hasMoved = () => view() !== drawnIn || document.querySelector("main")?.lastElementChild !== place;
  new MutationObserver(() => hasMoved() && draw()).observe(document.getElementById("root"), { childList: true, subtree: true });
}
document.addEventListener("visibilitychange", () => document.hidden || look());
const form = await startForm(watchStart);
parts.form.append(form);
await look();
form.open = shown.state === "idle" || view() === "start";
if (location.hash === "#start") openAsked();
