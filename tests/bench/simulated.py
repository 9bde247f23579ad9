"""How fast the virtual engine is: beside a naive SimPy model of the same storm, and from 1 000 to 30 000 clients.

Each measurement is a process of its own (`python -m tests.bench.simulated JOB`), which reports its CPU time and peak memory;
engine and naive model take turns. CPU seconds count, as other programs on the machine do not stretch those much.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from drills import CATALOG
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.drill.system_model import UNLIMITED, SystemModel
from sim.engines.virtual import engine
from sim.engines.virtual.clock import VirtualClock
from sim.record.observations import Kind
from sim.record.parquet import Recorder, read
from tests.bench import naive_sessions, naive_simpy
from tests.bench.report import medians, peak_mib, ratios, run_alone

# Real sessions, driven by the engine and as processes; a toy as processes, and as the engine would drive it; both toys silent.
KINDS = ("engine", "naive_sessions", "naive", "callbacks", "naive_silent", "callbacks_silent")
RATIOS = (("engine", "naive_sessions"), ("engine", "naive"), ("callbacks", "naive"), ("callbacks_silent", "naive_silent"))
ROUNDS = 3
RATIO_CLIENTS = 1000
SIZES = (1_000, 3_000, 10_000, 30_000)
ARRIVAL_S = 15.0  # whatever the size, so that every run has the same course
# A few events a second for each client: what the modelled runtime can deliver to the largest fleet.
STEADY_LOAD = ("load.events_per_s=3",)


class Job(msgspec.Struct):
    """What to simulate: `kind` is one of `KINDS`; without limits the service itself takes no time."""

    kind: str
    clients: int
    overrides: tuple[str, ...] = ()
    unlimited: bool = False


class Report(msgspec.Struct):
    """What it took. Deliveries are events applied; events are entries of the simulation's queue."""

    deliveries: int
    events: int
    cpu_s: float
    wall_s: float
    peak_mib: float


class _Clocks(VirtualClock):
    made: list[VirtualClock] = []  # noqa: RUF012

    def __init__(self, initial_time: float) -> None:
        super().__init__(initial_time)
        self.made.append(self)


def simulate(job: Job, folder: Path) -> tuple[int, int]:
    """Carry it out; returns deliveries, as far as they were counted, and events."""
    overrides = (f"fleet.clients={job.clients}", f"fleet.connects_per_s={job.clients / ARRIVAL_S}", *job.overrides)
    drill = drills.load(CATALOG / "reconnect_storm.toml", overrides)
    if job.kind != "engine":
        fault_s = ARRIVAL_S + drill.phases.steady_s
        cuts_s = [fault_s + fault.at_s for fault in drill.faults]
        ends_s = fault_s + drill.phases.fault_s + drill.phases.recovery_s
        recorder = None if job.kind.endswith("silent") else Recorder(folder)
        done = _run_other(job.kind, drill, recorder, cuts_s, ends_s)
        if recorder is not None:
            recorder.seal()
        return done
    vars(engine)["VirtualClock"] = _Clocks
    engine.run(drill, engine.Options(folder, model=UNLIMITED if job.unlimited else SystemModel()))
    return 0, next(_Clocks.made[0]._eid)


def _run_other(kind: str, drill: Drill, recorder: Recorder | None, cuts_s: list[float], ends_s: float) -> tuple[int, int]:
    if kind == "naive_sessions":
        assert recorder is not None
        return naive_sessions.run(drill, recorder, cuts_s, ends_s)
    run_toy = naive_simpy.run if kind.startswith("naive") else naive_simpy.run_callbacks
    return run_toy(drill, recorder, cuts_s, ends_s)


def applied(folder: Path) -> int:
    """How many deliveries a run recorded."""
    kinds = read(folder)["kind"].cast(pa.string()).to_pylist()
    return kinds.count(Kind.APPLIED)


def metric(job: Job) -> Report:
    """In a process of its own."""
    return run_alone("tests.bench.simulated", job, Report)


def run() -> dict[str, object]:
    """The ratio, round by round, and the growth."""
    rounds = [{kind: _rates(metric(Job(kind, RATIO_CLIENTS, unlimited=True))) for kind in KINDS} for _ in range(ROUNDS)]
    growth = [{"clients": size, **_rates(metric(Job("engine", size, STEADY_LOAD)))} for size in SIZES]
    return {
        "clients": RATIO_CLIENTS,
        "rounds": ROUNDS,
        "median": medians(rounds),
        "ratios": {f"{one} / {other}": ratios(rounds, one, other)["deliveries_per_cpu_s"] for one, other in RATIOS},
        "each_round": rounds,
        "growth": growth,
    }


def _rates(report: Report) -> dict[str, float]:
    return {
        "deliveries": float(report.deliveries),
        "deliveries_per_cpu_s": report.deliveries / report.cpu_s,
        "events_per_cpu_s": report.events / report.cpu_s,
        "delivery_cpu_us": report.cpu_s / report.deliveries * 1e6,
        "cpu_s": report.cpu_s,
        "wall_s": report.wall_s,
        "peak_mib": report.peak_mib,
    }


def show(result: dict[str, object]) -> None:
    """Three tables."""
    data = msgspec.convert(result, _Result)
    table = Table(f"simulating {data.clients} clients", *KINDS)
    for name in data.median["engine"]:
        table.add_row(name, *(f"{data.median[kind][name]:,.1f}" for kind in KINDS))
    ratios = Table("deliveries per CPU second", "ratio (median of rounds)")
    for name, ratio in data.ratios.items():
        ratios.add_row(name, f"{ratio:.2f}")
    growth = Table("clients", "deliveries", "CPU s", "wall s", "CPU us a delivery", "CPU ms a client", "peak MiB")
    for row in data.growth:
        a_client = row["cpu_s"] / row["clients"] * 1000
        figures = (row["deliveries"], row["cpu_s"], row["wall_s"], row["delivery_cpu_us"], a_client, row["peak_mib"])
        growth.add_row(f"{row['clients']:,.0f}", *(f"{figure:,.1f}" for figure in figures))
    Console(width=120).print(table, ratios, growth)


class _Result(msgspec.Struct):
    clients: int
    median: dict[str, dict[str, float]]
    ratios: dict[str, float]
    growth: list[dict[str, float]]


def main() -> None:
    """Without an argument measure and show everything; with one carry that job out."""
    if len(sys.argv) == 1:
        show(run())
        return
    job = msgspec.json.decode(sys.argv[1], type=Job)
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        deliveries, events = simulate(job, Path(folder))
        report = Report(deliveries, events, time.process_time() - cpu, time.perf_counter() - wall, peak_mib())
        report.deliveries = deliveries or applied(Path(folder))
    print(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    main()
