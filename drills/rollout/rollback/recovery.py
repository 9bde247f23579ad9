"""Check whether clients find a service healthy: a drill without faults, judged by its checks and by the share of refusals."""

from dataclasses import dataclass
from pathlib import Path

from drills import EXAMPLES
from drills.judging.checks.verdicts import DrillVerdict, State, worst
from drills.reports import report
from drills.runs import results, running
from drills.runs.request import Request
from sim.analysis import samples, statistics
from sim.analysis.samples import Share
from sim.base.errors import EvidenceError
from sim.drill import model as drill_file
from sim.drill.model import Drill
from sim.engines.shared.endpoints import Endpoints
from sim.record import parquet, run_header
from sim.record.history import History

DRILL = EXAMPLES / "observation.toml"
MAX_AUTH_FAILURES = 0.02  # share of connects and of token requests, from the operators' rollback procedure
_CLIENTS = 150  # [ours] fewer than 133 connects cannot show with confidence that under 2 % fail
_ON_MOCK = (  # [ours] the same number of samples in less time
    *("fleet.connects_per_s=50.0", "load.events_per_s=50.0", "load.run_streams=3"),
    *("phases.steady_s=1.0", "phases.fault_s=5.0"),
)


@dataclass(frozen=True)
class CanaryCheck:
    """The result of one canary check. `run` is its folder, relative to the stage run's."""

    state: State
    reason: str
    run: str
    auth_failures: str  # in words, with n
    has_clients: bool = True  # without a socket only publishes and what is read back show how healthy the service is


class InterruptedCanaryCheckError(KeyboardInterrupt):
    """The process was interrupted during a canary check."""


def drill_for(endpoints: Endpoints, overrides: tuple[str, ...], length_s: float | None = None) -> Drill:
    """The drill of a canary check, within the target's caps; `length_s` is its measuring time. Raises `UsageError`."""
    caps = endpoints.rules.caps
    clients = min(_CLIENTS, caps.clients - 1) if caps else _CLIENTS
    usual = (f"fleet.clients={clients}", *(_ON_MOCK if endpoints.is_mock else ()))
    length = (f"phases.fault_s={length_s}",) if length_s is not None else ()
    return drill_file.load(DRILL, (*usual, *overrides, *length))


def check(endpoints: Endpoints, drill: Drill, folder: Path, thresholds: Path | None, surely: bool) -> CanaryCheck:
    """Run a canary check into a new folder in `folder`, and judge it by `thresholds` (None: the default ones).

    `surely`: refusals must be under the limit with 95 % confidence, which needs 133 connects; else the ratio decides.
    Raises the errors of a drill run, and `InterruptedCanaryCheckError`.
    """
    run_dir = running.run(Request.of_target(drill, endpoints, thresholds, folder))
    verdict = results.judge_run(run_dir)
    results.write_reports(run_dir, verdict)
    return judged(run_dir, verdict.drills[0], f"{folder.parent.name}/{folder.name}/{run_dir.name}", surely)


def judged(run_dir: Path, verdict: DrillVerdict, name: str, surely: bool) -> CanaryCheck:
    """Judge a canary check from its files; `surely` as in `check`. Raises `InterruptedCanaryCheckError`."""
    folder = results.drill_folder(run_dir, verdict.name)
    try:
        header = run_header.read_header(folder)
        if not header.complete and not header.stop_condition:
            raise InterruptedCanaryCheckError(header.stopped_because)
        history = History(header, parquet.Recorded(folder))
    except EvidenceError as error:
        return CanaryCheck(State.ERROR, str(error), name, "")
    if not header.has_socket:
        why = f"{report.why(verdict)}; " if verdict.status is not State.PASS else ""
        return CanaryCheck(verdict.status, f"{why}the target has no socket, so there were no clients", name, "", False)
    refusals = {"connects": samples.auth_refusals(history), "tokens asked for": samples.token_refusals(history)}
    answers = [few(share, what, surely) for what, share in refusals.items()]
    said = "; ".join(words for _, words in answers)
    state = worst([verdict.status, *(each for each, _ in answers)])
    if state is State.PASS:
        return CanaryCheck(state, f"every check of {verdict.name} passed; {said}", name, said)
    wrong = [words for each, words in answers if each is not State.PASS]
    return CanaryCheck(state, "; ".join(filter(None, [report.why(verdict), *wrong])), name, said)


def few(share: Share, what: str, surely: bool) -> tuple[State, str]:
    """Decide whether refusals are under the limit, with the reason; `surely` as in `check`."""
    bounds = statistics.ratio(share.hits, share.n)
    if share.n == 0:
        return State.NO_DATA, f"there were no {what}"
    words = f"{share.hits} of {share.n} {what} refused (at most {100 * bounds.upper:.2g} %)"
    if bounds.lower > MAX_AUTH_FAILURES or (share.ratio >= MAX_AUTH_FAILURES and not surely):
        return State.FAIL, words
    if surely and bounds.upper >= MAX_AUTH_FAILURES:
        return State.INCONCLUSIVE, f"{words}, which cannot be told from {100 * MAX_AUTH_FAILURES:g} %"
    return State.PASS, words
