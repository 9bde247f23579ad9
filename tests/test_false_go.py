"""Ways to a go that should be none: each was one once, or nearly."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from histories import storm_drill
from served import serving
from storms import red, run_all, storm

from sim.drill import AnyFault, Drill, DropSockets, Load, Phases, ShrinkReplayBudget
from sim.engines import course, sockets
from sim.engines.fault_actions import FaultActions
from sim.engines.lane_http import Lane
from sim.engines.publisher import Publisher, Stream
from sim.errors import StorageError
from sim.faults import PlannedFault
from sim.observations import Columns, Recorder

# --- evidence that was never written ----------------------------------------------------------------


def test_rows_that_the_writer_could_not_make_sense_of_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread died of anything but a disk's trouble, and the run was sealed as whole without those rows."""
    recorder = Recorder(tmp_path)
    recorder.add(0.5, "phase", detail="steady")
    recorder.flush()

    def fails(_: Columns) -> None:
        raise ValueError("columns of different lengths")

    monkeypatch.setattr(Columns, "table", fails)
    recorder.add(1.0, "gap", 1, "runtime.run.1.events", 7)
    with pytest.raises(StorageError, match="different lengths"):
        recorder.seal()


def test_a_chunk_that_vanished_meanwhile_is_missed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for t in range(3):
        recorder.add(float(t), "phase", detail="steady")
        recorder.flush()
    while not (vanishing := tmp_path / "observations" / "000001.parquet").exists():
        pass
    vanishing.unlink()
    with pytest.raises(StorageError, match="2 rows were written where 3 were observed"):
        recorder.seal()


# --- what went wrong behind the engine's back -------------------------------------------------------


def tiny(*faults: AnyFault, **load: Any) -> Drill:
    """A drill of a second or two over real processes and sockets."""
    phases = Phases(steady_s=0.3, fault_s=0.5, heal_s=0.2, settle_s=5.0)
    return msgspec.structs.replace(
        storm_drill(clients=4, checks=("delivery.dropped_deliveries",)),
        phases=phases,
        load=Load(events_per_s=40.0, **load),
        faults=faults or (DropSockets(at_s=0.0),),
    )


def test_a_sampler_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exception lay in a task that nobody asked, and what it should have sampled was simply not there."""

    def fails(*_: object) -> None:
        raise LookupError("the sampler died")

    monkeypatch.setattr(course, "lag_events", fails)
    with pytest.raises(LookupError, match="the sampler died"):
        run_all(tmp_path, tiny())


def test_a_publisher_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Publisher._publish

    def fails(self: Publisher, number: int, stream: Stream, due: float) -> Coroutine[Any, Any, None]:
        if number > 10:
            raise LookupError("the publisher died")
        return publish(self, number, stream, due)

    monkeypatch.setattr(Publisher, "_publish", fails)
    with pytest.raises(LookupError, match="the publisher died"):
        run_all(tmp_path, tiny())


def test_a_runtime_that_dies_in_the_storm_is_not_quietly_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Healing started it again, and everybody came back: a crash under load was a pass."""
    run = FaultActions.run

    async def and_the_runtime_dies(self: FaultActions, fault: PlannedFault, began: float) -> None:
        await run(self, fault, began)
        assert self._process is not None
        await self._process.kill()

    monkeypatch.setattr(FaultActions, "run", and_the_runtime_dies)
    assert "runtime_died" in red(storm(tmp_path, tiny()))


def test_a_fault_does_not_mend_what_is_wrong_with_the_target(tmp_path: Path) -> None:
    """The engine put its own idea of a healthy runtime in force, and the target's defects were gone before they could show."""
    with serving(tmp_path / "mock", defects=["duplicate_delivery"], mint_delay_ms=1.0) as mock:
        lane = Lane(mock.url, "mock", mock.url, mock.url)
        folder = tmp_path / "drill"
        fault = ShrinkReplayBudget(at_s=0.0, events=7, for_s=0.2)
        header = sockets.run(tiny(fault), sockets.Options(folder, lane=lane))
        left = mock.state()["switches"]
    assert header.complete
    assert header.defects == left["defects"] == ["duplicate_delivery"]
    assert (left["mint_delay_ms"], left["shrunk_budget_events"]) == (1.0, 0)
