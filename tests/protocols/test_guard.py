"""What the code of an installed package does wrong is one `AdapterError`: nothing else is raised, and nobody else is blamed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.verdicts import State
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.clocks import CpuLimit
from sim.base.errors import AdapterError, MalformedFrameError, UsageError
from sim.protocols import events, guard, registry
from sim.protocols.adapter import Credentials, Open, Positions, Transport, TransportEnd
from sim.protocols.events import Position
from sim.protocols.intents import Renew
from tests.engines.streams import CAPABILITIES
from tests.storms import small

PLAIN = registry.get("spacetime")
ITEM = events.Item(Position(1), msgspec.Raw(b"{}"))
URL = "ws://127.0.0.1/sync"


class Connection:
    """A connection whose every method does the same."""

    def __init__(self, does: Callable[[], Any]) -> None:
        for name in ("actions", "connect", "send", "opened", "received", "closed"):
            setattr(self, name, self._method(name, does))

    @staticmethod
    def _method(name: str, does: Callable[[], Any]) -> Callable[..., Any]:
        def method(*_: object) -> Any:
            return does()

        method.__name__ = name
        return method


def raised(error: Exception) -> Callable[[], Any]:
    def does() -> Any:
        raise error

    return does


def installed(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> registry.Protocol:
    """The protocol `spacetime` as an installed package would add it, with changes."""
    found = replace(PLAIN, name="acme", **changed)

    class Entry:
        dist, value = None, "acme:PROTOCOL"

        def load(self) -> registry.Protocol:
            return found

    monkeypatch.setattr(registry, "_installed", lambda: {"acme": Entry()})
    registry.get.cache_clear()
    return registry.get("acme")


def connection(monkeypatch: pytest.MonkeyPatch, does: Callable[[], Any], **changed: Any) -> Any:
    protocol = installed(monkeypatch, new_connection=lambda options: Connection(does), **changed)
    return protocol.new_connection(registry.ConnectionOptions(URL, client="client 7"))


@pytest.fixture(autouse=True)
def _forgets_it():
    yield
    registry.get.cache_clear()


CALLS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("actions", ()),
    ("connect", (Credentials("secret"),)),
    ("send", (Renew("r", "secret"),)),
    ("opened", (0, 101, {"set-cookie": "secret"})),
    ("received", (0, b"hello", True)),
    ("closed", (0, TransportEnd(status=503, headers={"set-cookie": "secret"}))),
)


@pytest.mark.parametrize(("method", "given"), CALLS, ids=[name for name, _ in CALLS])
def test_whatever_a_method_raises_is_one_sentence_with_its_name_the_place_and_the_client(monkeypatch, method, given):
    with pytest.raises(AdapterError) as caught:
        getattr(connection(monkeypatch, raised(KeyError("ping\n\x1b[31m" + "x" * 9999))), method)(*given)
    said = str(caught.value)
    assert f"protocol 'acme': Connection.{method} of its package raised KeyError" in said
    assert "test_guard.py:" in said
    assert "client 7" in said
    assert "secret" not in said
    assert said.isprintable()
    assert len(said) < 800


def test_what_was_received_is_shown_in_bounds(monkeypatch):
    with pytest.raises(AdapterError, match=r"it was given 0, b'\\xffhello, wo") as caught:
        connection(monkeypatch, raised(ValueError())).received(0, b"\xffhello, world" * 1000, True)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned None, expected tuple"),
        ([events.Opened()], "returned [Opened()], expected tuple"),
        (("joined",), "returned 'joined' as str, expected an event"),
        ((events.Joined("1", ping_s="2"),), "returned '2' as Joined.ping_s, expected float or None"),
        ((events.Joined("1", ping_s=math.nan),), "returned nan as Joined.ping_s"),
        ((events.Joined("1", streams=["a"]),), "returned ['a'] as Joined.streams"),
        ((events.Batch("a", [ITEM]),), "as Batch.items, expected tuple"),
        ((events.Batch("a", (msgspec.structs.replace(ITEM, payload=b"{}"),)),), "as Item.payload, expected Raw"),
        ((events.Batch("a", (msgspec.structs.replace(ITEM, position=1),)),), "returned 1 as Item.position"),
        ((events.Head("a", Position("9")),), "returned '9' as Head.position.offset, expected an int"),
        ((events.Closed(next=events.Next("later")),), "returned 'later' as Closed.next.step, expected Step"),
        ((events.Problem("p", details={1: 2}),), "returned 1 as int, expected str"),
    ],
)
def test_a_wrong_type_is_named_by_its_field(monkeypatch, returned, says):
    with pytest.raises(AdapterError) as caught:
        connection(monkeypatch, lambda: returned).received(0, b"hello", True)
    assert says in str(caught.value)


def test_wrong_actions_are_refused(monkeypatch):
    for wrong in (None, [("open", 0)], [Open("0", Transport.WEBSOCKET, URL)], [Open(0, Transport.WEBSOCKET, URL, {"a": 1})]):
        with pytest.raises(AdapterError, match=r"Connection\.actions of its package returned"):
            connection(monkeypatch, lambda wrong=wrong: wrong).actions()


def test_what_is_right_passes_as_it_is(monkeypatch):
    right = (events.Joined("1", streams=("a",), ping_s=2), events.Batch("a", (ITEM,), after=Position(1)), events.CaughtUp())
    assert connection(monkeypatch, lambda: right).received(0, b"hello", True) is right
    opaque = msgspec.structs.replace(CAPABILITIES, positions=Positions.OPAQUE)
    text = (events.Head("a", Position("9")),)
    assert connection(monkeypatch, lambda: text, capabilities=opaque).received(0, b"hello", True) is text
    actions = [Open(0, Transport.WEBSOCKET, URL, {"a": "b"}, ("chat",))]
    assert connection(monkeypatch, lambda: actions).actions() is actions


def test_a_call_that_does_not_end_is_ended(monkeypatch):
    def spins() -> Any:
        while True:
            try:
                math.sqrt(2.0)
            except Exception:
                continue

    monkeypatch.setattr(guard, "_LIMIT", CpuLimit(0.1))
    with pytest.raises(AdapterError, match=r"did not end within 0\.1 s of CPU time, for client 7"):
        connection(monkeypatch, spins).received(0, b"hello", True)


def test_functions_of_a_package_are_guarded_too_but_may_refuse_options_and_frames(monkeypatch):
    protocol = installed(
        monkeypatch,
        new_connection=lambda options: options.options["nothing"],
        streams_of=lambda runs, worker_events: runs[7],
        stream_id=lambda topic: topic.no,
    )
    options = registry.ConnectionOptions(URL)
    for name, given in (("new_connection", (options,)), ("streams_of", ([], False)), ("stream_id", ("a",))):
        with pytest.raises(AdapterError, match=f"'acme': {name} of its package raised"):
            getattr(protocol, name)(*given)
    for error in (UsageError("no such option"), MalformedFrameError("malformed", "no")):
        with pytest.raises(type(error)):
            installed(monkeypatch, capabilities_with=lambda _, error=error: raised(error)()).able({})


def test_a_simulated_run_ends_with_what_it_observed_as_an_error_of_nobody_else(tmp_path: Path, monkeypatch, capsys):
    assert PLAIN.server is not None
    contents = iter([{"payload": {}}] * 40)  # then it raises
    profile = replace(PLAIN.server.profile, content=lambda publication: next(contents))
    installed(monkeypatch, server=replace(PLAIN.server, profile=profile))
    request = Request(
        (small("reconnect_storm"),),
        engine="virtual",
        target="mock",
        seed=1,
        defects=(),
        thresholds=None,
        out=tmp_path,
        protocol="acme",
    )
    run_dir = running.run(request)
    assert "content of its package raised StopIteration" in capsys.readouterr().err
    verdict = results.judge_run(run_dir)
    (drill,) = verdict.drills
    assert drill.status is State.ERROR
    assert {check.name for check in drill.checks if check.state in (State.FAIL, State.ERROR)} == {"drill.evidence"}
    assert verdict.exit_code == 4
    assert (run_dir / "drills" / "reconnect_storm" / "observations.parquet").stat().st_size > 1000
