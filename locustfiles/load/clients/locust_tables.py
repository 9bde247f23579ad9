"""Locust's own tables: what happened to our clients, and in the end the verdict."""

from typing import Any

VERDICT, SOCKET, REQUEST = "DRILL", "WS", "HTTP"
_ROWS = 100_000  # [ours] of one finding at most: each takes time
KINDS = (VERDICT, SOCKET, REQUEST)  # of our rows, in the column "Type"


class ClientError(Exception):
    """What went wrong for a client or the publisher; its text is a code."""


def report(environment: Any, kind: str, name: str, ms: float, error: str = "") -> None:
    """Report a request to all who listen to `events.request`.

    While only Locust listens, this writes to its tables directly: an event for each delivery costs more than the delivery.
    """
    if len(environment.events.request._handlers) > 1:
        failure = ClientError(error) if error else None
        told = {"request_type": kind, "name": name, "response_time": ms, "response_length": 0, "exception": failure}
        environment.events.request.fire(**told, context={}, response=None, start_time=None, url=None)
        return
    environment.stats.log_request(kind, name, ms, 0)
    if error:
        environment.stats.log_error(kind, name, error)


def add_outcome(stats: Any, name: str, error: str, count: int) -> None:
    """Add what judging found, to the tables and to all files that Locust writes of them; `error` is empty for a success."""
    for _ in range(min(count, _ROWS)):
        stats.log_request(VERDICT, name, 0, 0)
        if error:
            stats.log_error(VERDICT, name, error)
