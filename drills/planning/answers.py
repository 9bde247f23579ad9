"""The answer of a sweep or a search in words: what was found, how sure that is, what limits, and what to do next."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drills.judging.checks.verdicts import CheckResult, DrillVerdict, State
from drills.planning.search import Searched, shown
from drills.planning.sweeps import Swept
from drills.reports.report import number
from sim.planning import bottlenecks
from sim.planning.designs import Point
from sim.planning.search import Found, Outcome, Trial
from sim.planning.store import Row
from sim.planning.sweep_file import Plan, Value

_MAX_REASONS = 3  # [ours] different ones that are told


@dataclass(frozen=True)
class Answer:
    """Sentences for people; each part can be empty except `found`."""

    found: str
    sure: str = ""
    limits: str = ""
    next: str = ""

    @property
    def paragraphs(self) -> list[str]:
        """The parts with their names, those that say something."""
        parts = (("Found", self.found), ("How sure", self.sure), ("What limits", self.limits), ("Next", self.next))
        return [f"{name}: {text}" for name, text in parts if text]


def of_search(searched: Searched) -> Answer:
    """The answer of a search."""
    return Answer(searched.sentence, searched.confidence, " ".join(_limits_of_search(searched)), _next_of_search(searched))


def limiting_trial(searched: Searched) -> int:
    """The place of the trial that shows what limits: the nearest red value, else the answer, else the last one."""
    found = searched.found
    wanted = found.beyond if found.beyond is not None else found.answer
    return next((n for n, trial in enumerate(found.trials) if trial.value == wanted), len(found.trials) - 1)


def _limits_of_search(searched: Searched) -> Iterator[str]:
    found, key = searched.found, searched.find.key
    place = limiting_trial(searched)
    trial = found.trials[place]
    if trial.outcome is not Outcome.GREEN and trial.reason:
        yield f"At {shown(trial.value)} it is {trial.outcome}: {trial.reason}."
    if said := bottlenecks.limit_of(searched.rows[place]):
        yield said if trial.outcome is not Outcome.GREEN else f"At {shown(trial.value)}: {said}"
    tried = {float(t.value): rows for t, rows in zip(found.trials, searched.rows, strict=True) if _is_number(t.value)}
    yield from bottlenecks.overflows(key, tried)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _next_of_search(searched: Searched) -> str:
    find, found = searched.find, searched.found
    command = f"run `stormgate plan find {searched.plan.where}` again"
    if found.ties:
        return (
            f"Any of them is as good. To tell them apart, raise find.max_replications ({find.max_replications}) and {command}."
        )
    if found.at_bound:
        bound = "high" if find.want == "largest" else "low"
        return f"The answer is the bound, so the limit may be beyond it: move find.{bound} and {command}."
    if found.outcome is Outcome.RED:
        easy = {"largest": "Lower find.low", "smallest": "Raise find.high"}.get(find.want, "Add other find.values")
        return f"{easy}, or change what limits, and {command}."
    trial = _in_the_way(found)
    if trial is None:
        return ""
    if trial.outcome is Outcome.ERROR:
        look = _look(searched.plan, {find.key: trial.value})
        return f"At {shown(trial.value)} the drill itself did not work: {trial.reason}. To look at that value alone: {look}."
    return (
        f"At {shown(trial.value)} {trial.replications} replications are inconclusive: {trial.reason}. Raise "
        f"find.max_replications ({find.max_replications}), or require other checks with find.keep, and {command}."
    )


def _in_the_way(found: Found) -> Trial | None:
    """The undecided value that keeps the answer from being better: the nearest to it, and nearer than the red value."""
    undecided = [trial for trial in found.trials if trial.outcome in (Outcome.INCONCLUSIVE, Outcome.ERROR)]
    if found.answer is None or not _is_number(found.answer):
        return next(iter(undecided), None) if found.answer is None else None
    limit = math.inf if found.beyond is None else _between(found.beyond, found.answer)
    nearest = min(undecided, key=lambda trial: _between(trial.value, found.answer), default=None)
    return nearest if nearest is not None and _between(nearest.value, found.answer) < limit else None


def _between(one: Value, other: Value | None) -> float:
    return abs(float(one) - float(other or 0))


def _look(plan: Plan, values: Mapping[str, Value]) -> str:
    """The command that simulates one point as a drill; the keys of the model are in its file."""
    sweep = plan.sweep
    keys = {**sweep.set, **values}
    sets = " ".join(f"--set {name}={shown(value)}" for name, value in keys.items() if not name.startswith("model."))
    model = f" --model {Path(plan.where).parent / sweep.model_file}" if sweep.model_file else ""
    in_model = [f"{name} = {shown(value)}" for name, value in values.items() if name.startswith("model.")]
    in_model += ["the sweep file's [model]"] if sweep.model else []
    also = f", with a --model file of {', '.join(in_model)}" if in_model else ""
    drill = Path(plan.where).parent / sweep.drill if sweep.drill.endswith(".toml") else sweep.drill
    return f"`stormgate drill run {drill} --engine {sweep.engine}{model} {sets}`{also}"


# --- sweeps -----------------------------------------------------------------------------------------


def of_sweep(swept: Swept, metrics: Mapping[str, str]) -> Answer:
    """The answer of a sweep; `metrics` are the names and labels of those to speak of."""
    found = [_counted(swept), *(_range_of(swept, name, words) for name, words in metrics.items())]
    if not metrics:
        found.append("No run has a value to speak of.")
    return Answer(
        " ".join(filter(None, found)), _sure(swept, metrics), " ".join(_limits_of_sweep(swept)), _next_of_sweep(swept)
    )


def _counted(swept: Swept) -> str:
    counts = Counter(str(verdict.status) for verdict in swept.verdicts.values())
    said = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"The gates at {len(swept.points)} points: {said}."


def _range_of(swept: Swept, metric: str, words: str) -> str:
    """From which point to which a metric reaches."""
    rows = swept.table[swept.table["metric"] == metric]
    known = rows[rows["mean"].map(math.isfinite)]
    never = len(swept.points) - len(known)
    more = f" {never} points have no finite value: it never ends there, or nothing was measured." if never else ""
    if known.empty:
        return f"{_upper(words)}: no point has a finite value."
    low, high = known.iloc[int(known["mean"].argmin())], known.iloc[int(known["mean"].argmax())]
    if low["mean"] == high["mean"]:
        return f"{_upper(words)}: {number(low['mean'])} everywhere.{more}"
    if not high["lower"] > low["upper"]:
        more = f" The difference may be chance.{more}"
    return (
        f"{_upper(words)}: from {number(low['mean'])} at {_at(swept, int(low['point']))} "
        f"to {number(high['mean'])} at {_at(swept, int(high['point']))}.{more}"
    )


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _at(swept: Swept, point: int) -> str:
    return at(swept.points[point])


def at(point: Point) -> str:
    """The values of a point as text."""
    return ", ".join(f"{key} = {shown(value)}" for key, value in point.values.items())


def _sure(swept: Swept, metrics: Mapping[str, str]) -> str:
    """How wide the intervals are, relative to their means."""
    replications = swept.plan.sweep.replications
    if replications == 1:
        return "Each point was simulated once, so nothing is known about chance. Give more replications."
    rows = swept.table[swept.table["metric"].isin(list(metrics))]
    rows = rows[rows["mean"].map(math.isfinite) & rows["lower"].map(math.isfinite) & (rows["mean"] > 0)]
    said = f"Each point was simulated {replications} times with common seeds."
    if rows.empty:
        return said
    widths = ((rows["upper"] - rows["mean"]) / rows["mean"]).to_numpy(dtype=float)
    worst = rows.iloc[int(widths.argmax())]
    where = f"{metrics[str(worst['metric'])]} at {_at(swept, int(worst['point']))}"
    return (
        f"{said} Half of the means are known to within ±{np.median(widths):.1%}, the least certain to ±{widths.max():.0%} "
        f"({where}). These 95 % intervals are of chance alone; how well the model fits a service is another question."
    )


def hardest(swept: Swept) -> Point:
    """The point that shows what limits: the one whose busiest queue is full for longest, or is the busiest."""

    def strain(point: Point) -> tuple[float, float]:
        first = next(iter(bottlenecks.uses(swept.rows[point.number])), None)
        return (first.full_s, first.busiest) if first else (-1.0, 0.0)

    return max(swept.points, key=strain)


def _limits_of_sweep(swept: Swept) -> Iterator[str]:
    point = hardest(swept)
    if said := bottlenecks.limit_of(swept.rows[point.number]):
        yield f"The hardest point is {_at(swept, point.number)}. {said}"
    keys = [key for key in swept.points[0].values if all(_is_number(point.values[key]) for point in swept.points)]
    for key in keys:
        others = [name for name in swept.points[0].values if name != key]
        if not others:
            yield from bottlenecks.overflows(key, _by(key, swept.points, swept.rows))


def _by(key: str, points: Sequence[Point], rows: Mapping[int, Sequence[Row]]) -> dict[float, Sequence[Row]]:
    return {float(point.values[key]): rows[point.number] for point in points}


def _next_of_sweep(swept: Swept) -> str:
    """What to do about points that are not decided."""
    undecided = [n for n, verdict in swept.verdicts.items() if verdict.status not in (State.PASS, State.FAIL)]
    if not undecided:
        return ""
    again = f"and run `stormgate plan sweep {swept.plan.where}` again"
    reasons = Counter((check.state, check.name) for n in undecided for check in _open(swept.verdicts[n]))

    def named(state: State) -> str:
        names = [name for (found, name), _ in reasons.most_common() if found is state]
        more = f" and {len(names) - _MAX_REASONS} more" if len(names) > _MAX_REASONS else ""
        return ", ".join(names[:_MAX_REASONS]) + more

    said = [f"Not decided: {len(undecided)} of {len(swept.points)} points."]
    if names := named(State.INCONCLUSIVE):
        said.append(f"Too few samples for {names}: raise replications ({swept.plan.sweep.replications}) {again}.")
    if names := named(State.NO_DATA):
        other = (
            ' Where the fleet engine measures nothing, set engine = "virtual".' if swept.plan.sweep.engine == "fleet" else ""
        )
        said.append(f"Nothing was measured for {names}; more replications do not help.{other}")
    if names := named(State.ERROR):
        said.append(f"The drill itself did not work: {names}.")
    return " ".join(said) + f" To look at one point: {_look(swept.plan, swept.points[undecided[0]].values)}."


def _open(verdict: DrillVerdict) -> list[CheckResult]:
    return [check for check in verdict.checks if check.is_required and check.state not in (State.PASS, State.FAIL)]
