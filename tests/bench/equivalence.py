"""How far the fleet engine agrees with the virtual one: a table of differences.

`python -m tests.bench.equivalence [CLIENTS...] [DRILL...]`; without drills all that the fleet engine represents. Drill, model
and seed are the same for both; of each measure it shows the largest difference over the seeds. The virtual engine needs minutes
for 10 000 clients.
"""

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drills import CATALOG
from sim.analysis import metrics
from sim.drill import model as drills
from sim.drill.model import Drill
from sim.drill.system_model import SystemModel
from sim.engines.fleet import engine as fleet
from sim.engines.virtual import engine as virtual
from sim.record import parquet
from sim.record.history import History
from sim.record.ledger import Ledger

SIZES = (1000,)
SEEDS = (1, 2)
MEASURES = (
    *("live_again_50_s", "live_again_95_s", "live_again_99_s", "bootstrap_p95_ms", "peak_connects_per_s"),
    *("connects_attempted", "rebootstrapped_share"),
)


def both(drill: Drill, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """All measures of the fleet engine and of the virtual one, by name; and the CPU seconds of each."""
    model = SystemModel()
    begun = time.process_time()
    ours = {each.name: each.value for each in metrics.tally_metrics(fleet.metric(drill, model, seed))}
    ours["cpu_s"] = time.process_time() - begun
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        begun = time.process_time()
        header = virtual.run(drill, virtual.Options(Path(folder), seed, model))
        cpu_s = time.process_time() - begun
        history = History(header, parquet.read(Path(folder)))
    theirs = {each.name: each.value for each in metrics.run_metrics(history, Ledger(history))}
    return ours, {**theirs, "cpu_s": cpu_s}


def difference(one: float, other: float) -> float:
    """Of the first from the second, as a share of it; 0 where neither has a value."""
    if one == other or (one != one and other != other):
        return 0.0
    return abs(one / other - 1) if other else float("inf")


def represented() -> list[str]:
    """The drills of the catalogue that the fleet engine can run."""
    found = {path.stem: drills.load(path) for path in sorted(CATALOG.glob("*.toml"))}
    return [name for name, drill in found.items() if not drill.variants and fleet.can_represent(drill)]


def main() -> None:
    """Print a row for each drill and size, as soon as it is there."""
    console = Console(width=150)
    names = [word for word in sys.argv[1:] if not word.isdigit()] or represented()
    for clients in [int(word) for word in sys.argv[1:] if word.isdigit()] or SIZES:
        table = Table(f"{clients} clients", *(name.replace("_", " ") for name in MEASURES), "CPU s, fleet", "CPU s, virtual")
        for name in names:
            drill = drills.load(CATALOG / f"{name}.toml", (f"fleet.clients={clients}",))
            pairs = [both(drill, seed) for seed in SEEDS]
            worst = [max(difference(ours[metric], theirs[metric]) for ours, theirs in pairs) for metric in MEASURES]
            cpu = [sum(pair[place]["cpu_s"] for pair in pairs) / len(pairs) for place in (0, 1)]
            table.add_row(name, *(f"{100 * each:.2f} %" for each in worst), *(f"{each:.3f}" for each in cpu))
            print(f"{name}, {clients} clients: done", file=sys.stderr)
        table.columns[0].no_wrap = True
        console.print(table)


if __name__ == "__main__":
    main()
