"""What clients record in a process that is slow at everything: a moment and a duration before it are of the same event."""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.client import policies
from sim.client.actions import ClientSettings
from sim.client.session import Session
from sim.protocols import registry
from sim.protocols.intents import Compatibility
from sim.protocols.shared_decoding import SharedDecoding
from sim.protocols.spacetime.adapter import CAPABILITIES, SpacetimeConnection
from sim.protocols.spacetime.frames import Body, Reply
from sim.protocols.spacetime.protocol import PROTOCOL
from sim.protocols.spacetime.streams import stream_id
from sim.record.parquet import Recorder, read
from tests.client.session_driver import RUN, batch
from tests.engines.test_shared_bytes import ScriptClock, ScriptDriver

ATTEMPT = ("connect_done", "subscribed", "replay_completed")


class BusyClock(ScriptClock):
    """Time passes between any two looks at the clock, each time more."""

    step_s = 0.0

    def now(self) -> float:
        self.step_s += 0.25
        self.moment += self.step_s
        return self.moment


def test_rows_of_one_attempt_agree_on_when_it_was_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = replace(PROTOCOL, new_connection=lambda options: SpacetimeConnection(options.url, SharedDecoding()))
    monkeypatch.setattr(registry, "get", lambda _: sharing)
    settings = ClientSettings(1, Compatibility(), CAPABILITIES, stream_id=stream_id)
    recorder = Recorder(tmp_path)
    driver = ScriptDriver(Session(0, [RUN], policies.get("reference"), settings), "ws://script", BusyClock(), recorder)
    driver.start()
    driver.get(Reply("1", True, Body(subscription_id="s")))
    driver.get(Reply("2", True, Body(subscription_id="s")))
    driver.get(batch(1, 2, complete=True))
    recorder.seal()
    rows = read(tmp_path).to_pylist()
    due = {row["kind"]: row["t"] - row["value"] / 1000 for row in rows if row["kind"] in ATTEMPT}
    minted_t = next(row["t"] for row in rows if row["kind"] == "token_minted")
    assert due == dict.fromkeys(ATTEMPT, pytest.approx(minted_t))
    assert [row["t"] for row in rows] == sorted(row["t"] for row in rows)
