"""Whole load tests, with Locust in a process of its own, because it changes Python's sockets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import State
from drills.runs import results
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import read_header, read_verified
from tests.locust_runs.loads import DRILL, PATIENCE, Load, drill_of, wrong
from tests.storms import run_all, small


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Load]]:
    """The load tests of this module, all at once, because they mostly wait."""
    out = tmp_path_factory.mktemp("loads")
    started = {
        "well": Load(out / "well", DRILL),
        "defect": Load(out / "defect", DRILL, "--defect", "ignore_cursor"),
    }
    yield started
    for load in started.values():
        load.process.kill()
        load.process.wait()


def test_storm_leaves_the_evidence_of_a_drill(loads: dict[str, Load]):
    load = loads["well"]
    code = load.end()
    drill = drill_of(load.verdict)
    header, table = read_verified(results.drill_folder(load.run_dir, DRILL))
    assert (header.engine, header.complete, header.clients) == ("locust", True, 40)
    assert code == load.verdict.exit_code, load.output
    assert wrong(drill) == (set(), set())
    assert {"steady_state", "faults_observed", "converged", "audited", "negative_clients"} <= {
        check.check for check in drill.checks if check.state is State.PASS
    }
    assert (load.run_dir / "SUMMARY.md").exists()
    assert results.figure_path(load.run_dir, DRILL).exists()
    kinds = set(table.column("kind").to_pylist())
    assert {Kind.GENERATOR_LAG, Kind.CLIENT_LAG, Kind.SETTLED, Kind.PUBLISHED, Kind.REPLAY_COMPLETED} <= kinds
    for name in ("WS connect", "join", "replay bootstrap", "delivery", "mint", "publish"):
        assert f" {name} " in load.output
    assert " subscribe " not in load.output, "a bootstrap includes it: it would count twice"
    assert "connection lost" not in load.output, "the drill itself cut them"


def test_sockets_engine_finds_the_same_defect(loads: dict[str, Load], tmp_path: Path):
    load = loads["defect"]
    assert load.end() == 1, load.output
    run_dir = run_all(tmp_path, small(DRILL, *PATIENCE), defects=("ignore_cursor",))
    (sockets,) = results.judge_run(run_dir).drills
    assert wrong(drill_of(load.verdict)) == wrong(sockets) != (set(), set())
    ours, theirs = (first_backoffs_ms(results.drill_folder(each, DRILL)) for each in (load.run_dir, run_dir))
    assert len(ours) == 40
    assert ours == theirs  # same seed, same backoffs: recovery can differ by noise only


def first_backoffs_ms(folder: Path) -> dict[int, float]:
    """The first backoff of each client of the fleet."""
    rows = History(*read_verified(folder)).fleet(Kind.BACKOFF)
    return dict(zip(rows.client[::-1].tolist(), rows.value[::-1].tolist(), strict=True))


def test_removed_user_stops_the_run(tmp_path: Path):
    load = Load(tmp_path / "out", DRILL, beside=str(Path(__file__).with_name("takes_away.py")))
    assert load.end() == 4, load.output
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert "Locust took the user of client" in header.stopped_because
    assert load.verdict.exit_code == 4


def test_unreachable_target_is_refused_with_a_sentence(tmp_path: Path):
    load = Load(tmp_path / "out", DRILL, "--target", "http://127.0.0.1:9")
    assert load.end() == 3
    assert "nothing answers at http://127.0.0.1:9/readyz" in load.output
    assert "Traceback" not in load.output
