"""The answer of a study in words, for notebooks: computed from its table, with how sure it is and what limits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sim.planning import bottlenecks, tables
from sim.planning.designs import Point
from sim.planning.studies import Study


class Words(str):
    """Text in Markdown, which notebooks show as such."""

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return str(self)


def said(*sentences: str) -> Words:
    """The sentences that say something, as a paragraph each."""
    return Words("\n\n".join(filter(None, sentences)))


def within(study: Study, metric: str, limit: float, *, key: str, by: str, words: Mapping[str, str]) -> Words:
    """For each value of `by`, the values of `key` at which a metric is within its limit, beyond it, or neither for sure.

    `words` names the metric with its unit, the key and `by` for people.
    """
    of = study.table[study.table["metric"] == metric]
    lines = [
        f"- **{words[by]} {_number(value)}**: {_reach(rows.sort_values(key), limit, key, words[key])}"
        for value, rows in of.groupby(by)
    ]
    head = f"The limit is {words[metric]} of at most {_number(limit)}."
    hardest = max(study.points, key=lambda point: _mean(of, point))
    where = ", ".join(f"{words.get(name, name)} {_number(value)}" for name, value in hardest.values.items())
    why = bottlenecks.limit_of(study.rows[hardest.number])
    return said(
        head, "\n".join(lines) or "No run has a value.", f"**What limits** at {where}: {why}" if why else "", _sure(study)
    )


def _mean(of: pd.DataFrame, point: Point) -> float:
    found = of.loc[of["point"] == point.number, "mean"]
    return float(found.iloc[0]) if len(found) and not math.isnan(found.iloc[0]) else -math.inf


def _reach(rows: pd.DataFrame, limit: float, key: str, name: str) -> str:
    """Which values of the key are within the limit with their whole interval, and which beyond it."""
    values = list(zip(rows[key], rows["mean"], rows["lower"], rows["upper"], strict=True))
    inside = [value for value, mean, _, upper in values if (upper if math.isfinite(upper) else mean) <= limit]
    beyond = [value for value, mean, lower, _ in values if (lower if math.isfinite(lower) else mean) > limit]
    unknown = [value for value, *_ in values if value not in inside and value not in beyond]
    parts = [
        f"{verb} at {name} {', '.join(map(_number, group))}"
        for verb, group in (("within it", inside), ("beyond it", beyond), ("not decided", unknown))
        if group
    ]
    return "; ".join(parts)


def best(study: Study, metric: str, *, key: str, words: Mapping[str, str]) -> Words:
    """Which value of the only parameter has the lowest metric, whether the next one is worse for sure, and what each costs."""
    of = study.table[study.table["metric"] == metric]
    known = of[of["mean"].map(math.isfinite)].sort_values("mean")
    if known.empty:
        return said(f"No value has {words[metric]}: nothing was measured, or nobody came back.")
    first = known.iloc[0]
    ties = [row[key] for _, row in known.iloc[1:].iterrows() if not _is_worse(study, row, first, metric)]
    head = f"**{first[key]}** has the lowest {words[metric]}: {_interval(first)}."
    if ties:
        head += f" It cannot be told apart from {', '.join(map(str, ties))}: the difference may be chance."
    costs = [
        f"{words[name]} {_interval(row)}" for name in words if name != metric and (row := _row(study, name, first["point"]))
    ]
    never = [str(row[key]) for _, row in of.iterrows() if not math.isfinite(row["mean"])]
    return said(
        head,
        f"With it: {'; '.join(costs)}." if costs else "",
        f"Not everybody came back in some run, or nothing was measured: {', '.join(never)}." if never else "",
        bottlenecks.limit_of(study.rows[int(first["point"])]),
        _sure(study),
    )


def _is_worse(study: Study, row: "pd.Series[Any]", first: "pd.Series[Any]", metric: str) -> bool:
    """Whether it is worse for sure, compared per seed."""
    return tables.difference(study.rows[int(row["point"])], study.rows[int(first["point"])], metric).lower > 0


def _row(study: Study, metric: str, point: int) -> dict[str, Any]:
    found = study.table[(study.table["metric"] == metric) & (study.table["point"] == point)]
    return dict(found.iloc[0]) if len(found) else {}


def smallest(study: Study, metric: str, limit: float, *, key: str, by: str, words: Mapping[str, str]) -> Words:
    """For each value of `by`, the smallest value of `key` at which every run has at most the limit."""
    of = study.table[study.table["metric"] == metric]

    def line(value: object, rows: pd.DataFrame) -> str:
        enough = sorted(rows.loc[rows["max"] <= limit, key])
        most = max(rows[key])
        what = (
            f"{_number(enough[0])} is enough" if enough else f"even {_number(most)}, the largest that was tried, is not enough"
        )
        return f"- **{words[by]} {_number(value)}**: {what}"

    lines = [line(value, rows) for value, rows in of.groupby(by)]
    return said(f"The smallest {words[key]}, of those tried:", "\n".join(lines) or "No run has a value.", _sure(study))


def changes(study: Study, metric: str, words: str) -> Words:
    """From a one-at-a-time study: which parameters move the metric for sure, the strongest first."""
    of = study.table[study.table["mean"].map(math.isfinite)]
    found = tables.sensitivity(of, metric)
    moved = [
        f"- **{row['parameter']}**: {words} from {row['min']:.3g} (at {_number(row['at_min'])}) to {row['max']:.3g} (at "
        f"{_number(row['at_max'])})" + ("" if row["is_significant"] else ", which may be chance")
        for _, row in found.iterrows()
    ]
    return said("**What would change it**, one parameter at a time:", "\n".join(moved) or "Nothing was measured.")


def _sure(study: Study) -> str:
    counts = {len(rows) for rows in study.rows.values()}
    errors = sum(bool(row.error) for rows in study.rows.values() for row in rows)
    failed = f" {errors} runs did not end and have no value." if errors else ""
    return (
        f"**How sure**: {max(counts, default=0)} simulated runs at each point, with 95 % intervals over chance.{failed} It "
        "is as good as the model: fit one to your service with `stormgate plan calibrate`."
    )


def recommended(study: Study, accept_s: float, *, key: str, words: Mapping[str, str]) -> Words:
    """Of the values whose recovery is surely within `accept_s`, the one with the lowest peak of connects at the service."""
    of = study.table[study.table["metric"] == "live_again_95_s"]
    soon = of[[_upper(row) <= accept_s for _, row in of.iterrows()]]
    if soon.empty:
        return said(
            f"**None** brings 95 % of the clients back within {accept_s:g} s. Accept a longer time, or {ADD}.", _sure(study)
        )
    peaks = study.table[(study.table["metric"] == "peak_reached_per_s") & study.table["point"].isin(soon["point"])]
    known = peaks[peaks["mean"].map(math.isfinite)].sort_values("mean")
    if known.empty:
        return said("Nothing reached the service in any run, so nothing can be recommended.", _sure(study))
    first = known.iloc[0]
    told = [f"{text} {_interval(row)}" for name, text in words.items() if (row := _row(study, name, first["point"]))]
    late = [str(row[key]) for _, row in of.iterrows() if row["point"] not in set(soon["point"])]
    ties = [row[key] for _, row in known.iloc[1:].iterrows() if not _is_worse(study, row, first, "peak_reached_per_s")]
    return said(
        f"**Use {first[key]}**: of those that surely bring 95 % back within {accept_s:g} s, it has the lowest peak.",
        f"With it: {'; '.join(told)}.",
        f"It cannot be told apart from {', '.join(map(str, ties))}." if ties else "",
        f"Too slow, or not surely fast enough: {', '.join(late)}." if late else "",
        bottlenecks.limit_of(study.rows[int(first["point"])]),
        _sure(study),
    )


ADD = "give the service more capacity"


def _upper(row: "pd.Series[Any]") -> float:
    upper, mean = float(row["upper"]), float(row["mean"])
    return math.inf if math.isnan(mean) or row["missing"] else upper if math.isfinite(upper) else mean


def compared(measured: Mapping[str, float], study: Study, words: Mapping[str, str]) -> Words:
    """A recorded run beside the simulation of the same drill, and what an error there means for everything else."""
    lines, errors = [], []
    for name, text in words.items():
        row, took = _row(study, name, study.points[0].number), measured.get(name, math.nan)
        if not row or not math.isfinite(row["mean"]) or not math.isfinite(took) or took <= 0:
            lines.append(f"- {text}: measured {short(took)}, simulated {short(row['mean'] if row else math.nan)}")
            continue
        errors.append(abs(row["mean"] / took - 1))
        lines.append(f"- {text}: measured {short(took)}, simulated {_interval(row)} ({row['mean'] / took - 1:+.0%})")
    worst = max(errors, default=math.nan)
    verdict = "Nothing could be compared, so trust no number below."
    if errors:
        verdict = (
            f"The model is off by up to {worst:.0%}; expect that of every number below. One run says nothing about chance."
        )
    return said("\n".join(lines), verdict)


def _interval(row: "pd.Series[Any] | Mapping[str, Any]") -> str:
    """A mean with its interval, if it has one."""
    mean, lower, upper = (float(row[name]) for name in ("mean", "lower", "upper"))
    return f"{short(mean)} ({short(lower)} to {short(upper)})" if math.isfinite(lower) and lower < upper else short(mean)


def short(value: float) -> str:
    """A number of a metric for a sentence."""
    if math.isnan(value):
        return "no data"
    return "never" if math.isinf(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _number(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def of_checks(states: Sequence[tuple[str, str, str]]) -> Words:
    """What the checks of a run say: each with its name, its state and the reason."""
    counts: dict[str, int] = {}
    for _, state, _ in states:
        counts[state] = counts.get(state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), key=lambda each: -each[1]))
    others = [f"- {name} {state}: {why}" for name, state, why in states if state in ("fail", "error")]
    return said(f"**{len(states)} checks: {told or 'none'}.**", "\n".join(others) or "No check failed.")
