"""Part of `make prove`: healthy servers beside another load. No drill may blame them for what the machine did.

The servers are the mock in both of its protocols, NATS and Centrifugo. Each drill whose expected result is *go* runs twice, or
twenty times if it is in the quick set, with the phases and clients of the catalogue. Another process keeps a core busy. A run
is right if it is a go, or if no check fails and every error names the machine. Other runs are kept.

The folder given with --out has a line for every run that is done. With the same folder, only the others run. Exit code 0: all
runs are right; 1: some are wrong, or were not tried in time; 3: no such row; 130: interrupted.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.runs import catalog, results
from drills.third_party import findings
from drills.third_party.recipe import SANE
from sim.base.exit_codes import ExitCode
from sim.drill import model as drills
from sim.protocols.registry import DEFAULT
from tests.children import bounded
from tests.commands import STORMGATE
from tests.protocol_findings import FOUND, OVERRIDES, PROTOCOLS
from tests.storms import CATALOGUE, SOCKETS_ONLY

RIGHT, WRONG, USAGE, STOPPED = 0, 1, 3, 130
GO, MACHINE, OTHER = "go", "machine", "wrong"
ROUNDS, QUICK_ROUNDS = 2, 20
MINUTES = 300.0  # [ours] for all runs
RUN_S = 300.0  # [ours] for one run; the longest takes about a minute
SERVERS = ("nats", "centrifugo")
THE_MACHINE = re.compile(r"the machine was too busy from [\d.]+ s|the load generator was (saturated|late itself)")
RUNS = "runs.jsonl"
_WIDTH = 150  # where no terminal says how wide it is
# Keeps a core busy for 80 % of the time, until its standard input ends.
_BURNER = """
import select, sys, time
while not select.select([sys.stdin], [], [], 0.02)[0]:
    until = time.monotonic() + 0.08
    while time.monotonic() < until:
        pass
"""


@dataclass(frozen=True)
class Attempt:
    """One run of a drill on a target: a protocol of the mock, or the name of a third-party server."""

    target: str
    drill: str
    seed: int
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target}-{self.drill}-{self.seed}"

    def command(self, out: Path) -> list[str]:
        """Return the command line."""
        sets = [word for setting in self.settings for word in ("--set", setting)]
        if self.target in SERVERS:
            chosen = ["target", "up", self.target, "--drill", self.drill]
        else:
            chosen = ["drill", "run", self.drill, "--protocol", self.target]
        return [*STORMGATE, *chosen, "--seed", str(self.seed), "--out", str(out), "--json", *sets]


@dataclass(frozen=True)
class Done:
    """What became of a run. `why` says what is wrong, or which times the machine took."""

    name: str
    target: str
    drill: str
    result: str
    why: str
    seconds: float


def attempts() -> list[Attempt]:
    """All runs: first each drill, then those of the quick set again and again."""
    found = [*_on_the_mock(), *_on_servers()]
    quick = {path.stem for path in catalog.catalogue().values() if drills.load(path).quick}
    return [
        Attempt(target, drill, seed, settings)
        for seed in range(1, QUICK_ROUNDS + 1)
        for target, drill, settings in found
        if seed <= ROUNDS or drill in quick
    ]


def _on_the_mock() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """All drills of the default protocol; of the others those that the table has, unless they need settings of their own."""
    for protocol in (DEFAULT, *PROTOCOLS):
        left = {*FOUND[protocol], *OVERRIDES.get(protocol, {})}
        known = catalog.catalogue() if protocol == DEFAULT else (*CATALOGUE, *SOCKETS_ONLY)
        yield from ((protocol, drill, ()) for drill in known if drill not in left)


def _on_servers() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The drills of the first sane row each, if that row is a go."""
    for server in SERVERS:
        sane = {row.drill: row for row in reversed(findings.of(server)) if row.variant == SANE}
        yield from ((server, row.drill, row.at_full_length) for row in sane.values() if row.expects == "go")


def judged(code: int, verdict: RunVerdict) -> tuple[str, str]:
    """The result of a run and the reason, by its exit code and its verdict."""
    if code == ExitCode.GO:
        return GO, ""
    wrong = [text for drill in verdict.drills for text in complaints(drill)]
    if code == ExitCode.TOOL and not wrong:
        named = (THE_MACHINE.search(check.reason) for drill in verdict.drills for check in drill.checks)
        return MACHINE, next((each.group() for each in named if each), "")
    return OTHER, "; ".join(wrong) or f"exit code {code}"


def complaints(verdict: DrillVerdict) -> list[str]:
    """What is wrong with a drill on a healthy server: all but errors that name the machine, and what is then not measured."""
    unready = [check for check in verdict.checks if check.is_required and check.state is not State.PASS]
    red = [check for check in unready if check.state in (State.FAIL, State.ERROR)]
    wrong = [check for check in red or unready if check.state is not State.ERROR or not THE_MACHINE.search(check.reason)]
    found = [f"{check.name} {check.state}: {check.reason}" for check in wrong]
    found += [f"{each.invariant}: {each.first}" for each in verdict.violations]
    return found if red or found else [verdict.not_run or "no check is red"]


def carry_out(attempt: Attempt, out: Path, stop: threading.Event) -> Done | None:
    """Run an attempt in a folder of its own; None if it was interrupted. Only what is not a go is kept."""
    folder, began = out / str(attempt), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    code = bounded(attempt.command(folder), folder / "log.txt", RUN_S, stop)
    if stop.is_set() and code is None:
        return None
    seconds = time.monotonic() - began
    if code is None:
        result, why = OTHER, f"not done after {seconds:.0f} s"
    elif run_dirs := [path.parent for path in folder.rglob(results.PLAN_NAME)]:
        result, why = judged(code, results.judge_run(run_dirs[0]))
    else:
        result, why = OTHER, f"exit code {code} without a run: see {folder / 'log.txt'}"
    if result == GO:
        shutil.rmtree(folder, ignore_errors=True)
    return Done(str(attempt), attempt.target, attempt.drill, result, why, seconds)


@contextmanager
def load(cores: int) -> Iterator[None]:
    """Keep so many cores busy. The processes end with ours, whatever ends it."""
    burners = [subprocess.Popen([sys.executable, "-c", _BURNER], stdin=subprocess.PIPE) for _ in range(cores)]
    try:
        yield
    finally:
        for burner in burners:
            burner.communicate()


def done_before(out: Path) -> list[Done]:
    """The runs of a folder that are done."""
    lines = (out / RUNS).read_text().splitlines() if (out / RUNS).exists() else []
    return [Done(**json.loads(line)) for line in lines]


def prove(chosen: Sequence[Attempt], out: Path, jobs: int, until: float, stop: threading.Event) -> list[Done]:
    """Carry out all attempts that are not done yet, and return what became of them all."""
    lock, before = threading.Lock(), {each.name: each for each in done_before(out)}
    found = [before[str(attempt)] for attempt in chosen if str(attempt) in before]

    def one(attempt: Attempt) -> None:
        if stop.is_set() or time.monotonic() > until or (done := carry_out(attempt, out, stop)) is None:
            return
        with lock, (out / RUNS).open("a") as file:
            found.append(done)
            file.write(json.dumps(asdict(done)) + "\n")
            print(f"{len(found)} of {len(chosen)}: {done.name}: {done.result} {done.why}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [attempt for attempt in chosen if str(attempt) not in before]))
    return found


def show(found: Sequence[Done], wanted: int, why: str) -> None:
    """Print a table of all drills, and the runs that are wrong."""
    console = Console(highlight=False)
    table = Table("target", "drill", "runs", GO, MACHINE, OTHER)
    by_row = {(each.target, each.drill): Counter[str]() for each in found}
    for each in found:
        by_row[each.target, each.drill][each.result] += 1
    for (target, drill), counts in sorted(by_row.items()):
        table.add_row(target, drill, str(counts.total()), *(str(counts[result]) for result in (GO, MACHINE, OTHER)))
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    for each in found:
        if each.result == OTHER:
            console.print(f"{each.name}: {each.why}", markup=False)
    right = sum(each.result != OTHER for each in found)
    untried = f", {wanted - len(found)} not tried ({why})" if len(found) < wanted else ""
    console.print(f"{right} of {wanted} right{untried}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("prove_healthy", description="Show that no drill blames a healthy server for the machine.")
    parser.add_argument("names", nargs="*", help="targets and drills; all without any")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"begin no run after so long (default: {MINUTES:g})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--busy-cores", type=int, default=1, help="cores that another process keeps busy (default: 1)")
    parser.add_argument("--out", type=Path, help="folder of runs; the same folder goes on where it ended (default: a new one)")
    return parser


def main(arguments: Sequence[str], stop: threading.Event) -> int:
    """Carry out the chosen attempts until `stop`, print what became of them, and return the exit code."""
    asked = _parser().parse_args(arguments)
    chosen = [each for each in attempts() if not asked.names or {each.target, each.drill} & {*asked.names}]
    if unknown := {*asked.names}.difference(*({each.target, each.drill} for each in attempts())):
        print(f"prove_healthy: there is no row for {', '.join(sorted(unknown))}.", file=sys.stderr)
        return USAGE
    out = asked.out or Path(tempfile.mkdtemp(prefix="stormgate-healthy-"))
    out.mkdir(parents=True, exist_ok=True)
    with load(asked.busy_cores):
        found = prove(chosen, out, asked.jobs, time.monotonic() + 60 * asked.minutes, stop)
    show(found, len(chosen), "interrupted" if stop.is_set() else "out of time")
    print(f"runs: {out}")
    if stop.is_set():
        return STOPPED
    return WRONG if len(found) < len(chosen) or any(each.result == OTHER for each in found) else RIGHT


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _stopped_by_signals()))
