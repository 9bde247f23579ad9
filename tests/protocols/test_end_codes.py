"""What close codes, HTTP answers and their hints mean to a client."""

import json

import pytest

from sim.protocols import endings, registry
from sim.protocols.adapter import Credentials, Open, TransportEnd
from sim.protocols.events import Next, Step
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.phoenix_sync.adapter import PhoenixSyncConnection
from sim.protocols.spacetime.adapter import SpacetimeConnection


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (None, "retry"),
        (1000, "retry"),
        (1005, "retry"),
        (1008, "mint"),
        (1011, "retry"),
        (1013, "retry"),
        (4499, "retry"),
        (4500, "terminal"),
        (4999, "terminal"),
    ],
)
def test_close_code_says_what_comes_next(code: int | None, step: str):
    closed = endings.closed(TransportEnd(code=code))
    assert (closed.code, closed.next.step) == (code, step)


@pytest.mark.parametrize(
    ("reason", "wait_ms"),
    [
        ('{"retry_after_ms":2000}', 2000.0),
        ('{"retry_after_ms":-1}', 0.0),
        ("going away", None),
        ("[1]", None),
        ('{"retry_after_ms":true}', None),
        ('{"retry_after_ms":"5"}', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_reason_of_a_close_may_have_a_hint(reason: str, wait_ms: float | None):
    assert endings.closed(TransportEnd(code=1013, reason=reason)).next.wait_ms == wait_ms
    assert endings.closed(TransportEnd(code=1008, reason=reason)).next == Next(Step.MINT, wait_ms)


@pytest.mark.parametrize(
    ("headers", "body", "wait_ms"),
    [
        ({}, b"", None),
        ({"retry-after": "3"}, b"", 3000.0),
        ({"retry-after": "3"}, b'{"error":{"code":"rate_limited","retry_after_ms":120}}', 120.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", 30_000.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, b"", 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, b"", None),  # without the server's clock it says nothing
        ({"retry-after": "soon"}, b"<html>", None),
    ],
)
def test_hint_of_an_answer(headers: dict[str, str], body: bytes, wait_ms: float | None):
    assert endings.retry_after_ms(TransportEnd(status=503, headers=headers, body=body)) == wait_ms


@pytest.mark.parametrize("connection", [SpacetimeConnection("ws://x"), PhoenixSyncConnection("ws://x")], ids=type)
@pytest.mark.parametrize(
    ("status", "step", "hinted"),
    [(401, "mint", "mint"), (403, "mint", "mint"), (429, "retry", "wait"), (500, "retry", "wait"), (503, "retry", "wait")],
)
def test_refused_upgrade_says_what_comes_next(connection: SpacetimeConnection, status: int, step: str, hinted: str):
    (refused,) = connection.closed(0, TransportEnd(status=status))
    assert (refused.status, refused.is_open, refused.next) == (status, False, Next(Step(step)))
    (refused,) = connection.closed(0, TransportEnd(status=status, headers={"retry-after": "2"}))
    assert refused.next == Next(Step(hinted), 2000.0)


@pytest.mark.parametrize("name", registry.names())
def test_a_proxy_that_asks_for_credentials_ends_no_client_for_good(name: str):
    """In no protocol does the server itself mean more by 401 than that this token is not accepted."""
    connection = registry.get(name).new_connection(registry.ConnectionOptions("ws://x"))
    connection.connect(Credentials("t"))
    if not registry.get(name).capabilities.is_one_connection:
        connection.send(Join("1", Compatibility()))
        connection.send(Subscribe("2", {"a": None}))
    ids = [action.id for action in connection.actions() if isinstance(action, Open)]
    (refused,) = connection.closed(ids[0], TransportEnd(status=401))
    assert refused.next.step is Step.MINT


def test_code_in_the_body_comes_before_the_status():
    body = json.dumps({"error": {"code": "token_expired", "retry_after_ms": 50}}).encode()
    (refused,) = SpacetimeConnection("ws://x").closed(0, TransportEnd(status=403, body=body))
    assert (refused.code, refused.next) == ("token_expired", Next(Step.MINT, 50.0))
