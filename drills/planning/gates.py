"""The gates of a sweep: judge each run like a drill run, then combine the runs of each point."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import msgspec

from drills.judging import gates, replications
from drills.judging.checks.thresholds import DEFAULT_PATH, Thresholds
from drills.judging.checks.verdicts import DrillVerdict
from sim.analysis.metrics import Metric
from sim.base import bounded_reads
from sim.drill.model import Drill
from sim.planning.store import Row
from sim.record.history import History

_EVIDENCE = "not kept"


@dataclass(frozen=True)
class Gates:
    """An evaluator that judges runs by a thresholds file; None: the default file of the machine that judges."""

    thresholds: Path | None = None

    @property
    def key(self) -> str:
        """The identity of the thresholds and the judging code."""
        return f"gates {bounded_reads.file_sha256(self.thresholds or DEFAULT_PATH)} {judging_code()}"

    def evaluate(self, drill: Drill, history: History) -> tuple[tuple[Metric, ...], bytes]:
        """The metrics and the verdict."""
        verdict = gates.judge(drill, history, _load(self.thresholds), _EVIDENCE)
        return verdict.metrics, msgspec.msgpack.encode(replace(verdict, metrics=()))

    def together(self, drill: Drill, rows: Sequence[Row]) -> DrillVerdict:
        """The combined verdict of the runs of one point; a run without metrics is an error."""
        verdicts = {row.seed: self._verdict(drill, row) for row in rows}
        return next(iter(verdicts.values())) if len(verdicts) == 1 else replications.combine(verdicts, _load(self.thresholds))

    def _verdict(self, drill: Drill, row: Row) -> DrillVerdict:
        if row.error:
            return gates.unreadable(drill.name, row.error, _EVIDENCE)
        return replace(msgspec.msgpack.decode(row.judgement, type=DrillVerdict), metrics=row.metrics)


@lru_cache(maxsize=8)
def _load(path: Path | None) -> Thresholds:
    return gates.load_thresholds(path or DEFAULT_PATH)


@lru_cache(maxsize=1)
def judging_code() -> str:
    """A digest of the judging code. It leaves out `sim`, which is part of every row's digest."""
    paths = sorted(Path(gates.__file__).parent.rglob("*.py"))
    return " ".join(bounded_reads.file_sha256(path)[:16] for path in paths)
