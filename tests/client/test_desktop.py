"""The shipped desktop client's quirks."""

from hypothesis import given
from hypothesis import strategies as st

from sim.client.desktop import DesktopCounter, apply_batch
from sim.protocols.spacetime.disconnects import DisconnectReason


def test_batches_are_applied_as_the_shipped_client_applies_them(vectors):
    for line in vectors("desktop_apply"):
        watermark = line["start"]
        for step in line["steps"]:
            batch = apply_batch(watermark, step["batch"])
            assert batch._asdict() == {name: step[name] for name in batch._fields}, (line["start"], step)
            watermark = batch.checkpoint


def test_delays_and_flags_by_history_are_the_shipped_clients(vectors):
    for history in vectors("desktop_lifecycle"):
        counter = DesktopCounter()
        for step in history:
            if "live" in step:
                counter.live()
                continue
            delay = counter.disconnected(DisconnectReason(step["disconnect"]))
            assert delay._asdict() == {name: step[name] for name in delay._fields}, history


def test_after_one_missed_event_nothing_more_is_applied():
    watermark, applied = 2, []
    checkpoints = []
    for seqs in ([5], [6], [7, 8], [9]):
        batch = apply_batch(watermark, seqs)
        watermark = batch.checkpoint
        applied += batch.applied
        checkpoints.append(watermark)
    assert applied == []
    assert checkpoints == [4, 5, 6, 8]


def test_from_the_sixth_disconnect_on_every_delay_is_eight_seconds():
    counter = DesktopCounter()
    delays = []
    for _ in range(8):
        delays.append(counter.disconnected(DisconnectReason.NETWORK).delay_ms)
        counter.live()
    assert delays == [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]


@given(st.integers(0, 30), st.lists(st.integers(1, 40)))
def test_every_event_of_a_batch_has_one_outcome(watermark, seqs):
    batch = apply_batch(watermark, seqs)
    assert sorted(batch.applied + batch.duplicate + batch.gap) == sorted(seqs)
    assert batch.checkpoint >= watermark
