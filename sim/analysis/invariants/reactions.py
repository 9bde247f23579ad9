"""How clients reacted to the end of a connection, and whether negative clients were refused."""

from collections.abc import Iterator

from sim.analysis.endings import Reactions, said_at
from sim.analysis.invariants.evidence import Evidence, Violation
from sim.record.history import at
from sim.record.observations import Kind

# The invariant that is violated when a negative client's request is accepted, where it has a name of its own.
_OF_NEGATIVE_CLIENT = {
    "mutation_over_socket": "socket_changed_state",
    "any_mutation": "socket_changed_state",
    "expired_token": "expired_token_accepted",
}


def of_negative_client(name: str) -> str:
    """The invariant that is violated when this negative client's request is accepted."""
    return _OF_NEGATIVE_CLIENT.get(name, f"{name}_accepted")


def negative_clients(evidence: Evidence) -> Iterator[Violation]:
    """Accepted requests of negative clients."""
    history = evidence.history
    rows = history.of(Kind.PROBED)
    for text in history.detail_counts(rows):
        client, answer = text.partition(":")[0], text.rpartition(":")[2]
        if answer == "accepted":
            yield from evidence.violated(of_negative_client(client), rows.take(history.detail_is(rows, [text])))


def retried_terminal(evidence: Evidence) -> Iterator[Violation]:
    """Connects after an end that a retry cannot change."""
    return _reaction(evidence, "retried_terminal", evidence.connects.retried_terminal())


def ignored_hint(evidence: Evidence) -> Iterator[Violation]:
    """Connects before the time that the server had asked for."""
    return _reaction(evidence, "ignored_hint", evidence.connects.ignored_hint())


def backoff_reset_by_accept(evidence: Evidence) -> Iterator[Violation]:
    """Backoffs counted from the start again after a connection that was accepted and soon closed."""
    return _reaction(evidence, "backoff_reset_by_accept", evidence.connects.backoff_reset_by_accept())


def reconnected_too_fast(evidence: Evidence) -> Iterator[Violation]:
    """Connects before the client's own delay was over."""
    return _reaction(evidence, "reconnected_too_fast", evidence.connects.reconnected_too_fast())


def _reaction(evidence: Evidence, name: str, found: Reactions) -> Iterator[Violation]:
    """A violation by attempts to connect, which shows the earliest and what it should have heeded."""
    if len(found.attempts):
        history, end = evidence.history, found.ends
        client, t = int(found.attempts.client[0]), float(found.attempts.t[0])
        hint = f" with a hint of {end.value[0]:g} ms" if end.is_kind(Kind.ENDED)[0] and end.value[0] > 0 else ""
        said = said_at(history, end)
        stream = history.streams[int(end.stream[0])]
        first = f"{at(client, stream, -1, t)}, {t - float(end.t[0]):.3f} s after {said}{hint}"
        yield Violation(name, len(found.attempts), first)
