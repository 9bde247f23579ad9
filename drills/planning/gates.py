"""What the gates say of a sweep's runs: each run is judged as any other, and those of one point together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import msgspec

from drills.judging import gates, replications
from drills.judging.checks.thresholds import DEFAULT_PATH, Thresholds
from drills.judging.checks.verdicts import DrillVerdict, State
from sim.analysis.metrics import Metric
from sim.drill.model import Drill
from sim.planning.store import Row
from sim.record import parquet
from sim.record.history import History

_EVIDENCE = "not kept"


@dataclass(frozen=True)
class Gates:
    """Judges by a thresholds file; without one by the default, wherever that lies on the machine that judges."""

    thresholds: Path | None = None

    @property
    def key(self) -> str:
        """Thresholds, and the code that judges by them."""
        return f"gates {parquet.file_sha256(self.thresholds or DEFAULT_PATH)} {judging_code()}"

    def of(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The measures and the verdict."""
        verdict = gates.judge(drill, history, _load(self.thresholds), _EVIDENCE)
        return verdict.metrics, msgspec.msgpack.encode(replace(verdict, metrics=()))

    def together(self, drill: Drill, rows: Sequence[Row]) -> DrillVerdict:
        """The verdict that the runs of one point make together; one that came to a standstill is an error."""
        verdicts = {row.seed: self._verdict(drill, row) for row in rows}
        return next(iter(verdicts.values())) if len(verdicts) == 1 else replications.combine(verdicts, _load(self.thresholds))

    def _verdict(self, drill: Drill, row: Row) -> DrillVerdict:
        if row.trouble:
            return gates.unreadable(drill.name, row.trouble, _EVIDENCE)
        return replace(msgspec.msgpack.decode(row.judgement, type=DrillVerdict), metrics=row.metrics)


@lru_cache(maxsize=8)
def _load(path: Path | None) -> Thresholds:
    return gates.load_thresholds(path or DEFAULT_PATH)


@lru_cache(maxsize=1)
def judging_code() -> str:
    """A digest of the code that judges: `sim` is in the digest of every row anyway."""
    paths = sorted(Path(gates.__file__).parent.rglob("*.py"))
    return " ".join(parquet.file_sha256(path)[:16] for path in paths)


def states(verdict: DrillVerdict, keep: Sequence[str] = ()) -> Mapping[str, State]:
    """The state of each check, of those asked for or of all."""
    found = {check.name: check.state for check in verdict.checks}
    return {name: found.get(name, State.NOT_RUN) for name in keep} if keep else found
