"""Checks of tokens and of who says no: are the right ones refused, with the right words?"""

import numpy as np

from drills.checks.base import NAN, Answer, Case, Check, by_count, needed
from drills.thresholds import Threshold
from drills.verdicts import State
from sim import samples
from sim.contract.admission import is_final
from sim.contract.probes import EXPECTED
from sim.fault_kinds import AnyFault, FailPublishes
from sim.observations import Kind

# Codes of an answer that is none: nobody said no.
_UNANSWERED = ("", "silence", "timeout", "network")


def _probes(case: Case, threshold: Threshold | None) -> Answer:
    """Every probe was refused, and in the contract's words where it has any."""
    answers = case.history.detail_counts(case.history.of(Kind.PROBED))
    n = sum(answers.values())
    granted = [text for text in answers if text.endswith(":accepted")]
    if granted:
        return Answer(State.FAIL, len(granted), n, f"what must be refused was granted: {', '.join(granted)}")
    refused = [text for text in answers if text.rpartition(":")[2] not in _UNANSWERED]
    if wrong := [complaint for text in refused if (complaint := _wrong_word(text))]:
        return Answer(State.FAIL, len(wrong), n, f"refused with a wrong code: {', '.join(wrong)}")
    heard = {text.partition(":")[0] for text in refused}
    silent = [probe for probe in case.drill.expect.probes if probe not in heard]
    if silent:
        state = State.INCONCLUSIVE if n else State.NO_DATA
        return Answer(state, NAN, n, f"no answer to the probe {', '.join(silent)}")
    return Answer(State.PASS, 0, n, f"refused, as it must be: {', '.join(answers)}")


def _wrong_word(text: str) -> str:
    """What is wrong with the code of a refusal; empty when it is right, or the contract has none for it."""
    probe, code = text.partition(":")[0], text.rpartition(":")[2]
    right = EXPECTED.get(probe, ())
    return "" if not right or code in right else f"{probe} ({code} instead of {' or '.join(right)})"


def _too_old(case: Case, threshold: Threshold | None) -> Answer:
    """Tokens that the control service granted for longer than the runtime takes them."""
    refused = case.history.fleet(Kind.CONNECT_FAILED)
    too_old = int(case.history.detail_is(refused, ["token_too_old"]).sum())
    attempts = len(case.history.fleet(Kind.CONNECT_ATTEMPTED))
    return by_count(too_old, attempts, needed(threshold), "connects refused as token_too_old", "connects attempted")


def _publish_failures(case: Case, threshold: Threshold | None) -> Answer:
    """The publishes that failed are those that were refused for good, no more and no fewer; the others were tried again."""
    history = case.history
    for_good = [index for index, fault in enumerate(case.drill.faults) if _refuses_for_good(fault)]
    seen = history.of(Kind.FAULT_OBSERVED)
    refused = int(seen.value[np.isin(seen.attempt, for_good)].sum())
    failed, tried = len(history.of(Kind.PUBLISH_FAILED)), samples.failed_publishes(history).n
    said = f"{failed} of {tried} publishes failed, and {refused} were refused for good"
    if tried == 0:
        return Answer(State.NO_DATA, NAN, 0, "nothing was published")
    return Answer(State.PASS if failed == refused else State.FAIL, abs(failed - refused), tried, said)


def _refuses_for_good(fault: AnyFault) -> bool:
    return isinstance(fault, FailPublishes) and is_final(fault.status)


CHECKS = (
    Check(
        "error",
        "tokens_too_old",
        "refusals",
        "connects refused because the token, though not expired, was older than the runtime takes",
        "count",
        _too_old,
    ),
    Check(
        "drill",
        "publish_failures",
        "events",
        "publishes that failed, beside those that the runtime refused for good",
        "as many",
        _publish_failures,
        origin="synthetic",
        takes_threshold=False,
        applies=lambda drill: any(isinstance(fault, FailPublishes) for fault in drill.faults),
    ),
    Check(
        "drill",
        "probes",
        "grants",
        "forbidden questions that were granted, or refused with a wrong code",
        "count, 0 allowed; every probe was answered",
        _probes,
        origin="synthetic",
        takes_threshold=False,
        applies=lambda drill: bool(drill.expect.probes),
    ),
)
