"""The rollback's rehearsal, for real on a mock process: what passes, what is found wrong, and that everything is put back."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH
from drills.judging.checks.verdicts import State
from drills.rollout.rollback import changes, recovery
from drills.rollout.rollback import rehearsal as rollback
from drills.rollout.rollback.changes import CannotBeginError
from drills.rollout.rollback.recovery import CanaryCheck
from drills.rollout.rollback.rehearsal import ORDER, Rehearsal, rehearsal_steps
from drills.rollout.setup.records import Rollback
from drills.rollout.setup.stages import RoutingChecks
from drills.runs import targets
from drills.runs.targets import Target
from sim.analysis.samples import Share
from sim.base.clocks import Clock, SteppedClock, SystemClock
from sim.base.errors import UsageError
from sim.engines.shared.endpoints import Endpoints
from tests.served import Served, serving

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DEPLOYMENT = {"revision": "r2", "previous_revision": "r1", "cohort_percent": 30, "canary_defects": ["skip_delivery"]}
PUT = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(), method='PUT'))"
NOTHING = [sys.executable, "-c", "print('all is done')"]
WELL = CanaryCheck(State.PASS, "every check passed", "rollback/watches/w", "0 of 150 connects refused")
UNREADY = CanaryCheck(State.FAIL, "delivery.dropped_deliveries fail: 3 events", "rollback/watches/w", "")


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("rollback"), deployment=DEPLOYMENT) as served:
        yield served


@pytest.fixture(autouse=True)
def _quick(mock: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fewer keys and smaller bursts; and whatever a test left of the mock is taken back."""
    monkeypatch.setattr(changes, "ROUTING_CHECKS", RoutingChecks(keys=100))
    monkeypatch.setattr(rehearsal_steps, "_MOCK_BURST", 40)
    monkeypatch.setattr(rehearsal_steps, "_MOCK_PUBLISHES_PER_S", 2.0)
    yield
    for name, body in (("traffic", {"revision": "r2"}), ("throttle", {}), ("cohort", {"percent": 30}), ("switches", {})):
        assert mock.http.put(f"/_mock/{name}", json=body).status_code == 200


def put(mock: Served, name: str, body: str) -> list[str]:
    """A command that turns one of the mock's own switches."""
    return [sys.executable, "-c", PUT, f"{mock.url}/_mock/{name}", body]


def rules(mock: Served, **other: list[str]) -> dict[str, Any]:
    """The commands of an operator of this mock, except those that are given otherwise, as `throttle_apply=...`."""
    tables: dict[str, Any] = {
        "traffic": {"apply": put(mock, "traffic", '{"revision": "r1"}'), "restore": put(mock, "traffic", '{"revision": "r2"}')},
        "throttle": {"apply": put(mock, "throttle", '{"publishes_per_s": 2}'), "restore": put(mock, "throttle", "{}")},
        "cohort": {"apply": put(mock, "cohort", '{"percent": 0}'), "restore": put(mock, "cohort", '{"percent": 30}')},
    }
    tables["traffic"] |= {"control_revision": "r1", "runtime_revision": "r1"}
    for name, command in other.items():
        step, _, action = name.partition("_")
        tables[step][action] = command
    return {**tables, "observed_within_s": 0.1}


def target(mock: Served, folder: Path, tables: dict[str, Any], kind: str = "mock") -> Target:
    """A target of a file with these commands."""
    lines = [f'[targets.theirs]\nkind = "{kind}"\nruntime_url = "{mock.url}"\ncontrol_url = "{mock.url}"']
    if kind != "mock":
        lines.append('session_token_env = "S"\ncaps = { clients = 200, connects_per_s = 200.0, events_per_s = 100.0 }')
    path = folder / "targets.toml"
    lines.append("[targets.theirs.rollback]")
    lines += [f"{key} = {value}" for key, value in tables.items() if not isinstance(value, dict)]
    for step, table in tables.items():
        if isinstance(table, dict):
            lines += [
                f"[targets.theirs.rollback.{step}]",
                *(f"{key} = {msgspec.json.encode(v).decode()}" for key, v in table.items()),
            ]
    path.write_text("\n".join(lines))
    return targets.read(path, "theirs", {"S": "session-s3cret"})


def endpoints_of(entry: Target) -> Endpoints:
    return Endpoints(
        entry.name, entry.entry.kind, entry.runtime_url, entry.control_url, session=entry.session, rules=entry.rules
    )


class Watches:
    """Watches with given answers, and what was done while each ran."""

    def __init__(self, *answers: CanaryCheck, meanwhile: Callable[[int], None] = lambda n: None) -> None:
        self._answers, self._meanwhile = answers or (WELL,), meanwhile
        self.lengths: list[float | None] = []

    def __call__(self, length_s: float | None) -> CanaryCheck:
        self.lengths.append(length_s)
        self._meanwhile(len(self.lengths))
        return self._answers[min(len(self.lengths), len(self._answers)) - 1]


def rehearsal(
    mock: Served,
    folder: Path,
    canary_checks: Watches | None = None,
    clock: Clock | None = None,
    said: list[str] | None = None,
    **other: Any,
) -> Rehearsal:
    """A rehearsal with watches that take no time, by the mock's own routes but for the commands that are given."""
    clock = clock or SteppedClock(START)
    run = folder / "run"
    given = {name.partition("_")[0] for name in other}
    tables = {key: table for key, table in rules(mock, **other).items() if key in given or not isinstance(table, dict)}
    entry = target(mock, folder, tables)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, run, clock)
    return Rehearsal(replace(plan, check=canary_checks or Watches()), run, clock, (said if said is not None else []).append)


def leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A throttle that a real watch, which publishes 50 events a second, does not meet."""
    monkeypatch.setattr(rehearsal_steps, "_MOCK_BURST", 200)
    monkeypatch.setattr(rehearsal_steps, "_MOCK_PUBLISHES_PER_S", 60.0)


def leave_time(path: Path) -> None:
    """Thresholds that a machine with much else to do keeps, too."""
    text = (DEFAULT_PATH).read_text()
    path.write_text(
        re.sub(r'^threshold = (\d+)(\n(?:\w.*\n)*?unit = "ms")', r"threshold = \g<1>00\2", text, flags=re.MULTILINE)
    )


def states(done: Rollback) -> list[str]:
    return [step.state for step in done.steps]


def traffic_of(mock: Served) -> dict[str, Any]:
    return dict(mock.state()["traffic"])


AS_IT_WAS = {"serving": "r2", "cohort_percent": 30, "throttle": {"publishes_per_s": None, "connects_per_s": None}}


# --- what passes ------------------------------------------------------------------------------------


def test_a_rehearsal_on_a_mock_with_real_watches_cures_it_and_puts_it_back(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_room(monkeypatch)
    monkeypatch.setattr(rehearsal_steps, "MOCK_STABLE_S", 3.5)
    entry = target(mock, tmp_path, {"watch": '["phases.fault_s=3.5"]'})
    leave_time(tmp_path / "thresholds.toml")
    done = rollback.rehearse(endpoints_of(entry), entry, tmp_path, SystemClock(), dry_run=False)
    assert (done.state, states(done)) == ("pass", ["pass"] * 4), done
    traffic, throttle, cohort, recovery = done.steps
    assert (traffic.before, traffic.after) == ({"control": "r2", "runtime": "r2"}, {"control": "r1", "runtime": "r1"})
    assert throttle.before["taken"] == "200"
    assert int(throttle.after["taken"]) < 200
    assert "spacetime_publish_rate_limited" in throttle.after["codes"]
    assert (int(cohort.before["in_cohort"]) > 10, cohort.after["in_cohort"]) == (True, "0")
    assert "0 of 150 connects refused" in recovery.verified_by
    assert "not for 900 s, as the target is a mock" in recovery.verified_by
    assert [step.restored for step in done.steps] == [True, True, True, None]
    assert done.seconds is not None
    assert 0 < done.seconds < 300
    assert (done.stable_s, done.dry_run, done.run_id) == (3.5, False, tmp_path.name)
    assert traffic_of(mock) == AS_IT_WAS
    assert msgspec.json.decode((tmp_path / "rollback.json").read_bytes(), type=Rollback) == done
    assert all((tmp_path / path).exists() for step in done.steps for path in step.evidence)
    assert len(cohort.evidence) == 4, "one watch, and three times the keys"


def test_operators_commands_are_told_what_they_are_for_and_give_no_secret_away(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELL", "session-s3cret")
    tell = f"import os; print(os.environ['TELL'], sorted(v for v in os.environ.items() if v[0].startswith('STORMGATE_')));{PUT}"
    commands = rules(mock, traffic_apply=[sys.executable, "-c", tell, f"{mock.url}/_mock/traffic", '{"revision": "r1"}'])
    entry = target(mock, tmp_path, commands, kind="staging")
    clock = SteppedClock(START)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", clock)
    watches = Watches()
    done = Rehearsal(replace(plan, check=watches), tmp_path / "run", clock).run()
    assert (done.state, done.target_kind) == ("pass", "staging"), done
    assert watches.lengths == [None, None, 900.0]
    said = (tmp_path / "run/rollback/traffic-apply.txt").read_text()
    assert said.startswith("[secret]")
    for part in ("'apply'", "'traffic'", "('STORMGATE_RUNTIME_REVISION', 'r1')", "('STORMGATE_RUN_ID', 'run')", mock.url):
        assert part in said
    everything = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in each for each in everything)
    assert traffic_of(mock) == AS_IT_WAS


# --- what is found wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("traffic_apply", NOTHING, "control is r2, expected r1; runtime is r2, expected r1"),
        ("throttle_apply", NOTHING, "all 40 publishes of a burst were accepted"),
        ("cohort_apply", NOTHING, "wrong side of 0 %"),
    ],
)
def test_a_command_that_says_it_acted_is_not_believed(
    mock: Served, tmp_path: Path, name: str, command: list[str], words: str
) -> None:
    done = rehearsal(mock, tmp_path, **{name: command}).run()
    n = ORDER.index(name.partition("_")[0])  # type: ignore[arg-type]
    assert states(done) == [*["pass"] * n, "fail", *["not_run"] * (3 - n)]
    assert done.state == "fail"
    assert words in done.reason
    assert done.seconds is None
    assert [step.restored for step in done.steps] == [*[True] * (n + 1), *[None] * (3 - n)]
    assert traffic_of(mock) == AS_IT_WAS


def test_a_cohort_of_another_size_is_a_failure(mock: Served, tmp_path: Path) -> None:
    done = rehearsal(mock, tmp_path, cohort_apply=put(mock, "cohort", '{"percent": 15}')).run()
    assert (done.state, done.steps[2].state) == ("fail", "fail")
    assert traffic_of(mock) == AS_IT_WAS


def test_a_throttle_that_answers_otherwise_is_none(mock: Served, tmp_path: Path) -> None:
    broken = put(mock, "switches", '{"publish_fail_status": 500, "publish_fail_share": 1.0}')
    done = rehearsal(mock, tmp_path, throttle_apply=broken, throttle_restore=put(mock, "switches", "{}")).run()
    assert done.steps[1].state == "fail"
    assert "40 by unknown_outcome were refused, which is no throttle's answer" in done.reason


def test_a_command_that_fails_ends_it_and_is_undone(mock: Served, tmp_path: Path) -> None:
    half = f"{PUT}; print('no more'); sys.exit(7)"
    done = rehearsal(
        mock, tmp_path, traffic_apply=[sys.executable, "-c", half, f"{mock.url}/_mock/traffic", '{"revision": "r1"}']
    ).run()
    assert (done.state, states(done)) == ("error", ["error", "not_run", "not_run", "not_run"])
    assert "ended with exit code 7" in done.reason
    assert done.steps[0].restored is True
    assert traffic_of(mock) == AS_IT_WAS


def test_a_command_that_takes_too_long_is_ended_and_undone(mock: Served, tmp_path: Path) -> None:
    put_and_stay = f"{PUT}; import time; time.sleep(60)"
    tables = {"traffic": rules(mock)["traffic"] | {"timeout_s": 1.5}}
    tables["traffic"]["apply"] = [sys.executable, "-c", put_and_stay, f"{mock.url}/_mock/traffic", '{"revision": "r1"}']
    entry = target(mock, tmp_path, tables)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    done = Rehearsal(replace(plan, check=Watches()), tmp_path / "run", SteppedClock(START)).run()
    assert (done.state, done.steps[0].state, done.steps[0].restored) == ("error", "error", True)
    assert "did not end within 1.5 s" in done.reason
    assert traffic_of(mock) == AS_IT_WAS


def test_the_cohort_is_let_alone_while_the_server_is_not_well(mock: Served, tmp_path: Path) -> None:
    done = rehearsal(mock, tmp_path, Watches(UNREADY), cohort_apply=put(mock, "no_such", "{}")).run()
    assert states(done) == ["pass", "pass", "fail", "not_run"]
    assert "refused, because the server's gates are not green: delivery.dropped_deliveries" in done.reason
    assert done.steps[2].restored is None, "it was not touched"
    assert traffic_of(mock) == AS_IT_WAS


def test_a_defect_that_going_back_does_not_cure_is_seen_by_a_real_watch(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_room(monkeypatch)
    mock.switch(defects=["cross_topic_leak"])
    entry = target(mock, tmp_path, {"watch": '["phases.fault_s=2.0", "fleet.clients=20", "load.run_streams=4"]'})
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path, SystemClock())
    real = plan.check
    watched: list[CanaryCheck] = []

    def watch(length_s: float | None) -> CanaryCheck:
        watched.append(WELL if not watched else real(length_s))
        return watched[-1]

    done = Rehearsal(replace(plan, check=watch), tmp_path, SteppedClock(START)).run()
    assert states(done) == ["pass", "pass", "pass", "fail"]
    assert "no recovery was observed: " in done.reason
    assert "cross_topic_leak" in done.reason
    assert done.seconds is None
    assert traffic_of(mock) == AS_IT_WAS


def test_a_lane_that_does_not_stay_well_has_not_recovered_for_good(mock: Served, tmp_path: Path) -> None:
    few = CanaryCheck(State.INCONCLUSIVE, "too few connects", "w", "")
    for answer, state in ((UNREADY, "fail"), (few, "error")):
        done = rehearsal(mock, tmp_path, Watches(WELL, WELL, answer)).run()
        assert (done.state, done.steps[3].state, done.stable_s) == (state, state, None)
        assert "did not stay healthy" in done.reason


@pytest.mark.parametrize(
    ("hits", "n", "looks", "is_sure"),
    [
        (0, 150, State.PASS, State.PASS),
        (0, 100, State.PASS, State.INCONCLUSIVE),
        (2, 150, State.PASS, State.INCONCLUSIVE),
        (3, 150, State.FAIL, State.INCONCLUSIVE),
        (9, 150, State.FAIL, State.FAIL),
        (0, 0, State.NO_DATA, State.NO_DATA),
    ],
)
def test_few_refusals_are_sure_only_of_many_connects(hits: int, n: int, looks: State, is_sure: State) -> None:
    share = Share(hits, n)
    assert (recovery.few(share, "connects", False)[0], recovery.few(share, "connects", True)[0]) == (looks, is_sure)


def test_who_recovers_too_late_fails(mock: Served, tmp_path: Path) -> None:
    clock = SteppedClock(START)
    slow = Watches(meanwhile=lambda n: clock.step(timedelta(seconds=200)) if n < 3 else None)
    done = rehearsal(mock, tmp_path, slow, clock).run()
    assert (done.state, states(done)) == ("fail", ["pass"] * 4)
    assert done.seconds is not None
    assert done.seconds > 400
    assert "300 s are allowed" in done.reason


def test_how_long_it_stays_well_is_no_part_of_the_time_to_recover(mock: Served, tmp_path: Path) -> None:
    clock = SteppedClock(START)
    done = rehearsal(
        mock, tmp_path, Watches(meanwhile=lambda n: clock.step(timedelta(seconds=900)) if n == 3 else None), clock
    ).run()
    assert done.state == "pass"
    assert done.seconds is not None
    assert done.seconds < 60


# --- what must be there before ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("traffic", {"revision": "r1"}, "traffic: the last known good revisions serve already"),
        ("throttle", {"publishes_per_s": 1}, "throttle: the throttle's effect could not be told"),
        ("cohort", {"percent": 0}, "cohort: 0 of 100 keys are in the cohort"),
    ],
)
def test_where_there_is_nothing_to_roll_back_nothing_is_changed(
    mock: Served, tmp_path: Path, name: str, body: dict[str, Any], words: str
) -> None:
    assert mock.http.put(f"/_mock/{name}", json=body).status_code == 200
    before = traffic_of(mock)
    done = rehearsal(mock, tmp_path).run()
    assert (done.state, states(done)) == ("error", ["not_run"] * 4)
    assert done.reason.startswith(words)
    assert traffic_of(mock) == before


def test_a_mock_of_one_revision_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    with serving(tmp_path, deployment={"previous_revision": ""}) as mock, pytest.raises(UsageError, match="one revision only"):
        rollback.rehearse(Endpoints("m", "mock", mock.url, mock.url), None, tmp_path / "run", SystemClock(), dry_run=False)


def test_steps_are_taken_in_order_or_not_at_all(mock: Served, tmp_path: Path) -> None:
    each = rehearsal(mock, tmp_path, cohort_apply=NOTHING)
    with pytest.raises(UsageError, match="after an observation"):
        each.take("traffic")
    each.observe()
    for wrong in ("throttle", "cohort", "recovery"):
        with pytest.raises(UsageError, match="out of order; the next one is traffic"):
            each.take(wrong)
    assert traffic_of(mock) == AS_IT_WAS
    assert each.take("traffic").state == each.take("throttle").state == "pass"
    with pytest.raises(UsageError, match="out of order; the next one is cohort"):
        each.take("recovery")
    assert each.take("cohort").state == "fail"
    with pytest.raises(UsageError, match="as step 'cohort' did not pass"):
        each.take("recovery")
    assert traffic_of(mock)["serving"] == "r1"
    each.restore()
    assert traffic_of(mock) == AS_IT_WAS


def test_a_dry_run_is_marked_and_changes_nothing(mock: Served, tmp_path: Path) -> None:
    entry = target(mock, tmp_path, rules(mock))
    done = rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=True)
    assert (done.dry_run, done.state, states(done)) == (True, "not_run", ["not_run"] * 4)
    assert done.seconds is None
    assert f"{mock.url}/_mock/traffic" in done.steps[0].reason
    assert not (tmp_path / "run/rollback").exists()
    assert traffic_of(mock) == AS_IT_WAS
    assert msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback) == done


# --- whatever happens, it is put back ---------------------------------------------------------------


def test_who_interrupts_it_gets_everything_put_back(mock: Served, tmp_path: Path) -> None:
    def interrupt(n: int) -> None:
        if n == 2:
            assert traffic_of(mock) == {
                **AS_IT_WAS,
                "serving": "r1",
                "cohort_percent": 0,
                "throttle": traffic_of(mock)["throttle"],
            }
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearsal(mock, tmp_path, Watches(meanwhile=interrupt)).run()
    done = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert (done.state, done.reason, states(done)) == ("error", "it was interrupted", ["pass", "pass", "pass", "error"])
    assert [step.restored for step in done.steps] == [True, True, True, None]
    assert traffic_of(mock) == AS_IT_WAS


def test_a_defect_of_ours_puts_everything_back_too(mock: Served, tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rehearsal(mock, tmp_path, Watches(meanwhile=fail)).run()
    done = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert done.state == "error"
    assert traffic_of(mock) == AS_IT_WAS


def test_putting_back_is_not_interrupted(mock: Served, tmp_path: Path) -> None:
    """The command that puts the first thing back asks us to end, twice over."""
    ask = f"import os, signal; [os.kill({os.getpid()}, s) for s in (signal.SIGINT, signal.SIGTERM)];{PUT}"
    said: list[str] = []
    handled = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    restore = [sys.executable, "-c", ask, f"{mock.url}/_mock/cohort", '{"percent": 30}']
    done = rehearsal(mock, tmp_path, said=said, cohort_restore=restore).run()
    assert done.state == "pass"
    assert said == ["what the rehearsal changed is being restored; wait until that is done."] * 2
    assert traffic_of(mock) == AS_IT_WAS
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handled


def test_who_interrupts_it_twice_gets_everything_put_back(
    mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_off, impatient = rollback.uninterruptible, [True]

    def once_more(say: Callable[[], None]) -> AbstractContextManager[None]:
        if impatient:
            impatient.clear()
            raise KeyboardInterrupt
        return held_off(say)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollback, "uninterruptible", once_more)
    with pytest.raises(KeyboardInterrupt):
        rehearsal(mock, tmp_path, Watches(meanwhile=interrupt)).run()
    assert impatient == []
    assert traffic_of(mock) == AS_IT_WAS


@pytest.mark.parametrize("command", [NOTHING, [sys.executable, "-c", "raise SystemExit(3)"]])
def test_what_cannot_be_put_back_is_said_with_the_command_to_run(mock: Served, tmp_path: Path, command: list[str]) -> None:
    said: list[str] = []
    done = rehearsal(mock, tmp_path, said=said, throttle_restore=command).run()
    assert done.state == "error"
    assert done.reason.startswith("what was changed was not restored: throttle")
    assert command[-1].split("(")[0] in done.reason
    assert [step.restored for step in done.steps] == [True, False, True, None]
    (loud,) = said
    assert loud.startswith("THE THROTTLE WAS NOT RESTORED")
    assert "run: " in loud
    rest = traffic_of(mock)
    assert (rest["serving"], rest["cohort_percent"], rest["throttle"]["publishes_per_s"]) == ("r2", 30, 2.0)


def test_a_killed_rehearsal_leaves_word_of_how_to_put_it_back(mock: Served, tmp_path: Path) -> None:
    each = rehearsal(mock, tmp_path)
    each.observe()
    each.take("traffic")
    left = msgspec.json.decode((tmp_path / "run/rollback.json").read_bytes(), type=Rollback)
    assert left.state == "error"
    assert "was cut off" in left.reason
    assert f"{mock.url}/_mock/traffic" in left.reason
    assert '"r2"' in left.reason
    each.restore()


# --- what a target must allow -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("production", {}, "of kind production"),
        ("staging", {"cohort": None}, r"add \[targets.theirs.rollback.cohort\] with 'apply' and 'restore'"),
        ("staging", {"watch": ["fleet.clients=500"]}, "caps.clients is 200"),
    ],
)
def test_what_a_target_does_not_allow_is_refused(
    mock: Served, tmp_path: Path, kind: str, change: dict[str, Any], words: str
) -> None:
    tables = {key: value for key, value in {**rules(mock), **change}.items() if value is not None}
    entry = target(
        mock, tmp_path, {k: msgspec.json.encode(v).decode() if isinstance(v, list) else v for k, v in tables.items()}, kind
    )
    with pytest.raises(UsageError, match=words):
        rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=False)
    assert traffic_of(mock) == AS_IT_WAS


def test_production_is_rehearsed_where_its_file_says_so(mock: Served, tmp_path: Path) -> None:
    entry = target(mock, tmp_path, {**rules(mock), "allow_on_production": "true"}, "production")
    assert (
        rollback.rehearse(endpoints_of(entry), entry, tmp_path / "run", SystemClock(), dry_run=True).target_kind == "production"
    )


def test_a_burst_keeps_within_the_caps(mock: Served, tmp_path: Path) -> None:
    tables = rules(mock)
    tables["throttle"] |= {"burst": 1000, "refuses": "publishes"}
    entry = target(mock, tmp_path, tables, "staging")
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    assert plan.changes[1].begin()["publishes"] == "100"


def test_a_throttle_of_connects_is_seen_too(mock: Served, tmp_path: Path) -> None:
    commands = rules(mock, throttle_apply=put(mock, "throttle", '{"connects_per_s": 2}'))
    commands["throttle"] |= {"refuses": "connects", "burst": 12}
    entry = target(mock, tmp_path, commands)
    plan = rehearsal_steps.make(endpoints_of(entry), entry, tmp_path / "run", SteppedClock(START))
    throttle = plan.changes[1]
    assert throttle.begin() == {"connects": "12", "taken": "12", "codes": ""}
    throttle.lever.apply()
    seen = throttle.rolled_back()
    assert not seen.missing
    assert 1 <= int(seen.facts["taken"]) < 12
    assert "http_429" in seen.facts["codes"]
    throttle.lever.restore()
    assert not throttle.restored().missing


def test_unknown_revisions_are_nothing_to_go_by(mock: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drills.rollout.setup.records import Revisions

    monkeypatch.setattr(rehearsal_steps.revisions, "find", lambda *_: Revisions(control="r2"))
    with pytest.raises(CannotBeginError, match="cannot be found out"):
        rehearsal(mock, tmp_path).observe()
