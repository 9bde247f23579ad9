"""The options with which a running command shows its state to other tools: live metrics over HTTP, and traces."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drills.exports import otlp, server
from drills.exports.live import Live
from drills.exports.otlp import Span
from drills.exports.verdict import CheckNow, Kind, Verdict
from drills.judging.checks.verdicts import RunVerdict, State
from drills.reports import report
from drills.reports.terminal import err
from drills.runs import recorded_runs
from sim.base.errors import StormgateError, UsageError


@dataclass(frozen=True)
class Exports:
    """What was asked for."""

    port: int | None = None
    host: str = server.LOOPBACK
    linger_s: float = 0.0
    otlp: str = ""

    def check(self, engine: str = "sockets") -> None:
        """Raise `UsageError` if it cannot be done. Nothing is started before this check."""
        for option, is_given in (("--metrics-port", self.port is not None), ("--otlp-endpoint", bool(self.otlp))):
            if is_given and engine != "sockets":
                raise UsageError(f"{option}: --engine {engine} simulates time, so there is nothing live to show; leave it out.")
        if self.port is None and (self.host != server.LOOPBACK or self.linger_s):
            raise UsageError("--metrics-host and --metrics-linger need --metrics-port.")
        if self.otlp:
            otlp.check(self.otlp)

    @contextlib.contextmanager
    def serving(self, kind: Kind, **about: str) -> Iterator[Live | None]:
        """Serve live metrics during the block; yields None if no port was given."""
        if self.port is None:
            yield None
            return
        live = Live(Verdict(kind=kind, **about), say)  # type: ignore[arg-type]
        with server.serving(live, self.host, self.port) as address:
            say(f"metrics: {address}/metrics; verdict: {address}/verdict.json")
            yield live

    def linger(self) -> None:
        """Go on serving after the verdict for as long as was asked for."""
        if self.port is not None and self.linger_s:
            say(f"serving the final metrics and the verdict for {self.linger_s:g} s; Ctrl-C ends it")
            server.linger(self.linger_s)

    def trace(self, made: Callable[[], Span]) -> None:
        """Make and send a trace, if that was asked for; a failure is a warning and changes nothing."""
        if not self.otlp:
            return
        try:
            trace = made()
        except Exception as error:  # whatever goes wrong here says nothing about the run
            say(f"traces were not sent ({str(error).rstrip('.') or type(error).__name__}); the verdict is not affected")
            return
        otlp.send(self.otlp, trace, say)


def say(text: str) -> None:
    """Print one line to stderr."""
    err().print(text, markup=False, soft_wrap=True)


def worst_of(verdict: RunVerdict) -> CheckNow | None:
    """The first drill that did not pass, with the reason; None without one."""
    bad = [drill for drill in verdict.drills if drill.status is not State.PASS and not drill.not_run]
    return CheckNow(name=bad[0].name, state=bad[0].status, reason=report.why(bad[0])) if bad else None


def trace_of(run_dir: Path, verdict: RunVerdict) -> Span:
    """The trace of a run. A drill without a complete record has no span; its status is an attribute of the run's."""
    spans = []
    for drill in verdict.drills:
        with contextlib.suppress(StormgateError):
            for each in recorded_runs.runs_in(run_dir, drill.name):
                why = "" if drill.status is State.PASS else report.why(drill)
                spans.append(otlp.of_drill(each.name, each.history, drill.status, why))
    now = time.time()
    first = min((span.start_t for span in spans), default=now)
    about: dict[str, str | int | float | bool] = {
        "stormgate.run_id": verdict.run_id,
        "stormgate.target": verdict.target,
        "stormgate.decision": verdict.decision,
        **{f"stormgate.status.{drill.name}": str(drill.status) for drill in verdict.drills},
    }
    last = max((span.end_t for span in spans), default=now)
    return otlp.Span("drill run", first, last, about, children=tuple(spans), error=verdict.decision_reason)
