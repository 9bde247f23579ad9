// The view of a run: its state, buttons, gates, the sync service, and downloads.

import { charts } from "./charts.js";
import { h, number, seconds, table } from "./dom.js";

const PHASES = [["steady", "nothing is broken yet"], ["fault", "faults are active"], ["recovery", "every fault is reverted"],
  ["settle", "every client must catch up"], ["end", "verdict"]];
const MARKS = { pass: "✓", fail: "✗", error: "!", inconclusive: "?", no_data: "?", not_run: "?", pending: "…", looks_good: "✓", looks_bad: "✗" };

function state(name) {
  return h("span", { class: `state ${name}` }, `${MARKS[name] ?? ""} ${name.replaceAll("_", " ")}`);
}

// --- state -----------------------------------------------------------------------------------------

export function standing(shown) {
  const [kind, headline, more] = said(shown);
  return h("header", { class: kind, "data-state": shown.state }, h("h1", {}, headline), more.map((sentence) => h("p", {}, sentence)), steps(shown));
}

function said(shown) {
  const run = `${shown.drill}: ${number(shown.clients)} clients, policy ${shown.policy}, ${shown.target}, seed ${shown.seed}`;
  const saved = `Saved in ${shown.folder}`, ramp = shown.capacity_ramp ? [`Capacity ramp: ${shown.capacity_ramp}.`] : [];
  switch (shown.state) {
    case "idle": return ["calm", "No run yet", ["Choose a drill below, or leave everything as it is, and press Start."]];
    case "starting": return ["calm", "Starting …", ["The service is started and the clients are created."]];
    case "running": return ["calm", `Running: ${shown.live} of ${number(shown.clients)} clients live`,
      [run, `${seconds(shown.elapsed_s)} of about ${seconds(shown.expected_s)}. Checks are pending until the run is over.`, ...ramp]];
    case "judging": return ["calm", "Judging …", [run, "Invariants and checks are evaluated from the recorded observations."]];
    case "judged": return [shown.verdict.kind, shown.verdict.headline, [run, saved, ...ramp]];
    default: return ["no_go", "No run, no verdict", [shown.refusal || "The reason is unknown; see the tab Logs.", ...(shown.folder ? [saved] : [])]];
  }
}

function steps(shown) {
  if (shown.state !== "running" && shown.state !== "judging") return null;
  const now = PHASES.findIndex(([name]) => name === shown.phase);
  return h("ol", { class: "steps", "aria-label": "Phases of the run" }, PHASES.map(([name, what], at) =>
    h("li", { class: at < now ? "past" : at === now ? "now" : "", "aria-current": at === now ? "step" : null },
      h("b", {}, name === "end" ? "verdict" : name), name === "end" ? "" : ` ${what}`)));
}

// --- buttons ----------------------------------------------------------------------------------------

// They stay; `update` only says which of them can do something now. Pressed all the same, they say why not.
export function buttons() {
  const answer = h("p", { class: "answer", role: "status" });
  const ask = async (path) => {
    answer.textContent = "…";
    try {
      const response = await fetch(path, { method: "POST" });
      const text = await response.text();
      answer.textContent = path === "stop" ? "Stopped: the observations are judged as an interrupted run." : text;
    } catch {
      answer.textContent = "Not done: Locust does not answer.";
    }
  };
  const storm = h("button", { type: "button", class: "storm", onclick: () => ask("stormgate/storm") }, "Storm now");
  const revert = h("button", { type: "button", onclick: () => ask("stormgate/revert") }, "Revert");
  const stop = h("button", { type: "button", onclick: () => (stop.title ? (answer.textContent = `Not done: ${stop.title}`) : ask("stop")) }, "Stop the run");
  const update = (shown) => {
    const isOn = shown.state === "running";
    for (const [button, why] of [[storm, shown.no_storm], [revert, shown.no_revert], [stop, isOn ? "" : "no run is active; start one first."]]) {
      button.classList.toggle("idle", Boolean(why) || !isOn);
      button.title = why || (button === storm ? "Inject the drill's next fault now" : "");
    }
  };
  return { element: h("div", { class: "buttons" }, storm, revert, stop, answer), update };
}

// --- the gates --------------------------------------------------------------------------------------

export function gates(shown) {
  if (!shown.checks.length) return h("section", {}, h("h2", {}, "Gates"), h("p", { class: "empty" }, "No checks yet: start a run."));
  return h("section", {}, h("h2", {}, "Gates"), tally(shown), verdict(shown), h("p", { class: "note" }, shown.question),
    table("Checks", [
      ["Check", false, (row) => [h("b", {}, row.name), h("span", { class: "description" }, row.description)]],
      ["State", false, (row) => state(row.state)],
      ["Value", true, (row) => row.value || "-"],
      ["n", true, (row) => number(row.n)],
      ["Threshold", true, (row) => row.limit || "-"],
      ["Why", false, (row) => row.reason || "-"],
    ], shown.checks));
}

function tally(shown) {
  const counts = new Map();
  for (const check of shown.checks) counts.set(check.state, (counts.get(check.state) ?? 0) + 1);
  return h("p", { class: "tally" }, [...counts].map(([name, count]) => [h("b", {}, String(count)), " ", state(name), " "]));
}

function verdict(shown) {
  if (!shown.verdict) return null;
  const { broken, reasons, remarks } = shown.verdict;
  return h("div", {},
    reasons.length ? [h("h3", {}, "Why"), h("ol", {}, reasons.map((reason) => h("li", {}, reason)))] : null,
    broken.length ? table("Violated invariants", [
      ["Invariant", false, (row) => h("b", {}, row.invariant)], ["Times", true, (row) => number(row.count)],
      ["First", false, (row) => row.first], ["Users saw", false, (row) => row.users_saw]], broken) : null,
    remarks.map((remark) => h("p", { class: "note" }, remark)));
}

// --- the service ------------------------------------------------------------------------------------

export function sync(shown, curve) {
  const point = curve.at(-1), before = curve.at(-3);
  const connects = point && before ? (point.connects - before.connects) / (point.t - before.t) : null;
  const isOn = shown.state === "running";
  return h("section", {}, h("h2", {}, "Sync service"),
    h("dl", {}, [
      ["Live clients", isOn ? `${number(shown.live)} of ${number(shown.clients)}` : "-"],
      ["Connects", isOn && connects !== null ? `${number(connects)} per s` : "-"],
      ["Replay lag, furthest client", isOn && point ? `${number(point.behind_events)} events` : "-"],
      ["Violations", violations(shown)],
    ].map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))),
    charts(curve, shown), times(shown), noticed(shown));
}

function violations(shown) {
  if (!shown.verdict) return shown.state === "running" || shown.state === "judging" ? "known at the end" : "-";
  const count = shown.verdict.broken.reduce((sum, each) => sum + each.count, 0);
  if (!count && shown.verdict.is_cut_short) return "unknown: the run was cut short";
  return count ? `${number(count)}, of ${shown.verdict.broken.map((each) => each.invariant).join(", ")}` : "none";
}

function times(shown) {
  const ms = (value) => (value === null ? "-" : `${number(value)} ms`);
  return shown.durations.length ? [h("h3", {}, "Durations so far"), table("Times", [
    ["What", false, (row) => row.name], ["n", true, (row) => number(row.n)], ["Median", true, (row) => ms(row.p50)],
    ["95 %", true, (row) => ms(row.p95)], ["99 %", true, (row) => ms(row.p99)]], shown.durations)] : null;
}

function noticed(shown) {
  const seen = shown.noticed.filter((each) => each.count);
  if (!shown.noticed.length) return null;
  return [h("h3", {}, "What clients noticed"), seen.length
    ? table("What clients noticed", [["What", false, (row) => row.what], ["Times", true, (row) => number(row.count)]], seen)
    : h("p", { class: "empty" }, "Nothing unusual: no gaps, no duplicates, no stale cursors, no failed publishes.")];
}

// --- downloads --------------------------------------------------------------------------------------

const WORDS = { "SUMMARY.md": "report, for people", "summary.json": "report, for programs", "gate-results.jsonl": "one line per check",
  "observations.parquet": "all observations", "run.json": "the run's header", "figure.png": "the run as a figure" };

export function downloads(shown) {
  const files = shown.downloads.filter((name) => WORDS[name]);
  return h("section", {}, h("h2", {}, "Downloads"),
    files.length ? h("ul", { class: "files" }, files.map((name) =>
      h("li", {}, h("a", { href: `stormgate/download/${name}`, download: true }, name), ` ${WORDS[name]}`)))
      : h("p", { class: "empty" }, "Nothing yet: files are written after a run is judged."),
    shown.ended.length > 1 ? [h("h3", {}, "Runs since Locust was started"), table("Runs", [
      ["Run", false, (row) => row.run_id], ["Clients", true, (row) => number(row.clients)],
      ["Verdict", false, (row) => row.headline]], [...shown.ended].reverse())] : null);
}
