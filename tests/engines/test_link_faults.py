"""Network faults through whole drills, on both engines: observed, nothing lost, and reverted when a run is cut short."""

import signal
from pathlib import Path

import pytest

from drills.runs import results
from sim.base.errors import IllegalMoveError, UsageError
from sim.drill import model as drills
from sim.engines.sockets import engine as sockets
from sim.record import parquet, run_header
from sim.record.observations import Kind
from tests.storms import run_all, small, troubles, with_faults

SHORT = ("fleet.clients=12", "phases.steady_s=0.5", "phases.fault_s=9", "phases.settle_s=25", "load.events_per_s=60")
# The kinds that no drill of the catalogue has, and what gives them something to act on.
RARE = (
    {"kind": "reset_links", "at_s": 0.0},
    {"kind": "refuse_connects", "at_s": 0.0, "for_s": 0.6},
    {"kind": "slow_close", "at_s": 5.0, "for_s": 2.0, "delay_ms": 300},
    {"kind": "drop_sockets", "at_s": 5.2},  # clients that go, so that there is news to be late
    {"kind": "cut_after_bytes", "at_s": 7.0, "for_s": 2.0, "after_bytes": 3000},
)


def of(rows: list[dict], kind: Kind) -> list[dict]:
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize("engine", ["sockets", "virtual"])
def test_the_rarer_link_faults_take_effect_and_lose_nothing(tmp_path: Path, engine: str):
    drill = with_faults(small("dropped_delivery", *SHORT), *RARE)
    run_dir = run_all(tmp_path, drill, engine=engine)
    header, recorded = run_header.read_verified(results.drill_folder(run_dir, drill.name))
    rows = recorded.table().to_pylist()
    acted = {row["detail"]: row["value"] for row in of(rows, Kind.FAULT_OBSERVED)}
    assert set(acted) == {fault["kind"] for fault in RARE}
    assert min(acted.values()) >= 6
    assert len(of(rows, Kind.SETTLED)) == len(header.subscriptions) == 13
    (verdict,) = results.judge_run(run_dir).drills
    assert troubles(verdict) == []


def test_a_stall_ends_when_a_run_is_interrupted(tmp_path: Path):
    drill = with_faults(small("dropped_delivery", *SHORT), {"kind": "stall_links", "at_s": 0.0, "for_s": 4.5})
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    folder = results.create_drill_folder(run_dir, drill)

    def stop(phase: str, text: str) -> None:
        if phase == "fault":
            signal.raise_signal(signal.SIGINT)

    header = sockets.run(drill, sockets.Options(folder, progress=stop))
    assert header.stopped_because == "it was interrupted"
    rows = parquet.read(folder).to_pylist()
    assert [len(of(rows, kind)) for kind in (Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED)] == [1, 0, 1]


def test_a_proxy_that_leaves_connections_open_ends_the_run_as_a_defect_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sim.engines.sockets.proxy.FaultProxy.leftovers", lambda self: ["port 1 open"])
    drill = with_faults(small("dropped_delivery", *SHORT), {"kind": "reset_links", "at_s": 0.0})
    with pytest.raises(IllegalMoveError, match="it left port 1 open"):
        run_all(tmp_path, drill)


def test_clients_behind_the_proxy_need_three_descriptors_each():
    with pytest.raises(UsageError, match="2000000 clients need about 6000200 file descriptors"):
        sockets.check(small("network_flap", "fleet.clients=2000000"), None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "slow_links", "at_s": 0.0, "for_s": 1.0}, "'faults.0' slows nothing"),
        ({"kind": "reset_links", "at_s": 1.0, "times": 9, "every_s": 1.0}, "'faults.0.times' makes it last 8 s"),
        ({"kind": "half_open_links", "at_s": 0.0, "for_s": 1.0, "gone": "both"}, "gone"),
        ({"kind": "stall_links", "at_s": 0.0, "for_s": 1.0, "direction": "up"}, "direction"),
    ],
)
def test_a_network_fault_that_cannot_be(tmp_path: Path, fault: dict, words: str):
    path = tmp_path / "d.toml"
    keys = "\n".join(f"{name} = {value!r}" for name, value in fault.items())
    path.write_text(
        'name = "d"\nsummary = "Does it?"\nchecks = ["ux.integrity"]\n[fleet]\nclients = 10\n[load]\nevents_per_s = 1.0\n'
        f"[phases]\nsteady_s = 1.0\nfault_s = 5.0\n[[faults]]\n{keys}\n"
    )
    with pytest.raises(UsageError) as refused:
        drills.load(path)
    assert words in str(refused.value)
