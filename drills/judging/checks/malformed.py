"""The check of clients that send what is no frame: what became of each such thing, beside that none may be granted."""

from collections import defaultdict

from drills.judging.checks.base import NAN, Answer, Case, Check
from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from sim.client.negative.malformed import KINDS, MalformedFramesProbe
from sim.record.observations import Kind

_PROBE = MalformedFramesProbe.name
_CUT = "refused:closed"  # and nothing says why
_MAY_BE_CUT = "huge"  # who is still sending when the other side closes is reset, and cannot hear the reason


def _malformed_frames(case: Case, threshold: Threshold | None) -> Answer:
    """Everything was tried and got an answer, and where that was the end of the socket, it said why."""
    answers: dict[str, set[str]] = defaultdict(set)
    n = 0
    for text, count in case.history.detail_counts(case.history.of(Kind.PROBED)).items():
        probe, _, rest = text.partition(":")
        what, _, answer = rest.partition(":")
        if probe == _PROBE and answer not in ("", "silence"):
            answers[what].add(answer)
            n += count
    if cut := [what for what in KINDS if what != _MAY_BE_CUT and _CUT in answers[what]]:
        return Answer(State.FAIL, len(cut), n, f"the socket was closed and nothing said why, after {', '.join(cut)}")
    if untold := [what for what in KINDS if not answers[what]]:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"nothing tells what became of {', '.join(untold)}")
    said = sorted({answer.removeprefix("refused:") for each in answers.values() for answer in each})
    return Answer(State.PASS, 0, n, f"{len(KINDS)} things that are no frame were answered: {', '.join(said)}")


CHECKS = (
    Check(
        "drill",
        "malformed_frames",
        "kinds",
        "things that are no frame for which a socket was closed without a reason",
        "count, 0 allowed; each was tried and answered",
        _malformed_frames,
        takes_threshold=False,
        applies=lambda drill: _PROBE in drill.expect.negative_clients,
    ),
)
