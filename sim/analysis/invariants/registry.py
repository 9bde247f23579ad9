"""The table of invariants, and which of them a run violates.

To add one: write a function of `Evidence` in the module of its subject, and add its name here, in the order of reports.
Duplicates on the wire are legal; an event that is *applied* twice is a violation.
"""

from collections.abc import Callable, Iterator

from sim.analysis import live_gaps
from sim.analysis.invariants import application, content, log, order, reactions, replays, rest, stored
from sim.analysis.invariants.evidence import Evidence, Violation
from sim.analysis.samples import stale_loops
from sim.record.history import History, Rows
from sim.record.ledger import Ledger
from sim.record.observations import Kind

# A function returns the rows that violate the invariant, or the violations themselves.
INVARIANTS: dict[str, Callable[[Evidence], Rows | Iterator[Violation]]] = {
    "applied_twice": application.applied_twice,
    "applied_out_of_order": application.applied_out_of_order,
    "hole": application.hole,
    "checkpoint_regressed": application.checkpoint_regressed,
    "checkpoint_ahead": application.checkpoint_ahead,
    "stale_loop": lambda evidence: stale_loops(evidence.history),
    "stale_without_recovery": application.stale_without_recovery,
    "silent_loss": application.silent_loss,
    "missing_at_rest": rest.missing_at_rest,
    "partly_delivered": rest.partly_delivered,
    "resumed_in_new_log": log.resumed_in_new_log,
    "log_recreated": log.log_recreated,
    "unexplained_gap": lambda evidence: live_gaps.unexplained(evidence.history, evidence.ledger.published),
    "acknowledged_lost": log.acknowledged_lost,
    "phantom_event": content.phantom_event,
    "negative_clients": reactions.negative_clients,
    "cross_topic_leak": content.leaks,
    "altered_payload": content.altered,
    "real_time_order": order.real_time_order,
    "stored_lost": stored.stored_lost,
    "stored_twice": stored.stored_twice,
    "stored_altered": stored.stored_altered,
    "stored_otherwise": stored.stored_otherwise,
    "jumbled_message": content.jumbled_message,
    "incomplete_snapshot": replays.incomplete_snapshot,
    "needless_loss": replays.needless_loss,
    "early_replay_complete": replays.early_replay_complete,
    "false_start": replays.false_start,
    "retried_terminal": reactions.retried_terminal,
    "ignored_hint": reactions.ignored_hint,
    "backoff_reset_by_accept": reactions.backoff_reset_by_accept,
    "reconnected_too_fast": reactions.reconnected_too_fast,
    "runtime_died": lambda evidence: evidence.history.of(Kind.RUNTIME_DIED),
}
_NEED_THE_END = (
    *("stale_without_recovery", "missing_at_rest", "partly_delivered", "acknowledged_lost", "phantom_event"),
    *("needless_loss", "false_start"),
)


def violations(history: History, ledger: Ledger, complete: bool = True) -> list[Violation]:
    """All violated invariants of a run. Takes seconds for millions of observations.

    For an interrupted run (not `complete`), it checks only the invariants that do not need the end of the run.
    """
    evidence = Evidence(history, ledger)
    names = [name for name in INVARIANTS if complete or name not in _NEED_THE_END]
    return [found for name in names for found in _violations(evidence, name) if found.count]


def _violations(evidence: Evidence, name: str) -> Iterator[Violation]:
    found = INVARIANTS[name](evidence)
    if isinstance(found, Rows):
        yield from evidence.violated(name, found)
    else:
        yield from found
