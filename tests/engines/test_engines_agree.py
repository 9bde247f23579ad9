"""The same drill, simulated and over real sockets, is the same drill: what clients have in the end, which laws were broken,
and what the judges say. Times are never compared."""

from collections import defaultdict
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results
from sim.drill.model import Drill
from sim.record.observations import Kind
from sim.record.run_header import RunHeader, read_verified
from tests.mutation_table import IMPATIENT
from tests.storms import CATALOGUE, OF_TIME, run_all, small

# Fewer events than the drill's own, for a busy machine to be able to publish them, and limits to go with that.
_FEW = ("load.events_per_s=45", "faults.1.events=5", "faults.2.keep_events=4")
# The slower a machine starts the service again, the longer the backoffs of the clients that were refused meanwhile: up to 8 s.
GENTLE = {"stale_cursor": _FEW, "stale_cursor_storm": _FEW, "runtime_restart": ("phases.settle_s=20",)}
# Where some are told that they are stale depends on when they come back, and then they apply less and have the rest covered.
STALE = ("stale_cursor", "stale_cursor_storm", "replay_budget_exceeded")
# Only `make prove` takes the time for these. Others, or tests of one fault, inject the same over real sockets.
LONG = (
    *("publish_failures", "compatibility_window", "token_misuse", "token_lifetime", "stale_cursor_storm"),
    *("replay_budget_exceeded", "malformed_clients", "mutation_over_socket", "multi_client_order"),
    *("partition_heal", "half_open_sockets", "close_codes"),
)
Streams = dict[tuple[int, str], list[int]]


def both(out: Path, drill: Drill, defects: tuple[str, ...] = (), **more: str) -> tuple[Path, Path]:
    """The folders of a real and of a simulated run. A machine too busy for the real one gets more chances."""
    simulated = run_all(out / "virtual", drill, defects=defects, engine="virtual", **more)
    assert went_as_planned(judged(simulated))
    for _ in range(4):
        real = run_all(out / "sockets", drill, defects=defects, **more)
        if went_as_planned(judged(real)):
            return real, simulated
    pytest.fail("this machine is too busy for real sockets: four times the drill's phases could not be kept to")


def went_as_planned(verdict: DrillVerdict) -> bool:
    """Whether everyone was live before, events were published and every fault had an observed effect. Times do not matter."""
    checks = [check for check in verdict.checks if check.name.startswith("drill.") and check.name not in OF_TIME]
    return not any(check.state is State.ERROR for check in checks)


def observed(run_dir: Path, drill: Drill) -> tuple[RunHeader, list[dict]]:
    header, recorded = read_verified(results.drill_folder(run_dir, drill.name))
    return header, recorded.table().to_pylist()


def judged(run_dir: Path) -> DrillVerdict:
    (verdict,) = results.judge_run(run_dir).drills
    return verdict


def fates(header: RunHeader, rows: list[dict]) -> tuple[Streams, Streams]:
    """For each client and stream: what it applied, in that order; and all it has accounted for, in ascending order.

    A client whose process died has applied what its store says, and restarts where it has none.
    """
    pairs = [(int(client), stream) for client, streams in header.subscriptions.items() for stream in streams]
    applied: Streams = {pair: [] for pair in pairs}
    accounted: dict[tuple[int, str], set[int]] = defaultdict(set)
    for row in rows:
        pair = (row["client"], row["stream"])
        if row["kind"] == Kind.APPLIED:
            applied[pair].append(row["seq"])
        elif row["kind"] == Kind.RESTARTED:
            applied[pair] = [seq for seq in applied[pair] if seq <= row["seq"]]
        elif row["kind"] == Kind.REBOOTSTRAPPED:
            applied[pair] = [] if row["detail"] == "fresh" else applied[pair]
            # Up to here everything is applied, covered by a snapshot, declared lost, or from before the client's time.
            accounted[pair].update(range(1, row["seq"] + 1))
    return applied, {pair: sorted(accounted[pair] | set(applied[pair])) for pair in pairs}


def heads(rows: list[dict]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["kind"] == Kind.PUBLISHED:
            found[row["stream"]] = max(found[row["stream"]], row["seq"])
    return found


def common_heads(runs: list[list[dict]]) -> dict[str, int]:
    """Runs do not last equally long to the event: each stream is compared up to its shorter head."""
    found = [heads(rows) for rows in runs]
    assert found[0].keys() == found[1].keys()
    return {stream: min(each[stream] for each in found) for stream in found[0]}


def verdict_of(verdict: DrillVerdict) -> tuple[set[str], set[str]]:
    """The laws that were broken, and the checks that failed, those of time aside."""
    failed = {check.name for check in verdict.checks if check.state is State.FAIL and check.name not in OF_TIME}
    return {violation.invariant for violation in verdict.violations}, failed


def shown(name: str) -> object:
    return pytest.param(name, marks=(pytest.mark.long,) if name in LONG else ())


@pytest.mark.parametrize("name", [shown(name) for name in CATALOGUE])
def test_both_engines_bring_every_client_the_same_events_in_the_same_order(tmp_path: Path, name: str):
    drill = small(name, *GENTLE.get(name, ()))
    runs = both(tmp_path, drill)
    (header, rows), (other_header, other_rows) = (observed(run_dir, drill) for run_dir in runs)
    assert other_header.subscriptions == header.subscriptions
    assert other_header.plan == header.plan
    upto = common_heads([rows, other_rows])
    assert min(upto.values()) > 20
    (applied, accounted), (other_applied, other_accounted) = fates(header, rows), fates(other_header, other_rows)
    for pair, sequence in applied.items():
        head = upto[pair[1]]
        wanted = list(range(1, head + 1))
        assert [seq for seq in accounted[pair] if seq <= head] == wanted, pair
        assert [seq for seq in other_accounted[pair] if seq <= head] == wanted, pair
        assert sequence == sorted(set(sequence)), pair
        assert other_applied[pair] == sorted(set(other_applied[pair])), pair
        if name not in STALE:
            assert [seq for seq in sequence if seq <= head] == wanted, pair
            assert [seq for seq in other_applied[pair] if seq <= head] == wanted, pair
    assert [verdict_of(judged(run_dir)) for run_dir in runs] == [(set(), set())] * 2


UNREADY = (
    ("reconnect_storm", "ignore_cursor"),
    ("runtime_restart", "lose_log_on_restart"),
    ("dropped_delivery", "desktop"),
)


@pytest.mark.parametrize(("name", "wrong"), UNREADY, ids=[wrong for _, wrong in UNREADY])
def test_both_engines_find_the_same_wrong(tmp_path: Path, name: str, wrong: str):
    """A handful of real runs; the whole table is held on each engine by its own test."""
    is_policy = wrong == "desktop"
    drill = small(name, *IMPATIENT, *(("fleet.policy=desktop",) if is_policy else ()))
    real, simulated = (judged(run_dir) for run_dir in both(tmp_path, drill, () if is_policy else (wrong,)))
    assert verdict_of(real) == verdict_of(simulated)
    assert real.status == simulated.status == "fail"
