"""The table of invariants, and which of them a run violates.

To add one: write a function of `Evidence` in the module of its subject, and add it here, in the order of reports, with
the words that say when it is violated. Duplicates on the wire are legal; an event that is *applied* twice is a violation.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sim.analysis import live_gaps
from sim.analysis.invariants import application, content, log, order, reactions, replays, rest, stored
from sim.analysis.invariants.evidence import Evidence, Violation
from sim.analysis.machine import NO_SPANS, Spans
from sim.analysis.samples import stale_loops
from sim.record.history import History, Rows
from sim.record.ledger import Ledger
from sim.record.observations import Kind


class Invariant(NamedTuple):
    """What must hold in every run."""

    violated_when: str  # one clause
    find: Callable[[Evidence], Rows | Iterator[Violation]]  # the rows that violate it, or the violations themselves


INVARIANTS: dict[str, Invariant] = {
    "applied_twice": Invariant(
        "a client applied an event twice",
        application.applied_twice,
    ),
    "applied_out_of_order": Invariant(
        "a client applied an event after a later one of the same stream, by position or by the order of other readers",
        application.applied_out_of_order,
    ),
    "hole": Invariant(
        "a client applied an event although the one before it was missing",
        application.hole,
    ),
    "checkpoint_regressed": Invariant(
        "a checkpoint went back without a new snapshot, a lower head or a restart",
        application.checkpoint_regressed,
    ),
    "checkpoint_ahead": Invariant(
        "a client wrote a checkpoint above all that it had applied, that a snapshot covers or that it declared lost",
        application.checkpoint_ahead,
    ),
    "stale_loop": Invariant(
        "a client received two or more stale answers in a row",
        lambda evidence: stale_loops(evidence.history),
    ),
    "stale_without_recovery": Invariant(
        "a client had a stale cursor and never recovered",
        application.stale_without_recovery,
    ),
    "silent_loss": Invariant(
        "a client never applied an event and did not declare its loss",
        application.silent_loss,
    ),
    "missing_at_rest": Invariant(
        "at the end, a client lacked acknowledged events after everything that it had, so that no later event showed it",
        rest.missing_at_rest,
    ),
    "partly_delivered": Invariant(
        "an event whose publish got no answer reached some readers, and others that it concerns lacked it",
        rest.partly_delivered,
    ),
    "resumed_in_new_log": Invariant(
        "a client applied an event of a new log at its position of the old one, although its protocol has epochs",
        log.resumed_in_new_log,
    ),
    "log_recreated": Invariant(
        "the positions of a stream started over, in a protocol without epochs: no client can notice",
        log.log_recreated,
    ),
    "unexplained_gap": Invariant(
        "a live client did not get an event, and only a replay that it asked for brought it; no fault explains it",
        lambda evidence: live_gaps.unexplained(evidence.history, evidence.ledger.published),
    ),
    "acknowledged_lost": Invariant(
        "an acknowledged event is no longer in the log, has two payloads, or shares its position with another event",
        log.acknowledged_lost,
    ),
    "phantom_event": Invariant(
        "a client applied an event that nobody published, or at another position than the acknowledged one",
        content.phantom_event,
    ),
    "negative_clients": Invariant(
        "something that must be refused was granted",
        reactions.negative_clients,
    ),
    "cross_topic_leak": Invariant(
        "a client received an event of a stream that it did not subscribe to, or an event of another run on "
        "a stream of its own",
        content.leaks,
    ),
    "altered_payload": Invariant(
        "a client received an event, or a copy of one, whose content is not what its publisher sent, under a "
        "right hash or without one",
        content.altered,
    ),
    "real_time_order": Invariant(
        "a client applied, or the service stored, an event before one that was acknowledged before the other was sent",
        order.real_time_order,
    ),
    "stored_lost": Invariant(
        "the service did not return an acknowledged event over HTTP after settling",
        stored.stored_lost,
    ),
    "stored_twice": Invariant(
        "the service returned an event twice over HTTP",
        stored.stored_twice,
    ),
    "stored_altered": Invariant(
        "the service returned an event over HTTP whose content is not what its publisher sent",
        stored.stored_altered,
    ),
    "stored_otherwise": Invariant(
        "the service returned events over HTTP in another order than a client applied them, or at another position",
        stored.stored_otherwise,
    ),
    "jumbled_message": Invariant(
        "a payload does not match its hash, or a frame is malformed, and no fault explains it",
        content.jumbled_message,
    ),
    "incomplete_snapshot": Invariant(
        "a snapshot is empty, ends before the first retained event, is above the head, has another number of "
        "events than it states, or a digest that belongs to another position or content",
        replays.incomplete_snapshot,
    ),
    "needless_loss": Invariant(
        "a client declared a loss of events that were still retained",
        replays.needless_loss,
    ),
    "early_replay_complete": Invariant(
        "a replay was reported complete before the client had all events that were acknowledged when its connect was due",
        replays.early_replay_complete,
    ),
    "false_start": Invariant(
        "the server started a client without a cursor after the first event that it still had",
        replays.false_start,
    ),
    "retried_terminal": Invariant(
        "a client connected again after the server had said that a retry cannot succeed: without a new "
        "token, or for the second time",
        reactions.retried_terminal,
    ),
    "ignored_hint": Invariant(
        "a client connected again before the time that the server had asked for",
        reactions.ignored_hint,
    ),
    "backoff_reset_by_accept": Invariant(
        "a client counted its attempts from the start again after a connection that was accepted and soon closed",
        reactions.backoff_reset_by_accept,
    ),
    "reconnected_too_fast": Invariant(
        "a client connected again before its own delay was over, or five times with almost no delay",
        reactions.reconnected_too_fast,
    ),
    "runtime_died": Invariant(
        "the server's process exited by itself",
        lambda evidence: evidence.history.of(Kind.RUNTIME_DIED),
    ),
}
_NEED_THE_END = (
    *("stale_without_recovery", "missing_at_rest", "partly_delivered", "acknowledged_lost", "phantom_event"),
    *("needless_loss", "false_start"),
)


def violations(history: History, ledger: Ledger, complete: bool = True, busy: Spans = NO_SPANS) -> list[Violation]:
    """All violated invariants of a run. Takes seconds for millions of observations.

    For an interrupted run (not `complete`), it checks only the invariants that do not need the end of the run. What needs a
    time of rest does without the times that are `busy`.
    """
    evidence = Evidence(history, ledger, busy)
    names = [name for name in INVARIANTS if complete or name not in _NEED_THE_END]
    return [found for name in names for found in _violations(evidence, name) if found.count]


def _violations(evidence: Evidence, name: str) -> Iterator[Violation]:
    found = INVARIANTS[name].find(evidence)
    if isinstance(found, Rows):
        yield from evidence.violated(name, found)
    else:
        yield from found
