"""What judging costs: a record of 10 000 clients and 5 million deliveries, 15 million rows, all of them in order.

The record is made by one process with the engines' own recorder, and judged by another with every invariant, every metric and
the checks of `reconnect_storm`. The verdict must find no violation. `python -m tests.bench.judged JOB` judges one record.
"""

import math
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from drills import CATALOG
from drills.judging import gates
from drills.judging.checks.thresholds import DEFAULT_PATH, load_thresholds
from sim.drill import model as drills
from sim.record.history import History
from sim.record.observations import Kind, Row
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader, read_verified, write_header
from tests.bench.report import peak_mib, run_alone

CLIENTS = 10_000
STREAMS = 3
EVENTS = 1500  # 500 for each client
EVENTS_PER_S = 30.0


class Job(msgspec.Struct):
    """`kind`: make the record in this folder, or judge it."""

    kind: str
    folder: str


class Report(msgspec.Struct):
    """What it took. `deliveries` are those that the verdict counts."""

    rows: int
    deliveries: int
    violations: int
    cpu_s: float
    wall_s: float
    peak_mib: float


def _row(kind: Kind, stream: str = "", seq: int = -1, value: float = math.nan, detail: str = "", marker: int = -1) -> Row:
    return kind, stream, seq, 0, value, detail, marker


def make(folder: Path) -> RunHeader:
    """Clients that connect, get all events of one stream each, and settle; an auditor that gets all events of all."""
    recorder = Recorder(folder, at_will=True)
    streams = [f"runtime.run.{number}.events" for number in range(STREAMS)]
    for client in range(CLIENTS):
        live = _row(Kind.SUBSCRIBED, value=20.0), _row(Kind.REPLAY_COMPLETED, value=20.0)
        start = _row(Kind.REBOOTSTRAPPED, streams[client % STREAMS], 0, detail="fresh")
        recorder.extend(client / CLIENTS, client, [_row(Kind.CONNECT_ATTEMPTED), start, *live])
    for number in range(EVENTS):
        stream, seq, t = streams[number % STREAMS], number // STREAMS + 1, 2.0 + number / EVENTS_PER_S
        recorder.extend(t, -1, [_row(Kind.PUBLISHED, stream, seq, 1.0, f"hash {number}", number)])
        rows = _delivered(stream, seq, number)
        for client in range(number % STREAMS, CLIENTS, STREAMS):
            recorder.share(t + 0.01 + client * 1e-6, client, rows)
        recorder.flush_if_full()
    end_t = 3.0 + EVENTS / EVENTS_PER_S
    for client in range(CLIENTS):
        recorder.add(end_t, Kind.SETTLED, client)
    for number in range(EVENTS):
        recorder.share(end_t + 1.0, CLIENTS, _delivered(streams[number % STREAMS], number // STREAMS + 1, number))
    recorder.extend(end_t + 2.0, CLIENTS, [_row(Kind.REPLAY_COMPLETED, value=20.0), _row(Kind.SETTLED)])
    sha256, count = recorder.seal()
    return _header(sha256, count)


def _delivered(stream: str, seq: int, number: int) -> tuple[Row, ...]:
    applied = _row(Kind.APPLIED, stream, seq, detail=f"hash {number}", marker=number)
    return _row(Kind.RECEIVED, stream, value=1.0), applied, _row(Kind.CHECKPOINT_WRITTEN, stream, seq)


def _header(sha256: str, rows: int) -> RunHeader:
    return RunHeader(
        drill="reconnect_storm",
        drill_sha256="",
        engine="virtual",
        target="mock",
        target_kind="mock",
        policy="reference",
        seed=1,
        clients=CLIENTS,
        auditor=CLIENTS,
        started_at=datetime.now(UTC).isoformat(),
        clock="virtual",
        versions={},
        complete=True,
        observations_sha256=sha256,
        observations_rows=rows,
    )


def judge(folder: Path) -> Report:
    """Judge the record in `folder`."""
    wall, cpu = time.perf_counter(), time.process_time()
    history = History(*read_verified(folder))
    verdict = gates.judge(drills.load(CATALOG / "reconnect_storm.toml"), history, load_thresholds(DEFAULT_PATH), "")
    deliveries = next(int(each.value) for each in verdict.metrics if each.name == "applied_events")
    took = time.process_time() - cpu, time.perf_counter() - wall
    return Report(len(history), deliveries, len(verdict.violations), *took, peak_mib())


def run() -> dict[str, float]:
    """One measurement."""
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        run_alone("tests.bench.judged", Job("make", folder), RunHeader)
        report = run_alone("tests.bench.judged", Job("judge", folder), Report)
    if report.violations or report.deliveries != CLIENTS * EVENTS // STREAMS:
        raise RuntimeError(f"the record is in order, but its verdict is not: {report}")
    return msgspec.structs.asdict(report)


def show(result: dict[str, float]) -> None:
    """One line."""
    figures = ", ".join(f"{name} {value:,.1f}" for name, value in result.items())
    Console(width=160).print(f"judging a record of {CLIENTS:,} clients: {figures}")


def main() -> None:
    """Without an argument measure and show; with one carry that job out."""
    if len(sys.argv) == 1:
        show(run())
        return
    job = msgspec.json.decode(sys.argv[1], type=Job)
    folder = Path(job.folder)
    if job.kind == "make":
        header = make(folder)
        write_header(folder, header)
        print(msgspec.json.encode(header).decode())
    else:
        print(msgspec.json.encode(judge(folder)).decode())


if __name__ == "__main__":
    main()
