"""The policy `desktop` reproduces the quirks of the shipped desktop client."""

from hypothesis import given
from hypothesis import strategies as st

from sim.client import policies
from sim.client.cursor import apply_as_desktop
from sim.client.policies import Retries
from sim.protocols.events import MINTS_FIRST, DisconnectReason


def test_desktop_applies_batches_like_shipped_client(vectors):
    for line in vectors("desktop_apply"):
        watermark = line["start"]
        for step in line["steps"]:
            batch = apply_as_desktop(watermark, step["batch"])
            assert batch._asdict() == {name: step[name] for name in batch._fields}, (line["start"], step)
            watermark = batch.checkpoint


def delays(history: list[str], live_s: float = 0.0) -> list[float]:
    """The policy's delay after each disconnect, with `live_s` seconds live before each."""
    retries = Retries(0, policies.get("desktop"), seed=1)
    out = []
    for reason in history:
        retries.count(live_s)
        out.append(retries.delay_ms(DisconnectReason(reason), None)[0])
    return out


def test_desktop_delays_and_flags_match_shipped_client(vectors):
    for history in vectors("desktop_lifecycle"):
        steps = [step for step in history if "live" not in step]
        reasons = [step["disconnect"] for step in steps]
        live_s = 3600.0 if len(steps) < len(history) else 0.0  # going live resets nothing
        assert delays(reasons, live_s) == [step["delay_ms"] for step in steps], history
        for step in steps:
            assert step["reset_cursor"] == (step["disconnect"] == DisconnectReason.STALE_CURSOR)
            assert step["refresh_token"] == (step["disconnect"] in MINTS_FIRST)


def test_desktop_applies_nothing_after_missed_event():
    watermark, applied = 2, []
    checkpoints = []
    for seqs in ([5], [6], [7, 8], [9]):
        batch = apply_as_desktop(watermark, seqs)
        watermark = batch.checkpoint
        applied += batch.applied
        checkpoints.append(watermark)
    assert applied == []
    assert checkpoints == [4, 5, 6, 8]


def test_desktop_delay_is_eight_seconds_from_sixth_disconnect():
    assert delays(["network"] * 8, live_s=3600.0) == [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]


@given(st.integers(0, 30), st.lists(st.integers(1, 40)))
def test_every_event_of_a_batch_has_one_outcome(watermark, seqs):
    batch = apply_as_desktop(watermark, seqs)
    assert sorted(batch.applied + batch.duplicate + batch.gap) == sorted(seqs)
    assert batch.checkpoint >= watermark
