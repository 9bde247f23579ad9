"""Clients over sockets that get the same bytes share what follows from them, and record what each alone would record."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.base.clocks import RunClock
from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.session import Session
from sim.engines.shared.session_driver import SessionDriver
from sim.protocols import registry
from sim.protocols.adapter import Open
from sim.protocols.intents import Compatibility
from sim.protocols.shared_decoding import SharedDecoding
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection
from sim.protocols.spacetime.codec import encode_server
from sim.protocols.spacetime.frames import Body, Reply, ServerFrame, UpdateBatch
from sim.protocols.spacetime.protocol import PROTOCOL
from sim.protocols.spacetime.streams import stream_id
from sim.record.columns import Columns
from sim.record.parquet import Recorder, read
from tests.client.session_driver import RUN, batch, heads, update
from tests.client.test_shared_messages import scripts, wrong

CLIENTS = 3


class ScriptClock(RunClock):
    """A clock that the script moves."""

    began = 1000.0

    def __init__(self) -> None:
        self.moment = self.began

    def now(self) -> float:
        return self.moment


class ScriptDriver(SessionDriver):
    """A client whose network is a list of bytes."""

    def start(self) -> None:
        now = self._clock.now()
        self.session.start(now)
        self._pump(now)

    id = 0

    def _begin_open(self, wanted: Open) -> None:
        wire: Any = self
        self._wires[wanted.id] = wire
        self.socket_open(wire, 101, {})

    def _begin_mint(self) -> None:
        self._has_token(Token("t", 1e9, 1e9))

    def _drop_work(self) -> None: ...

    def _wake_in_time(self, wake_at: float) -> None: ...

    def send(self, data: bytes, is_text: bool = True) -> None: ...

    def close(self) -> None: ...

    abort = close

    def get(self, frame: ServerFrame) -> None:
        """Receive a frame, as bytes of its own."""
        for wire in self._wires.values():
            self.socket_message(wire, bytes(bytearray(encode_server(frame, "1").encode())), True)


def rows(script: list[ServerFrame], shares: bool, policy: str, defects: tuple[int, ...] = ()) -> list[str]:
    """What three clients record; those in `defects` miss the first frame of the script."""
    shared, clock = SharedDecoding() if shares else SharedDecoding(max_entries=0), ScriptClock()
    shared_settings = ClientSettings(1, Compatibility(), CAPABILITIES, stream_id=stream_id, shares_runs=shares)
    sharing = replace(PROTOCOL, new_connection=lambda options: SpacetimeConnection(options.url, shared))
    with tempfile.TemporaryDirectory() as folder, patch.object(registry, "get", lambda _: sharing):
        recorder = Recorder(Path(folder))
        drivers = []
        for number in range(CLIENTS):
            session = Session(number, [RUN], policies.get(policy), shared_settings)
            drivers.append(ScriptDriver(session, "ws://script", clock, recorder))
            drivers[-1].start()
        begin = (Reply("1", True, Body(subscription_id="s")), batch(1, 2), Reply("2", True, Body(subscription_id="s")))
        for place, frame in enumerate([*begin, *script]):
            clock.moment += 0.01
            for driver in drivers:
                if place != len(begin) or driver.session.client not in defects:
                    driver.get(frame)
        recorder.seal()
        return [repr(row) for row in read(Path(folder)).to_pylist()]


@settings(max_examples=50, deadline=None)
@given(scripts(), st.sampled_from(("reference", "desktop")), st.sampled_from(((), (1,))))
def test_record_is_the_same_with_and_without_sharing(script: list[ServerFrame], policy: str, defects: tuple[int, ...]):
    assert rows(script, True, policy, defects) == rows(script, False, policy, defects)


def test_damaged_copy_is_recorded_for_every_client_that_gets_it():
    script = [batch(3), UpdateBatch((wrong(update(4)),), True, ()), heads(4)]
    got = rows(script, True, "reference")
    assert sum("hash_mismatch" in row for row in got) == CLIENTS
    assert got == rows(script, False, "reference")


def test_rows_of_equal_messages_are_stored_once(monkeypatch):
    stored: list[int] = []
    table = Columns.table
    monkeypatch.setattr(Columns, "table", lambda columns: (stored.append(len(columns._shared.rows)), table(columns))[1])
    events = 50
    got = rows([batch(number) for number in range(3, 3 + events)], True, "reference")
    assert sum("'applied'" in row for row in got) == (events + 2) * CLIENTS
    assert stored[0] <= 3 * (events + 2)
