"""Removing evidence never helps: without a part of its files or of their content, a run passes nothing that it did not pass."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.judging.checks.verdicts import RunVerdict, State
from drills.runs import results
from sim.base import bounded_reads
from sim.base.errors import EvidenceError, UsageError
from sim.record.observations import Kind
from sim.record.parquet import FILE_NAME
from sim.record.run_header import HEADER_NAME, read_header, write_header
from tests.mutation_table import LIVE_PERIOD
from tests.storms import run_all, small

RUNS = {
    "go": ("reconnect_storm", (), "spacetime", (*LIVE_PERIOD, "load.events_per_s=90")),
    "a forbidden mutation is accepted": ("reconnect_storm", ("accept_mutation",), "spacetime", ()),
    "events are altered, where positions show no loss": ("reconnect_storm", ("alter_payloads",), "nats_jetstream", ()),
    "snapshots are too old": ("stale_cursor_storm", ("old_snapshots",), "spacetime", ()),
    "the log is lost": ("runtime_restart", ("lose_log_on_restart",), "spacetime", ("phases.settle_s=3",)),
}
JSON_FILES = (HEADER_NAME, results.DRILL_NAME, results.PLAN_NAME)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, RunVerdict]]:
    """The run's folder and its verdict, by name."""
    found = {}
    for name, (drill, defects, protocol, changes) in RUNS.items():
        out = tmp_path_factory.mktemp("runs")
        run_dir = run_all(out, small(drill, *changes), defects=defects, engine="virtual", protocol=protocol)
        found[name] = run_dir, results.judge_run(run_dir)
    return found


def passed(verdict: RunVerdict) -> set[tuple[str, str]]:
    return {(drill.name, check.name) for drill in verdict.drills for check in drill.checks if check.state is State.PASS}


def helps(before: RunVerdict, run_dir: Path) -> str:
    """What passes now and did not before; empty if nothing does. A run that cannot be judged passes nothing."""
    try:
        after = results.judge_run(run_dir)
    except (EvidenceError, UsageError):
        return ""
    more = sorted(name for _, name in passed(after) - passed(before))
    if after.exit_code == 0 != before.exit_code:
        more.append("the run")
    return ", ".join(more)


# --- what is taken away -----------------------------------------------------------------------------


def file_of(run_dir: Path, name: str) -> Path:
    return next(path for path in sorted(run_dir.rglob(name)))


def without_file(run_dir: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(path for path in run_dir.rglob("*") if path.is_file()))
    path.unlink()
    return path.name


def shortened_file(run_dir: Path, rng: random.Random) -> str:
    path = rng.choice(sorted(path for path in run_dir.rglob("*") if path.is_file()))
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])
    return path.name


def fewer_rows(run_dir: Path, rng: random.Random) -> str:
    path = file_of(run_dir, FILE_NAME)
    what, kept = some_rows(pq.read_table(path), rng)
    pq.write_table(kept, path)
    return what


def some_rows(table: pa.Table, rng: random.Random) -> tuple[str, pa.Table]:
    """A table without some rows, all rows of a kind, or all of a client."""
    column = rng.choice(("kind", "client", ""))
    if not column:
        return "rows", table.take([n for n in range(table.num_rows) if rng.random() > 0.05])
    values = table.column(column).to_pylist()
    gone = rng.choice(sorted(set(values)))
    return f"{column} {gone}", table.filter(pa.array([value != gone for value in values]))


def without_column(run_dir: Path, rng: random.Random) -> str:
    path = file_of(run_dir, FILE_NAME)
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    pq.write_table(table.drop_columns([name]), path)
    return name


def less_json(run_dir: Path, rng: random.Random) -> str:
    """Without some keys, or with fewer entries in them."""
    path = file_of(run_dir, rng.choice(JSON_FILES))
    content = msgspec.json.decode(path.read_bytes())
    names = rng.sample(sorted(content), rng.choice((1, 1, 1, 2, 4)))
    for name in names:
        content[name] = less(content[name], rng)
        if content[name] is None:
            del content[name]
    path.write_bytes(msgspec.json.encode(content))
    return f"{path.name}: {', '.join(names)}"


def less(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict | list) and len(value) > 1 and rng.random() < 0.5:
        kept = rng.sample(sorted(value) if isinstance(value, dict) else range(len(value)), len(value) - 1)
        return {key: value[key] for key in kept} if isinstance(value, dict) else [value[at] for at in sorted(kept)]
    return None


REMOVALS: tuple[Callable[[Path, random.Random], str], ...] = (
    *(without_file, shortened_file, fewer_rows, without_column, less_json, less_json),
)


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_passes_without_a_part_of_its_evidence(
    runs: dict[str, tuple[Path, RunVerdict]], tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    run_dir, before = runs[name]
    copy = tmp_path_factory.mktemp("less") / run_dir.name
    shutil.copytree(run_dir, copy)
    rng = random.Random(seed)
    what = rng.choice(REMOVALS)(copy, rng)
    assert helps(before, copy) == "", what
    shutil.rmtree(copy)


def test_the_runs_are_what_they_say(runs: dict[str, tuple[Path, RunVerdict]]) -> None:
    assert {name: verdict.exit_code for name, (_, verdict) in runs.items()} == {name: int(name != "go") for name in RUNS}


@pytest.mark.parametrize("name", ["go", "events are altered, where positions show no loss"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_observations_that_an_engine_never_made_let_nothing_pass(
    runs: dict[str, tuple[Path, RunVerdict]], tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    """The files are sealed as usual, but nobody recorded some observations. What failed by them may be unseen."""
    run_dir, before = runs[name]
    copy = tmp_path_factory.mktemp("unmade") / run_dir.name
    shutil.copytree(run_dir, copy)
    path, rng = file_of(copy, FILE_NAME), random.Random(seed)
    what, kept = some_rows(pq.read_table(path), rng)
    pq.write_table(kept, path)
    header = read_header(path.parent)
    header.observations_sha256, header.observations_rows = bounded_reads.file_sha256(path), kept.num_rows
    write_header(path.parent, header)
    failed = {check.name for drill in before.drills for check in drill.checks if check.state is State.FAIL}
    assert set(helps(before, copy).split(", ")) - failed <= {""}, what
    shutil.rmtree(copy)


@pytest.mark.parametrize(
    "kind",
    [
        *(Kind.PHASE, Kind.STEADY, Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED, Kind.PUBLISHED, Kind.APPLIED),
        *(Kind.SETTLED, Kind.REPLAY_COMPLETED, Kind.SUBSCRIBED, Kind.CONNECT_ATTEMPTED, Kind.PROBED),
        *(Kind.PUBLISH_TRIED, Kind.REPLAYED, Kind.BACKOFF),
    ],
)
def test_run_without_all_observations_of_a_kind_is_no_go(
    runs: dict[str, tuple[Path, RunVerdict]], tmp_path: Path, kind: Kind
) -> None:
    run_dir, _ = runs["go"]
    copy = tmp_path / run_dir.name
    shutil.copytree(run_dir, copy)
    path = file_of(copy, FILE_NAME)
    table = pq.read_table(path)
    kept = table.filter(pa.array([value != kind for value in table.column("kind").to_pylist()]))
    assert kept.num_rows < table.num_rows
    pq.write_table(kept, path)
    header = read_header(path.parent)
    header.observations_sha256, header.observations_rows = bounded_reads.file_sha256(path), kept.num_rows
    write_header(path.parent, header)
    assert results.judge_run(copy).exit_code != 0
