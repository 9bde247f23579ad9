"""Locustfiles that strangers write with our users: none ends green without traffic, and each is judged on what took place."""

import json
import re
from collections.abc import Iterator

import pytest

from drills.runs import results
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.run_header import read_header, read_verified
from tests.locust_runs.loads import DRILL, SETTINGS, Load, drill_of, wrong
from tests.storms import patient_thresholds

FOLDER = "tests/locust_runs/files"
STEADY = "steady_load"
LENIENT = ("phases.settle_s=25",)


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Load]]:
    """All load tests of this module, at once, because they mostly wait."""
    out = tmp_path_factory.mktemp("own")
    patient = f"--thresholds={patient_thresholds(out)}"
    times = ("-r", "20", "-t", "4s", patient)

    def load(name: str, locustfile: str, *arguments: str, settings: tuple[str, ...] = LENIENT) -> Load:
        return Load(out / name, locustfile, *arguments, settings=settings, folder=FOLDER)

    files = ("--json", f"--html={out / 'page.html'}", f"--csv={out / 'table'}", "--defect", "skip_delivery")
    started = {
        "no_shape": load("no_shape", "no_shape", "-u", "25", *times),
        "nobody": load("nobody", "no_shape", "-u", "1", *times),
        "own_shape": load("own_shape", "own_shape", patient),
        "mixed": load("mixed", "mixed", "--clients=20", *files, settings=SETTINGS),
    }
    yield started
    for each in started.values():
        each.process.kill()
        each.process.wait()


def history_of(load: Load) -> History:
    return History(*read_verified(results.drill_folder(load.run_dir, STEADY)))


def test_without_a_shape_locusts_own_options_decide(loads: dict[str, Load]):
    load = loads["no_shape"]
    code = load.end()
    assert code == load.verdict.exit_code, load.output
    drill, history = drill_of(load.verdict), history_of(load)
    assert wrong(drill) == (set(), set())
    assert drill.clients == history.header.clients == 24, "one of the 25 users publishes"
    assert Ledger(history).expected >= 24
    rows = history.of(Kind.PHASE)
    phases = dict(zip((history.details[code] for code in rows.detail), rows.t.tolist(), strict=True))
    assert phases["fault"] - phases["steady"] >= 4.0, "the time counts from the moment when the service was there"


def test_nobody_is_never_a_go(loads: dict[str, Load]):
    load = loads["nobody"]
    assert load.end() == 4, load.output
    assert "Locust started no client of ours" in load.output
    assert "Traceback" not in load.output


def test_own_shape_is_followed_up_and_down(loads: dict[str, Load]):
    load = loads["own_shape"]
    assert load.end() == load.verdict.exit_code, load.output
    history = history_of(load)
    assert wrong(drill_of(load.verdict)) == (set(), set())
    assert history.header.clients == 12
    assert any(remark.startswith("4 of 16 clients left") for remark in history.header.remarks), history.header.remarks
    connected = history.of(Kind.CONNECT_DONE).column("client")
    assert set(range(16)) <= set(connected.tolist())
    assert len(history.fleet(Kind.PUBLISHED)) == 0 < len(history.of(Kind.PUBLISHED)), "published, although no user does"
    heard = load.printed[load.printed.index("heard {") :]
    for name in ("WS connect", "delivery", "publish"):
        assert int(re.search(rf"'{name}: None': (\d+)", heard)[1]) >= 12  # type: ignore[index]


def test_users_of_others_keep_their_share(loads: dict[str, Load]):
    load = loads["mixed"]
    assert load.end() == 1, load.output
    assert '"Cashier": 3, "Client": 20, "Publisher": 1, "Shopper": 10' in load.output
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert (header.clients, header.complete) == (20, True)


def test_all_that_locust_writes_has_the_verdict(loads: dict[str, Load]):
    load = loads["mixed"]
    load.end()
    rows = {row["name"]: row for row in json.loads(load.printed)}  # JSON, and nothing else
    assert rows["verdict: no_go"]["num_failures"] == 1
    violation = drill_of(load.verdict).violations[0]
    assert rows[f"invariant {violation.invariant}"]["num_failures"] == violation.count
    for path in (load.out.parent / "page.html", load.out.parent / "table_failures.csv"):
        assert "verdict: no_go" in path.read_text(), path
        assert f"invariant {violation.invariant}" in path.read_text(), path
