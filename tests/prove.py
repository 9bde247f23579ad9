"""`make prove`: all that is wrong in `tests/mutation_table.py`, one after the other on real sockets; all of it must be caught.

What only a model can be wrong in is simulated. Names choose rows, by what is wrong, by drill, or by what turns red. Exit code
0: all was caught; 1: something was not, or was not tried in time; 3: no such row; 130: interrupted.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.children import bounded
from tests.mutation_table import EVERYWHERE, Catch, turned_red
from tests.mutation_table import MUTATIONS as OF_THE_DEFAULT
from tests.protocol_findings import DEFECTS

MUTATIONS = (*OF_THE_DEFAULT, *(case for case in DEFECTS if case not in OF_THE_DEFAULT))

CAUGHT, MISSED, USAGE, STOPPED = 0, 1, 3, 130
MINUTES = 60.0  # [ours] for all rows; they take about fifteen
ROW_S = 180.0  # [ours] for one row; the longest takes about a minute
_WIDTH = 150  # where no terminal says how wide it is
_CHILD = "--in-this-process"
LOG, ANSWER = "log.txt", "answer.json"


@dataclass(frozen=True)
class Row:
    """What became of one row; `trouble` is empty where all was caught."""

    case: Catch
    engine: str
    found: Sequence[str]
    trouble: str
    seconds: float


def main(arguments: Sequence[str], stop: threading.Event) -> int:
    """Run the chosen rows until `stop`, print what became of them, and return the exit code."""
    asked = _parser().parse_args(arguments)
    chosen = [case for case in MUTATIONS if not asked.names or _called(case) & {*asked.names}]
    if unknown := sorted({*asked.names}.difference(*map(_called, MUTATIONS))):
        print(f"prove: tests/mutation_table.py has no row for {', '.join(unknown)}.", file=sys.stderr)
        return USAGE
    out, until = Path(tempfile.mkdtemp(prefix="stormgate-prove-")), time.monotonic() + 60 * asked.minutes
    rows = list(prove(chosen, asked.engine, out, until, stop))
    show(rows, len(chosen), "interrupted" if stop.is_set() else "out of time")
    missed = any(row.trouble for row in rows)
    if missed:
        print(f"evidence: {out}")
    else:
        shutil.rmtree(out, ignore_errors=True)
    if stop.is_set():
        return STOPPED
    return MISSED if missed or len(rows) < len(chosen) else CAUGHT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("prove", description="Show that all that is wrong on purpose is caught by name.")
    parser.add_argument("names", nargs="*", help="what is wrong, drills, checks or laws; all rows without any")
    parser.add_argument("--engine", choices=EVERYWHERE, default="sockets", help="where a row can run on it (default: sockets)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"begin no row after so long (default: {MINUTES:g})")
    return parser


def _called(case: Catch) -> set[str]:
    """What a row can be asked for by."""
    return {case.wrong, case.drill, *case.names}


def prove(chosen: Sequence[Catch], engine: str, out: Path, until: float, stop: threading.Event) -> Iterator[Row]:
    """What becomes of one row after the other; of none any more once it is `until`, or there is a `stop`."""
    for number, case in enumerate(chosen, 1):
        if time.monotonic() > until or stop.is_set():
            return
        print(f"{number} of {len(chosen)}: {case}", file=sys.stderr, flush=True)
        row = _prove(case, engine if engine in case.engines else case.engines[0], out / f"{number:02}", stop)
        if not stop.is_set():
            yield row


def _prove(case: Catch, engine: str, out: Path, stop: threading.Event) -> Row:
    """One row, in a process of its own: one that hangs or breaks is a row that was not caught, and no more."""
    out.mkdir()
    began = time.monotonic()
    code = bounded([sys.executable, __file__, _CHILD, str(case), engine, str(out)], out / LOG, ROW_S, stop)
    seconds = time.monotonic() - began
    if code is None:
        return Row(case, engine, (), f"not done after {seconds:.0f} s", seconds)
    if code != 0:
        return Row(case, engine, (), f"broke: see {out / LOG}", seconds)
    answer = json.loads((out / ANSWER).read_text())
    return Row(case, engine, answer["found"], answer["trouble"], seconds)


def run_one(name: str, engine: str, out: str) -> None:
    """One row in this process; leaves what turned red, and what is not as it must be."""
    case = next(case for case in MUTATIONS if str(case) == name)
    verdict = case.judged(Path(out), engine)
    answer = {"found": sorted(turned_red(verdict)), "trouble": case.missed(verdict, engine)}
    (Path(out) / ANSWER).write_text(json.dumps(answer))


def show(rows: Sequence[Row], wanted: int, why: str) -> None:
    """Print what became of the rows, and how many there should have been."""
    console = Console(highlight=False)
    table = Table("wrong", "drill", "engine", "expected", "found", "verdict", "seconds", show_lines=True)
    for row in rows:
        expected, found = "\n".join(sorted(row.case.names)), "\n".join(row.found)
        verdict = f"NOT CAUGHT: {row.trouble}" if row.trouble else "caught"
        table.add_row(row.case.wrong, row.case.drill, row.engine, expected, found, verdict, f"{row.seconds:.1f}")
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
    caught = sum(not row.trouble for row in rows)
    untried = f", {wanted - len(rows)} not tried ({why})" if len(rows) < wanted else ""
    console.print(f"{caught} of {wanted} caught{untried}")


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:  # whose drill minds the signals itself
        run_one(*sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:], _stopped_by_signals()))
