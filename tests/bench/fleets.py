"""How fast the fleet engine is: beside the virtual engine, and from 10 000 to 10 000 000 clients.

`python -m tests.bench.fleets` measures all of it; each measurement is a process of its own, which compiles or finds what was
compiled before it begins to count. What compiling itself takes is measured, too. `--most N` leaves larger fleets out.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from drills import CATALOG
from sim.drill import model as drills
from sim.drill.system_model import UNLIMITED
from sim.engines.fleet import engine as fleet
from sim.engines.virtual import engine as virtual
from tests.bench.report import peak_mib, run_alone

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SIDE_BY_SIDE = 1000  # clients; the virtual engine's own figure is the best for small fleets
ROUNDS = 3


class Job(msgspec.Struct):
    """What to simulate, and by which engine."""

    engine: str
    clients: int


class Report(msgspec.Struct):
    """What it took; the rest of the CPU time went into starting and compiling."""

    clients: int
    events: int
    cpu_s: float
    wall_s: float
    start_cpu_s: float
    peak_mib: float


def simulate(job: Job) -> Report:
    """The reconnect storm on a service that takes no time, from the first arrival to the written evidence."""
    drill = drills.load(CATALOG / "reconnect_storm.toml", (f"fleet.clients={job.clients}",))
    small = msgspec.structs.replace(drill, fleet=msgspec.structs.replace(drill.fleet, clients=10))
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        if job.engine == "fleet":
            fleet.run(small, fleet.Options(Path(folder, "small"), model=UNLIMITED))
        start_cpu_s, wall = time.process_time(), time.perf_counter()
        if job.engine == "fleet":
            header = fleet.run(drill, fleet.Options(Path(folder, "run"), model=UNLIMITED))
        else:
            header = virtual.run(drill, virtual.Options(Path(folder, "run"), model=UNLIMITED))
        cpu_s, wall_s = time.process_time() - start_cpu_s, time.perf_counter() - wall
    events = header.tally.events if header.tally is not None else 0
    return Report(job.clients, events, cpu_s, wall_s, start_cpu_s, peak_mib())


def metric(job: Job, **environment: str) -> Report:
    """In a process of its own."""
    return run_alone("tests.bench.fleets", job, Report, **environment)


def run(most: int) -> None:
    """Three tables."""
    console = Console(width=130)
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        cold, warm = (metric(Job("fleet", 1000), NUMBA_CACHE_DIR=folder).start_cpu_s for _ in range(2))
    console.print(f"CPU s until it can begin: {cold:.1f} with compiling, {warm:.1f} with what was compiled before")
    ratios = Table(f"{SIDE_BY_SIDE} clients", "clients per CPU second, fleet", "virtual", "ratio")
    for number in range(ROUNDS):
        ours, theirs = (SIDE_BY_SIDE / metric(Job(engine, SIDE_BY_SIDE)).cpu_s for engine in ("fleet", "virtual"))
        ratios.add_row(f"round {number + 1}", f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:,.0f}")
    growth = Table("clients", "events", "CPU s", "wall s", "million events/s of CPU", "CPU us a client", "peak MiB")
    for clients in (size for size in SIZES if size <= most):
        each = metric(Job("fleet", clients))
        rate, a_client = each.events / each.cpu_s / 1e6, each.cpu_s / clients * 1e6
        figures = (f"{each.cpu_s:,.2f}", f"{each.wall_s:,.2f}", f"{rate:,.1f}", f"{a_client:,.1f}", f"{each.peak_mib:,.0f}")
        growth.add_row(f"{clients:,}", f"{each.events:,}", *figures)
    console.print(ratios, growth)


def main() -> None:
    """With a job carry it out; else measure."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] != "--most":
        print(msgspec.json.encode(simulate(msgspec.json.decode(arguments[0], type=Job))).decode())
    else:
        run(int(arguments[1]) if arguments else SIZES[-1])


if __name__ == "__main__":
    main()
