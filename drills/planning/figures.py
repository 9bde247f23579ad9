"""The figures of a sweep or a search. The design selects them; they are drawn from the table alone."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict
from drills.planning import answers
from drills.planning.search import Searched
from drills.planning.sweeps import THRESHOLDS_NAME, Swept
from sim.planning import bottlenecks, tables
from sim.planning.search import Outcome
from sim.planning.store import Row
from sim.plots import stations, sweeps
from sim.plots.style import LINES

PREFIX = "figure-"  # of file names; all files with this prefix are replaced
_HEADLINES = {
    "live_again_95_s": "95 % live again (s)",
    "peak_connects_per_s": "peak connects (1/s)",
    "bootstrap_p95_ms": "bootstrap, p95 (ms)",
}
_DECIDED_BY = {"bootstrap_p95_ms": "replay.bootstrap_ms"}  # metric -> the check whose threshold is its limit
_MAX_COLUMNS, _MAX_STATES, _WIDEST_MAP = 6, 40, 20  # [ours] panels, points and cells that are still readable
_STATES = {Outcome.GREEN: "pass", Outcome.RED: "fail", Outcome.ERROR: "error", Outcome.INCONCLUSIVE: "inconclusive"}


def headlines(table: pd.DataFrame) -> dict[str, str]:
    """The metrics that figures and summaries show, with their labels."""
    known = set(table["metric"])
    return {name: words for name, words in _HEADLINES.items() if name in known}


def of_sweep(swept: Swept) -> dict[str, Figure]:
    """Figures by name: the metrics in a form that fits the design, and the states of the gates."""
    states = {number: str(verdict.status) for number, verdict in swept.verdicts.items()}
    table = swept.table.assign(gates=swept.table["point"].map(states))
    drawn: dict[str, Figure] = {}
    if metrics := headlines(table):
        table = table[table["metric"].isin(list(metrics))]
        draw = {"grid": _grid, "latin_hypercube": _scatters, "one_at_a_time": _sensitivities}[swept.plan.sweep.design]
        drawn |= draw(swept, table, metrics)
    if len(swept.points) <= _MAX_STATES:
        drawn["gates"] = sweeps.gates(_states(swept), "State of each check at each point")
    point = answers.hardest(swept)
    return drawn | _stations(swept.rows[point.number], answers.at(point))


def _stations(rows: Sequence[Row], where: str) -> dict[str, Figure]:
    """The load of the service's queues over time; nothing if no run ended."""
    loads = bottlenecks.mean_loads(rows)
    return {"stations": stations.over_time(loads, f"Load of the service's queues at {where}")} if loads else {}


def _states(swept: Swept) -> pd.DataFrame:
    """A column per point, a row per check."""
    found = {
        ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in point.values.values()): {
            check.name: str(check.state) for check in swept.verdicts[point.number].checks
        }
        for point in swept.points
    }
    return pd.DataFrame(found).sort_index().fillna("").rename_axis(columns=", ".join(swept.points[0].values))


def _varying(swept: Swept) -> list[str]:
    keys = [parameter.key for parameter in swept.plan.sweep.parameters]
    return [key for key in keys if len({point.values[key] for point in swept.points}) > 1] or keys[:1]


def _grid(swept: Swept, table: pd.DataFrame, metrics: dict[str, str]) -> dict[str, Figure]:
    keys, title = _varying(swept), swept.plan.sweep.question
    if len(keys) == 2:
        return {**_maps(swept, table, metrics, keys), **_curves(swept, table, metrics, keys)}
    if len(keys) == 1 and not sweeps.is_number(table[keys[0]]):
        return {"ranking": sweeps.ranking(table, keys[0], metrics, title)}
    return _curves(swept, table, metrics, keys) or _scatters(swept, table, metrics)


def _maps(swept: Swept, table: pd.DataFrame, metrics: dict[str, str], keys: list[str]) -> dict[str, Figure]:
    if any(table[key].nunique() > _WIDEST_MAP for key in keys):
        return {}
    x, y = keys
    limits = _limits(next(iter(swept.verdicts.values())))
    return {
        f"map-{name}": sweeps.heat_map(
            table, x, y, name, f"{words}: {swept.plan.sweep.question}", words=words, limit=limits.get(name)
        )
        for name, words in metrics.items()
    }


def _curves(swept: Swept, table: pd.DataFrame, metrics: dict[str, str], keys: list[str]) -> dict[str, Figure]:
    """Curves against the first numeric parameter; lines for the next parameter, columns of panels for all others."""
    x = next((key for key in keys if sweeps.is_number(table[key])), "")
    if not x:
        return {}
    by, *rest = [key for key in keys if key != x] or [""]
    across = ", ".join(rest)
    if rest:
        words = [", ".join(f"{key} = {value}" for key, value in zip(rest, row, strict=True)) for row in table[rest].to_numpy()]
        table = table.assign(**{across: words})
        if len(set(words)) > _MAX_COLUMNS:
            return {}
    if by and table[by].nunique() > len(LINES):
        return {}
    limits = _limits(next(iter(swept.verdicts.values())))
    title = swept.plan.sweep.question
    return {"curves": sweeps.curves(table, x, metrics, title, by=by, across=across, limits=limits)}


def _scatters(swept: Swept, table: pd.DataFrame, metrics: dict[str, str]) -> dict[str, Figure]:
    keys, title = [parameter.key for parameter in swept.plan.sweep.parameters], swept.plan.sweep.question
    groups = [keys[start : start + _MAX_COLUMNS] for start in range(0, len(keys), _MAX_COLUMNS)]
    return {
        "scatter" + (f"-{number}" if len(groups) > 1 else ""): sweeps.scatter(table, group, metrics, title)
        for number, group in enumerate(groups, 1)
    }


def _sensitivities(swept: Swept, table: pd.DataFrame, metrics: dict[str, str]) -> dict[str, Figure]:
    return dict(_sensitivity_of_each(swept, table[table["mean"].map(math.isfinite)], metrics))


def _sensitivity_of_each(swept: Swept, table: pd.DataFrame, metrics: dict[str, str]) -> Iterator[tuple[str, Figure]]:
    """Draw the sensitivity of each metric. The label counts the points left out because they have no finite value."""
    for name, words in metrics.items():
        found = tables.sensitivity(table, name)
        left_out = len(swept.points) - int((table["metric"] == name).sum())
        label = f"{words}; points left out (it never ends, or has no value): {left_out}" if left_out else words
        if len(found) and math.isfinite(found["base"].iloc[0]):
            yield f"sensitivity-{name}", sweeps.sensitivity(found, swept.plan.sweep.question, label)


def _limits(verdict: DrillVerdict) -> dict[str, float]:
    """The limit of each metric for a passing gate; the same at all points."""
    known = {check.name: check.threshold for check in verdict.checks if check.threshold is not None}
    return {metric: known[check] for metric, check in _DECIDED_BY.items() if check in known}


def of_search(searched: Searched) -> dict[str, Figure]:
    """Draw the metrics at each tried value, with its outcome."""
    outcomes = {number: _STATES[trial.outcome] for number, trial in enumerate(searched.found.trials)}
    table = searched.table.assign(gates=searched.table["point"].map(outcomes))
    metrics = headlines(table)
    key, title = searched.find.key, searched.sentence
    if not metrics:
        return {}
    place = answers.limiting_trial(searched)
    loads = _stations(searched.rows[place], answers.at(searched.points[place]))
    if searched.find.want == "best":
        by = searched.find.by
        first = {by: metrics.get(by, by)} if by in set(table["metric"]) else {}
        return {"trials": sweeps.ranking(table, key, {**first, **metrics}, title), **loads}
    marked = {"answer": searched.found.answer, "red": searched.found.beyond}
    known = {name: float(value) for name, value in marked.items() if value is not None}
    return {"trials": sweeps.trials(table, key, metrics, title, known, _limits_of_search(searched)), **loads}


def _limits_of_search(searched: Searched) -> dict[str, float]:
    """The limits of the required checks."""
    required = searched.find.keep or searched.plan.variant({})[0].checks
    thresholds = gates.load_thresholds(searched.folder / THRESHOLDS_NAME)
    return {metric: thresholds[check].threshold for metric, check in _DECIDED_BY.items() if check in required}
