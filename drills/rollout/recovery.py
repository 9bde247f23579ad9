"""Whether a lane is well, as clients see it: a drill without faults, judged by all its checks and by how many are let in."""

import math
from dataclasses import dataclass
from pathlib import Path

from drills import report, results, running, statistics
from drills.request import Request
from drills.verdicts import DrillVerdict, State
from sim import drill as drill_file
from sim import observations, samples
from sim.drill import Drill
from sim.engines.lane_http import Lane
from sim.errors import EvidenceError
from sim.history import History
from sim.samples import Share

DRILL = Path(__file__).parents[1] / "examples" / "observation.toml"
MOST_AUTH_FAILURES = 0.02  # of connects, and of tokens asked for: the operators' rollback procedure
_CLIENTS = 150  # [ours] with fewer than 133 connects, no share of failures can be told to be under 2 %
_ON_MOCK = (  # [ours] as many samples in less time
    *("fleet.connects_per_s=50.0", "load.events_per_s=50.0", "load.run_streams=3"),
    *("phases.steady_s=1.0", "phases.fault_s=5.0"),
)


@dataclass(frozen=True)
class Watched:
    """One watch's answer. `run` is its folder, below the run's."""

    state: State
    reason: str
    run: str
    auth_failures: str  # in words, with n


class InterruptedWatchError(KeyboardInterrupt):
    """Whoever watched was told to end."""


def drill_for(lane: Lane, overrides: tuple[str, ...], length_s: float | None = None) -> Drill:
    """The drill that watches a lane, within its caps; `length_s` is how long is looked, without coming and going.

    Raises `UsageError`.
    """
    caps = lane.rules.caps
    clients = min(_CLIENTS, caps.clients - 1) if caps else _CLIENTS
    usual = (f"fleet.clients={clients}", *(_ON_MOCK if lane.is_mock else ()))
    length = (f"phases.fault_s={length_s}",) if length_s is not None else ()
    return drill_file.load(DRILL, (*usual, *overrides, *length))


def watch(lane: Lane, drill: Drill, folder: Path, thresholds: Path | None) -> Watched:
    """Run it into a folder of its own below `folder`, and judge it by `thresholds` (None: the usual ones).

    Raises what a drill raises, and `InterruptedWatchError`.
    """
    request = Request(
        drills=(drill,), engine="sockets", target=lane.name, seed=1, defects=(), thresholds=thresholds, out=folder, lane=lane
    )
    run_dir = running.run(request)
    verdict = results.judge_run(run_dir)
    results.write_reports(run_dir, verdict)
    return judged(run_dir, verdict.drills[0], f"{folder.parent.name}/{folder.name}/{run_dir.name}")


def judged(run_dir: Path, verdict: DrillVerdict, name: str) -> Watched:
    """What a watch's files say. Raises `InterruptedWatchError` for one that was."""
    folder = results.drill_folder(run_dir, verdict.name)
    try:
        header = observations.read_header(folder)
        if not header.complete and not header.stop_condition:
            raise InterruptedWatchError(header.stopped_because)
        history = History(header, observations.read(folder))
    except EvidenceError as error:
        return Watched(State.ERROR, str(error), name, "")
    refusals = {"connects": samples.auth_refusals(history), "tokens asked for": samples.token_refusals(history)}
    auth = {what: _few(share, what) for what, share in refusals.items()}
    said = "; ".join(words for _, words in auth.values())
    for state in (verdict.status, *(state for state, _ in auth.values())):
        if state is not State.PASS:
            why = report.why(verdict) if state is verdict.status else said
            return Watched(state, why, name, said)
    return Watched(State.PASS, f"every check of {verdict.name} passed; {said}", name, said)


def _few(share: Share, what: str) -> tuple[State, str]:
    """Whether refusals are surely under the limit, surely over it, or neither."""
    bounds = statistics.ratio(share.hits, share.n)
    words = f"{share.hits} of {share.n} {what} refused (at most {100 * bounds.upper:.2g} %)"
    if math.isnan(bounds.upper):
        return State.NO_DATA, f"there were no {what}"
    if bounds.lower > MOST_AUTH_FAILURES:
        return State.FAIL, words
    return (State.PASS if bounds.upper < MOST_AUTH_FAILURES else State.INCONCLUSIVE), words
