"""What every check of the gates measures, of whom it asks it, and when it passes: for people, from the registries."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

import msgspec

from drills.judging import gates
from drills.judging.checks.base import Answer, Case, Check
from drills.judging.checks.thresholds import Threshold, Thresholds
from drills.rollout.verdict.splits import BY_BUILD
from drills.rollout.verdict.window_checks import AGAINST_CONTROL, REGISTRY
from drills.rollout.verdict.window_data.base import WindowCheck
from sim.base.errors import IllegalMoveError, UsageError
from sim.protocols.spacetime.metric_names import MEANINGS


def _never(case: Case, threshold: Threshold | None) -> Answer:
    raise IllegalMoveError("this check is made elsewhere, and here only explained")


# Checks of drills that are not asked of one history, and so are in no registry.
_MADE = (
    Check("replay", "parity", "variants", "surfaces on which the same history came to another end", "count, 0 allowed", _never),
    Check("drill", "invariants", "laws", "laws that were broken", "count, 0 allowed", _never),
    Check("drill", "evidence", "rows", "whether a drill's files can be believed", "complete, and as recorded", _never),
    Check("drill", "stop_condition", "conditions", "stop conditions of the target that were met", "none may be", _never),
)
DRILL_CHECKS: Mapping[str, Check] = {**gates.REGISTRY} | {
    check.full_name: replace(check, takes_threshold=False) for check in _MADE
}
Asked = Check | WindowCheck
_SPEAKS = {
    "server": "the servers' own counters",
    "client": "what clients saw",
    "synthetic": "load of our own, and labelled so",
}
# The keys of a threshold that are told by themselves; what the others mean stands beside them.
_TOLD = ("threshold", "comparator", "unit", "source", "comment")
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
    return list(dict.fromkeys((*DRILL_CHECKS, *REGISTRY, *AGAINST_CONTROL)))


def asked_of(name: str) -> dict[str, Asked]:
    """The checks of that name, by what they are asked of. Raises `UsageError` for a name that there is not."""
    found: dict[str, Asked] = {}
    if name in DRILL_CHECKS:
        found["a drill"] = DRILL_CHECKS[name]
    if name in REGISTRY:
        found["a stage's window"] = REGISTRY[name]
    if name in AGAINST_CONTROL:
        found["a stage's window, where a control is named"] = AGAINST_CONTROL[name]
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


def passes(check: Asked, threshold: Threshold | None) -> str:
    """When a check passes, such as `p95 of connect due -> caught up <= 600 ms`."""
    if not check.takes_threshold:
        return check.method
    if threshold is None:
        return "never: this thresholds file has no threshold for it"
    return f"{check.metrics} {threshold.comparator} {threshold.threshold:g} {threshold.unit}"


def lines(name: str, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """What there is to be said of a check, as pairs of a heading and a text; an empty heading begins another check."""
    for of, check in asked_of(name).items():
        yield "", f"{check.full_name}, asked of {of}"
        yield "metrics", f"{check.metrics}, in {check.unit}"
        yield "asks", _asks(check)
        if figures := _figures(check):
            yield "figures", figures
        yield "window", check.window
        yield "decides by", check.method
        yield from _threshold(check, thresholds.get(name))
        yield "if absent", _absent(check)
        if isinstance(check, WindowCheck) and name in BY_BUILD:
            yield "by build", "asked of the clients of each build by itself, too, from stage 2 on"


def origins(check: Asked) -> tuple[str, ...]:
    """Whom it asks, in order."""
    return check.origins if isinstance(check, WindowCheck) else (check.origin,)


def _asks(check: Asked) -> str:
    said = [f"{origin}: {_SPEAKS[origin]}" for origin in origins(check)]
    if len(said) == 1:
        return said[0]
    order = "what any of them shows as failed fails; else the first that has data decides"
    return f"{'; then '.join(said)}. {order[0].upper()}{order[1:]}"


def _figures(check: Asked) -> str:
    """The servers' figures that it reads, with what those are that say something else than they are."""
    if not isinstance(check, WindowCheck):
        return ""
    read = dict.fromkeys(figure for ask in check.asks for figure in ask.figures)
    return ", ".join(f"{figure} ({MEANINGS[figure]})" if figure in MEANINGS else figure for figure in read)


def _threshold(check: Asked, threshold: Threshold | None) -> Iterator[tuple[str, str]]:
    if not check.takes_threshold:
        yield "passes", "it is a law, without a threshold"
        return
    if threshold is None:
        yield "passes", "never: this thresholds file has no threshold of it"
        return
    yield "passes", f"{threshold.comparator} {threshold.threshold:g} {threshold.unit}"
    taken = check.expected.extras | check.expected.options
    for key, value in msgspec.structs.asdict(threshold).items():
        if key not in _TOLD and value is not None and key in taken:
            yield key, f"{value:g} {_KEYS[key]}"
    yield "source", threshold.source
    if threshold.comment:
        yield "comment", threshold.comment


def _absent(check: Asked) -> str:
    return check.absent if isinstance(check, WindowCheck) else "no_data, or not_run where the drill never came to the question"
