"""`--fail-if-worse METRIC=LIMIT`: by how much a metric may be worse, in percent of the baseline or in the metric's unit."""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sim.base.errors import UsageError

_FORM = re.compile(r"(?P<metric>[^=\s]+)=(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<percent>%?)")
# Shorter names of the same metrics.
ALIASES = {f"p{percent}_recovery": f"live_again_{percent}_s" for percent in (50, 95, 99)}


@dataclass(frozen=True)
class Asked:
    """One limit: the metric may be at most `factor` times its baseline, plus `more` in its unit."""

    text: str
    metric: str
    factor: float
    more: float

    def in_words(self, unit: str) -> str:
        """The limit for people."""
        if self.more or self.factor == 1.0:
            return f"at most {self.more:g} {unit} more than the baseline"
        return f"at most {100 * (self.factor - 1):g} % more than the baseline"


def parse(texts: Iterable[str]) -> tuple[Asked, ...]:
    """Read the limits. Raises `UsageError`."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Asked:
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--fail-if-worse {text}: expected METRIC=LIMIT, such as p99_recovery=10%, or publish_to_apply_p95_ms=50 (ms)."
        )
    metric, number = ALIASES.get(found["metric"], found["metric"]), float(found["number"])
    if not math.isfinite(number):
        raise UsageError(f"--fail-if-worse {text}: the limit is too large.")
    return Asked(text, metric, 1 + number / 100, 0.0) if found["percent"] else Asked(text, metric, 1.0, number)


def require_known(asked: Iterable[Asked], known: Sequence[str], neutral: Collection[str]) -> None:
    """Raise `UsageError` for a metric that no compared run has, or of which neither direction is worse."""
    for each in asked:
        if each.metric in neutral:
            raise UsageError(f"--fail-if-worse {each.text}: neither more nor less of {each.metric} is worse.")
        if each.metric not in known:
            names = [name for name in (*ALIASES, *known) if ALIASES.get(name, name) in known and name not in neutral]
            close = get_close_matches(each.metric, names, n=3, cutoff=0.4)
            near = f"near it are: {', '.join(close)}" if close else f"there are: {', '.join(names)}"
            raise UsageError(f"--fail-if-worse {each.text}: no compared run has a metric '{each.metric}'; {near}.")
