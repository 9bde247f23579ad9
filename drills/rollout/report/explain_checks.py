"""Explain checks and invariants in words: what each measures, its sources, and when it passes. For `stormgate gates`."""

from collections.abc import Iterator
from difflib import get_close_matches

import msgspec

from drills.judging import explanations
from drills.judging.checks import registry
from drills.judging.checks.specs import CheckSpec
from drills.judging.checks.thresholds import Threshold, Thresholds, says
from drills.reports.report import USERS_SAW
from drills.rollout.verdict.splits import BY_BUILD
from drills.rollout.verdict.window_checks import AGAINST_CONTROL, REGISTRY
from sim.analysis.invariants.reactions import of_negative_client
from sim.analysis.invariants.registry import INVARIANTS
from sim.base.errors import UsageError
from sim.client.negative.registry import NEGATIVE_CLIENTS
from sim.service.metric_names import MEANINGS

_ASKED_OF = {"run": "a drill", "window": "a stage's window", "control": "a stage's window that has a control"}
_ORIGINS = {"server": "the servers' own counters", "client": "what clients observed", "synthetic": "our own load, labelled so"}
_KEYS = {
    "minimum_n": "samples at least; fewer cannot pass",
    "live_for_s": "s for which a client must be live",
    "window_s": "s, the width of the worst window",
    "warn": "is the value above which a pass has a warning",
    "long_s": "s, the longer span to compare with",
    "minimum_events": "events at least; fewer do not count",
    "budget": "is the share of errors that uses up the budget exactly",
}


def names() -> list[str]:
    """The names of all checks; run checks first."""
    return list(dict.fromkeys(spec.name for spec in registry.ALL))


def asked_of(name: str) -> dict[str, CheckSpec]:
    """The checks with that name, by what they judge. Raises `UsageError` for an unknown name."""
    found = {_ASKED_OF[spec.needs]: spec for spec in registry.ALL if spec.name == name}
    if not found:
        raise UsageError(f"there is no check or invariant '{name}'{_near(name)}; `stormgate gates list` shows all.")
    return found


def _near(name: str) -> str:
    whole = {known.lower(): known for known in (*names(), *_invariants())}
    tails = {known.partition(".")[2].lower(): known for known in names()}
    close = get_close_matches(name.lower(), [*whole, *tails], n=6, cutoff=0.6)
    near = list(dict.fromkeys(whole.get(each) or tails[each] for each in close))[:3]
    return f"; near it are: {', '.join(near)}" if near else ""


def summary(name: str, thresholds: Thresholds, of: str) -> tuple[str, str, str, str, str]:
    """One check on one line: name, what it judges, sources, window, and when it passes."""
    check = asked_of(name)[of]
    limit = thresholds.get(name) if check.takes_threshold else None
    allowed = f"{limit.comparator} {limit.threshold:g} {limit.unit}" if limit else "fixed rule"
    return name, of, ", ".join(origins(check)), check.window, allowed


def passes(spec: CheckSpec, threshold: Threshold | None) -> str:
    """When a check passes, such as `p95 of bootstrap <= 600 ms`."""
    if not spec.takes_threshold:
        return spec.method
    return says(spec, threshold) if threshold else "never: this thresholds file has no threshold for it"


def _invariants() -> dict[str, str]:
    """All invariants, and the key of each in the table; each negative client has one of its own."""
    of_clients = {of_negative_client(client): "negative_clients" for client in NEGATIVE_CLIENTS}
    return {name: name for name in INVARIANTS} | of_clients


def invariants() -> Iterator[tuple[str, str]]:
    """All invariants by name, and when each is violated."""
    return ((name, INVARIANTS[key].violated_when) for name, key in _invariants().items())


def _lines_of_invariant(name: str) -> Iterator[tuple[str, str]]:
    key = _invariants()[name]
    expected, blamed, why = explanations.blame()["invariants"][key]
    yield "", f"{name}, an invariant of every drill"
    yield "violated when", INVARIANTS[key].violated_when
    yield "expected", expected
    yield "blamed", f"{blamed}: {why}"
    yield "users would see", USERS_SAW.get(name, "a forbidden request was granted")
    yield "passes", f"never violated, whatever the thresholds; {registry.INVARIANTS} and the gates of a stage require it"


def lines(name: str, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """The explanation of a check or an invariant, as pairs of a heading and a text. An empty heading starts the next check."""
    if name in _invariants():
        yield from _lines_of_invariant(name)
        return
    for of, spec in asked_of(name).items():
        yield "", f"{spec.name}, asked of {of}"
        yield "measures", f"{spec.measures}, in {spec.unit}"
        yield "sources", _sources(spec)
        if metrics := _metrics(spec):
            yield "metrics", metrics
        yield "window", spec.window
        if spec.gate == "drill":
            yield "asked of", spec.when.says
        yield "decides by", spec.method
        yield from _threshold(spec, thresholds.get(name))
        not_run = ", or not_run where the drill stopped before it" if spec.needs == "run" else ""
        yield "without data", spec.no_data + not_run
        if spec.needs == "window" and name in BY_BUILD:
            yield "by build", "also asked of the clients of each build alone, from stage 2 on"


def origins(spec: CheckSpec) -> tuple[str, ...]:
    """The origins of its sources, in the order of the sources."""
    return (spec.origin,) if spec.needs == "run" else {**REGISTRY, **AGAINST_CONTROL}[spec.name].origins


def _sources(spec: CheckSpec) -> str:
    sources = [f"{origin}: {_ORIGINS[origin]}" for origin in origins(spec)]
    if len(sources) == 1:
        return sources[0]
    return f"{'; then '.join(sources)}. A failure in any of them fails; else the first one with data decides"


def _metrics(spec: CheckSpec) -> str:
    """The servers' metrics that it reads. A misleading name is followed by its meaning."""
    if spec.needs != "window":
        return ""
    read = dict.fromkeys(metric for source in REGISTRY[spec.name].sources for metric in source.metrics)
    return ", ".join(f"{metric} ({MEANINGS[metric]})" if metric in MEANINGS else metric for metric in read)


def _threshold(spec: CheckSpec, threshold: Threshold | None) -> Iterator[tuple[str, str]]:
    yield "passes", passes(spec, threshold) if spec.takes_threshold else "by a fixed rule, without a threshold"
    if threshold is None or not spec.takes_threshold:
        return
    for key, value in msgspec.structs.asdict(threshold).items():
        if value is not None and key in (*spec.keys, *spec.optional_keys):
            yield key, f"{value:g} {_KEYS[key]}"
    yield "source", threshold.source
    if threshold.comment:
        yield "comment", threshold.comment
