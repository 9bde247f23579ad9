"""A stream that others publish to as well can be drilled: their events are counted, and blamed on nobody."""

import threading
from pathlib import Path

import msgspec
import pytest

from drills.runs import results, running
from drills.runs.request import Request
from sim.analysis.invariants.registry import violations
from sim.analysis.metrics import run_metrics
from sim.drill.fault_kinds import DropSockets
from sim.drill.model import Load, Phases
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets import engine
from sim.protocols.markers import marked
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.parquet import read
from sim.record.run_header import read_header
from tests.histories import storm_drill
from tests.served import serving
from tests.storms import small

SHARED = "runtime.codex.worker.events"


def history_of(folder: Path) -> History:
    return History(read_header(folder), read(folder))


def test_foreign_publishers_of_a_shared_stream_turn_nothing_red(tmp_path: Path) -> None:
    drill = msgspec.structs.replace(
        storm_drill(clients=4, checks=("delivery.dropped_deliveries",)),
        phases=Phases(steady_s=0.5, fault_s=0.5, recovery_s=0.2, settle_s=8.0),
        load=Load(events_per_s=40.0, worker_events=True),
        faults=(DropSockets(at_s=0.0),),
    )
    stop = threading.Event()
    with serving(tmp_path / "mock") as mock:
        own = mock.run()

        def publish() -> None:
            number = 0
            while not stop.wait(0.03):
                number += 1
                payload = {"n": number} if number % 2 else marked({"n": number}, "0" * 12, SHARED, number)
                assert mock.publish(own, payload, "codex.worker.progress").status_code == 201

        other = threading.Thread(target=publish)
        other.start()
        try:
            endpoints = Endpoints(mock.url, "mock", mock.url, mock.url)
            header = engine.run(drill, engine.Options(tmp_path / "drill", endpoints=endpoints))
        finally:
            stop.set()
            other.join()
    assert header.complete
    history = history_of(tmp_path / "drill")
    ledger = Ledger(history)
    assert violations(history, ledger) == []
    assert (len(history.fleet(Kind.SETTLED)), len(history.of(Kind.STILL_PENDING))) == (4, 0)
    assert ledger.dropped.count == 0 < ledger.expected
    foreign = {each.name: each.value for each in run_metrics(history, ledger)}["foreign_events"]
    assert foreign >= 10


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        ("swap_payloads", {"real_time_order"}),
        ("repeat_payloads", {"applied_twice", "silent_loss", "acknowledged_lost"}),
        ("alter_payloads", {"altered_payload"}),
        ("", set()),
    ],
)
def test_lies_are_found_by_name_without_a_position_in_any_acknowledgement(defect: str, names: set[str], tmp_path: Path) -> None:
    """The operators' protocol has one shared stream, and its publishes are answered with another number."""
    request = Request(
        (small("runtime_restart", "phases.settle_s=4"),),
        engine="virtual",
        target="mock",
        seed=1,
        defects=(defect,) if defect else (),
        thresholds=None,
        out=tmp_path,
        protocol="phoenix_sync",
    )
    (verdict,) = results.judge_run(running.run(request)).drills
    assert names <= {violation.invariant for violation in verdict.violations}
    assert bool(verdict.violations) == bool(defect)
    (folder,) = {path.parent for path in tmp_path.rglob("run.json")}
    published = history_of(folder).of(Kind.PUBLISHED)
    assert len(published)
    assert (published.seq == -1).all()
