"""What every check of the gates measures, of whom it asks it, and when it passes: for people, from the registries."""

from collections.abc import Iterator
from difflib import get_close_matches

import msgspec

from drills.judging.checks import registry
from drills.judging.checks.registry import CheckSpec
from drills.judging.checks.thresholds import Threshold, Thresholds, says
from drills.rollout.verdict.splits import BY_BUILD
from drills.rollout.verdict.window_checks import AGAINST_CONTROL, REGISTRY
from sim.base.errors import UsageError
from sim.protocols.spacetime.metric_names import MEANINGS

_ASKED_OF = {"run": "a drill", "window": "a stage's window", "control": "a stage's window, where a control is named"}
_SPEAKS = {
    "server": "the servers' own counters",
    "client": "what clients saw",
    "synthetic": "load of our own, and labelled so",
}
_KEYS = {
    "minimum_n": "samples, fewer of which cannot pass",
    "live_for_s": "s that a client must be live for a live period",
    "window_s": "s, the width of the window that counts",
    "warn": "more than which is told as a warning, and passes",
    "long_s": "s, the longer span that it is held against",
    "minimum_events": "events, fewer of which do not count",
    "budget": "errors in all that is asked for, which is a budget of 1",
}


def names() -> list[str]:
    """All checks, those of drills first."""
    return list(dict.fromkeys(spec.name for spec in registry.ALL))


def asked_of(name: str) -> dict[str, CheckSpec]:
    """The checks of that name, by what they are asked of. Raises `UsageError` for an unknown name."""
    found = {_ASKED_OF[spec.needs]: spec for spec in registry.ALL if spec.name == name}
    if not found:
        raise UsageError(f"there is no check '{name}'{_near(name)}; `stormgate gates list` shows all.")
    return found


def _near(name: str) -> str:
    whole = {known.lower(): known for known in names()}
    tails = {known.partition(".")[2].lower(): known for known in names()}
    close = get_close_matches(name.lower(), [*whole, *tails], n=6, cutoff=0.6)
    near = list(dict.fromkeys(whole.get(each) or tails[each] for each in close))[:3]
    return f"; near it are: {', '.join(near)}" if near else ""


def summary(name: str, thresholds: Thresholds, of: str) -> tuple[str, str, str, str, str]:
    """One check in a line: name, what it is asked of, sources, window, when it passes."""
    check = asked_of(name)[of]
    limit = thresholds.get(name) if check.takes_threshold else None
    allowed = f"{limit.comparator} {limit.threshold:g} {limit.unit}" if limit else "fixed rule"
    return name, of, ", ".join(origins(check)), check.window, allowed


def passes(spec: CheckSpec, threshold: Threshold | None) -> str:
    """When a check passes, such as `p95 of bootstrap <= 600 ms`."""
    if not spec.takes_threshold:
        return spec.method
    return says(spec, threshold) if threshold else "never: this thresholds file has no threshold for it"


def lines(name: str, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """What there is to be said of a check, as pairs of a heading and a text; an empty heading begins another check."""
    for of, spec in asked_of(name).items():
        yield "", f"{spec.name}, asked of {of}"
        yield "measures", f"{spec.measures}, in {spec.unit}"
        yield "asks", _asks(spec)
        if figures := _figures(spec):
            yield "figures", figures
        yield "window", spec.window
        if spec.gate == "drill":
            yield "asked of", spec.when.says
        yield "decides by", spec.method
        yield from _threshold(spec, thresholds.get(name))
        not_run = ", or not_run where the drill stopped before it" if spec.needs == "run" else ""
        yield "without data", spec.no_data + not_run
        if spec.needs == "window" and name in BY_BUILD:
            yield "by build", "asked of the clients of each build by itself, too, from stage 2 on"


def origins(spec: CheckSpec) -> tuple[str, ...]:
    """The origins of its sources, in the order in which they are asked."""
    return (spec.origin,) if spec.needs == "run" else {**REGISTRY, **AGAINST_CONTROL}[spec.name].origins


def _asks(spec: CheckSpec) -> str:
    said = [f"{origin}: {_SPEAKS[origin]}" for origin in origins(spec)]
    if len(said) == 1:
        return said[0]
    return f"{'; then '.join(said)}. A failure in any of them fails; else the first that has data decides"


def _figures(spec: CheckSpec) -> str:
    """The servers' metrics that it reads, with the meaning of those whose name misleads."""
    if spec.needs != "window":
        return ""
    read = dict.fromkeys(figure for ask in REGISTRY[spec.name].asks for figure in ask.figures)
    return ", ".join(f"{figure} ({MEANINGS[figure]})" if figure in MEANINGS else figure for figure in read)


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
