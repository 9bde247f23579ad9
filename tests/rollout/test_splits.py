"""Parts of a hold's window: each client build alone, and the canary compared with its control."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from drills.judging.checks.verdicts import CheckResult, State
from drills.rollout.hold import canary_checks, stage_run
from drills.rollout.preflight import one_drill
from drills.rollout.preflight.one_drill import Order
from drills.rollout.servers import revisions
from drills.rollout.setup import evidence, records, stage_target, stages
from drills.rollout.setup.records import CanaryCheckDone, Revisions, StagePlan
from drills.rollout.setup.stages import CanaryChecks
from drills.rollout.verdict import splits, window
from drills.rollout.verdict.window_data.stage_window import CanaryCheck, StageWindow
from sim.base.clocks import SteppedClock, iso
from sim.base.errors import UsageError
from sim.engines.shared.endpoints import Endpoints
from sim.record.observations import Kind
from tests.histories import Story
from tests.known_bad_windows import drops, late, reported, values
from tests.rollout.hold_world import World
from tests.rollout.test_judging import every
from tests.stage_folders import CONTROL, Folder, change_target
from tests.windows import BEGAN_S, CLIENTS, HOUR, INTERVAL_S, THRESHOLDS, canary_series, good, quiet

PASS, FAIL, INCONCLUSIVE, NO_DATA, ERROR, NOT_RUN = State
OLD, NEW = "20260601T000000Z", "20260801T000000Z"
AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
Seen = Callable[[int], Story | None]


def healthy(n: int) -> Story | None:
    return None


def of_build(seen: CanaryCheck, build: str) -> CanaryCheck:
    """The same clients with another build. They share no computed values."""
    drill = seen.drill
    return replace(
        seen, drill=msgspec.structs.replace(drill, fleet=msgspec.structs.replace(drill.fleet, client_build=build)), _known={}
    )


def in_turns(of: Seen = healthy, minutes: int = HOUR) -> tuple[CanaryCheck, ...]:
    return tuple(of_build(each, (OLD, NEW)[n % 2]) for n, each in enumerate(canary_series(minutes, of)))


def control(of: Seen = healthy, **more: object) -> StageWindow:
    about = {"expected_canary_checks": HOUR * 60 // 300, **more}
    return StageWindow(BEGAN_S, BEGAN_S + HOUR * INTERVAL_S, INTERVAL_S, (), canary_series(of=of), **about)  # type: ignore[arg-type]


def hour(of: Seen = healthy, against: StageWindow | None = None) -> StageWindow:
    return good(seen=in_turns(of), control=against)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("splits") / "runs", "2")


def answers(folder: Folder, found: StageWindow, **plan: object) -> dict[str, CheckResult]:
    return {each.name: each for each in splits.of(found, THRESHOLDS, planned(folder, **plan))}


def planned(folder: Folder, **changes: object) -> StagePlan:
    return folder.plan(client_builds=(OLD, NEW), previous_run="", **changes)


def slower(story: Story, times: float = 1.5) -> Story:
    return values(Kind.REPLAY_COMPLETED, lambda value: value * times)(story)


def refused(clients: int) -> Story:
    return reported(Kind.CONNECT_FAILED, clients, detail="token_expired")(quiet())


SLOW, LOSSY, REFUSED = slower(quiet()), drops(1)(quiet()), refused(20)
LATELY = late(quiet())  # everything is applied a second late
LATE = values(Kind.GENERATOR_LAG, lambda _: 900.0)(quiet())


# --- by build ---------------------------------------------------------------------------------------


def test_each_build_is_judged_alone(folder: Folder) -> None:
    plan, found = planned(folder), answers(folder, hour(against=control()))
    assert {name: each.reason for name, each in found.items() if each.state is not PASS} == {}
    assert len([name for name in found if name.startswith("builds.")]) == 2 * len(splits.BY_BUILD)
    assert splits.builds(plan, tuple(found.values()))[0] is PASS
    assert found[f"builds.{OLD} ux.integrity"].n < answers(folder, hour())[f"builds.{OLD} ux.integrity"].n * 2


def test_good_build_does_not_hide_a_bad_one(folder: Folder) -> None:
    slow = values(Kind.REPLAY_COMPLETED, lambda value: value + 900.0)(quiet())
    found = answers(folder, hour(lambda n: slow if n % 2 else None))
    assert found[f"builds.{NEW} replay.bootstrap_ms"].state is FAIL
    assert found[f"builds.{OLD} replay.bootstrap_ms"].state is PASS
    state, reason = splits.builds(planned(folder), tuple(found.values()))
    assert (state, reason.startswith(f"{NEW} replay.bootstrap_ms")) == (FAIL, True)


def test_build_with_too_little_data_does_not_pass(folder: Folder) -> None:
    few = replace(hour(), canary_checks=tuple(each for n, each in enumerate(in_turns()) if n % 2 == 0 or n == 5))
    found = tuple(answers(folder, replace(few, expected_canary_checks=len(few.canary_checks))).values())
    assert splits.builds(planned(folder), found)[0] is INCONCLUSIVE
    none = replace(hour(), canary_checks=in_turns()[::2], expected_canary_checks=HOUR * 60 // 600)
    state, reason = splits.builds(planned(folder), tuple(answers(folder, none).values()))
    assert (state, "no canary check had clients of this build" in reason) == (NO_DATA, True)
    assert splits.builds(planned(folder), ())[0] is NO_DATA


# --- against the control ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "canary", "against", "state"),
    [
        ("bootstrap_ms", lambda n: SLOW, control(), FAIL),
        ("bootstrap_ms", healthy, control(lambda n: SLOW), PASS),
        ("bootstrap_ms", lambda n: SLOW if n < 3 else None, control(), INCONCLUSIVE),  # bad, but not in each canary check
        ("bootstrap_ms", lambda n: SLOW if n < 3 else None, control(lambda n: SLOW if n < 3 else None), PASS),  # for both
        ("bootstrap_ms", lambda n: SLOW, control(lambda n: SLOW), PASS),
        ("bootstrap_ms", lambda n: slower(quiet(), 1.19), control(), INCONCLUSIVE),
        ("publish_to_apply_ms", healthy, control(), PASS),
        ("publish_to_apply_ms", lambda n: LATELY, control(), FAIL),
        ("error_ratio", lambda n: REFUSED, control(), FAIL),
        ("error_ratio", lambda n: REFUSED if n == 0 else None, control(), FAIL),  # few, but surely more
        ("error_ratio", lambda n: refused(3) if n == 0 else None, control(), PASS),
        ("error_ratio", lambda n: refused(5) if n == 0 else None, control(), INCONCLUSIVE),  # unlikely to be chance
        ("error_ratio", healthy, control(lambda n: REFUSED), PASS),
        ("bootstrap_ms", lambda n: SLOW, replace(control(), canary_checks=(), expected_canary_checks=0), NO_DATA),
        (
            "bootstrap_ms",
            healthy,
            replace(control(), canary_checks=control().canary_checks[:2], expected_canary_checks=2),
            INCONCLUSIVE,
        ),
        ("bootstrap_ms", healthy, control(lambda n: LATE if n < 4 else None), INCONCLUSIVE),
        ("bootstrap_ms", healthy, replace(control(), cut_short=4), INCONCLUSIVE),
        ("bootstrap_ms", healthy, replace(control(), problems=("something was changed",)), ERROR),
        ("bootstrap_ms", healthy, replace(control(), expected_canary_checks=13), ERROR),
    ],
)
def test_canary_is_compared_with_its_control(
    folder: Folder, name: str, canary: Seen, against: StageWindow, state: State
) -> None:
    found = answers(folder, hour(canary, against))[f"canary.{name}"]
    assert found.state is state, found
    if state in (PASS, FAIL):
        assert found.interval is not None
        assert found.n > 0


def test_control_does_not_affect_the_canarys_gates(folder: Folder) -> None:
    plain, beside = hour(), hour(against=control(lambda n: LOSSY))
    assert window.judge(beside, THRESHOLDS) == window.judge(plain, THRESHOLDS)
    assert window.abort_reason(beside, THRESHOLDS) == ""
    assert "canary.error_ratio" not in answers(folder, plain, control=None)


def test_missing_control_names_the_key_to_add(tmp_path: Path, folder: Folder) -> None:
    state, reason = splits.canary(tmp_path, planned(folder, control=None), ())
    assert (state, 'control = "NAME" to [stages.2]' in reason) == (NO_DATA, True)
    assert splits.canary(tmp_path, planned(folder), ())[0] is NO_DATA
    assert splits.CANARY in splits.asked(planned(folder, required=("hold",), control=None))


def test_hold_waits_for_each_build_and_for_the_control(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its judge requires both: a failed one restarts the hold, one with too little data extends it."""
    found = hour(against=control(lambda n: SLOW))
    preflight = SimpleNamespace(run_dir=folder.path, report=SimpleNamespace(plan=SimpleNamespace(stage="0")))
    monkeypatch.setattr(stage_run.chain, "earlier", lambda *_: [preflight])
    monkeypatch.setattr(stage_run.gates, "load_thresholds", lambda *_, **__: THRESHOLDS)
    monkeypatch.setattr(stage_run.window, "load", lambda *_: found)
    judge = stage_run.judge_of(SimpleNamespace(run_dir=folder.path, plan=planned(folder)))  # type: ignore[arg-type]
    assert (judge(AT, AT).red, judge(AT, AT).missing) == ("", ())
    found = hour(lambda n: SLOW, control())
    assert ("canary.bootstrap_ms", FAIL) in {(each.name, each.state) for each in judge(AT, AT).checks}
    found = replace(
        hour(against=replace(control(), canary_checks=(), expected_canary_checks=0)),
        canary_checks=in_turns()[::2],
        expected_canary_checks=HOUR * 60 // 600,
    )
    missing = " ".join(judge(AT, AT).missing)
    assert f"builds.{NEW} ux.integrity (no_data)" in missing
    assert "canary.error_ratio (no_data)" in missing


# --- what lies in a folder --------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Folder:
    """A stage 2 with canary checks of its control."""
    return Folder(tmp_path / "runs", "2").write().add_control()


def changed_control(folder: Folder, **changes: object) -> StageWindow:
    every(records.CONTROL_LIST, CanaryCheckDone, **changes)(folder)
    found = window.load(folder.path).control
    assert found is not None
    return found


def test_canary_checks_of_the_control_are_kept_apart(held: Folder) -> None:
    found = window.load(held.path)
    assert found.control is not None
    assert [each.path.split("/")[0] for each in (*found.canary_checks, *found.control.canary_checks)] == [
        "canary-checks"
    ] * 2 + ["control"] * 2
    assert (found.canary_check_problem, found.control.canary_check_problem) == ("", "")


def test_control_with_changed_revisions_is_an_error(held: Folder) -> None:
    found = changed_control(held, revisions=Revisions(control="control-00042", runtime="runtime-00017"))
    assert (found.canary_checks, "had other revisions" in found.canary_check_problem) == ((), True)


@pytest.mark.parametrize("change", [{"revisions": Revisions()}, {"status": "fail"}])
def test_failed_or_unknown_control_is_left_out(held: Folder, change: dict[str, object]) -> None:
    found = changed_control(held, **change)
    assert (found.canary_checks, found.cut_short, found.canary_check_problem) == ((), 2, "")


def test_canary_check_of_another_target_is_an_error(held: Folder) -> None:
    for header in (held.path / records.CANARY_CHECKS).rglob("run.json"):
        change_target(header.parent, "control")
    assert "ran against control (staging), not elsewhere" in window.load(held.path).canary_check_problem


def test_canary_check_of_another_build_is_an_error(held: Folder) -> None:
    every(records.CANARY_CHECK_LIST, CanaryCheckDone, build=NEW)(held)
    assert f"is recorded with build {NEW}, but its clients reported {OLD}" in window.load(held.path).canary_check_problem


# --- taking turns -----------------------------------------------------------------------------------


def target(name: str, **endpoints: object) -> stage_target.StageTarget:
    found = Endpoints(name, "staging", f"http://{name}", f"http://{name}", **endpoints)  # type: ignore[arg-type]
    return stage_target.StageTarget(name, None, found, None)


def watcher(folder: Path, clock: SteppedClock) -> canary_checks.CanaryCheckRunner:
    watching = CanaryChecks(drill="observation", every_s=300.0)
    return canary_checks.CanaryCheckRunner(watching, folder, folder, target("canary"), clock, (OLD, NEW), target("control"))


def test_canary_checks_rotate_through_targets_and_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ordered, lined = SteppedClock(AT), list[tuple[str, str]](), 0

    def within(order: Order, _: Path) -> canary_checks.Run:
        ordered.append((order.target, order.set[-1].rpartition("=")[2]))
        return canary_checks.Finished(msgspec.structs.replace(one_drill.not_run("observation", 1, ""), run=f"r{len(ordered)}"))

    monkeypatch.setattr(canary_checks, "run_here", within)
    monkeypatch.setattr(revisions, "find", lambda *_: CONTROL.revisions)
    for n in range(6):
        mine = watcher(tmp_path, clock)  # as if it had been killed each time
        lined += mine.step("hold") is not None
        assert mine.step("hold") is None, "not before half of the interval"
        clock.sleep_until(datetime.fromtimestamp(AT.timestamp() + 150.0 * (n + 1), UTC))
    assert ordered == [("canary", OLD), ("control", OLD), ("canary", NEW), ("control", NEW), ("canary", OLD), ("control", OLD)]
    assert lined == 3, "those of the control are not reported"
    canary, against = (
        evidence.read_lines(tmp_path / name, CanaryCheckDone) for name in (records.CANARY_CHECK_LIST, records.CONTROL_LIST)
    )
    assert {each.revisions for each in against} == {CONTROL.revisions}
    assert {each.run.split("/")[0] for each in against} == {records.CONTROL}
    assert {each.revisions.known for each in canary} == {False}
    assert iso(AT) == canary[0].at


def test_canary_checks_of_both_sides_must_fit_into_the_interval(tmp_path: Path) -> None:
    watching = CanaryChecks(drill="observation", every_s=40.0)
    canary_checks.load(watching, tmp_path, "staging", 30.0)
    with pytest.raises(UsageError, match="one of the control between"):
        canary_checks.load(watching, tmp_path, "staging", 30.0, sides=2)


def test_changed_configuration_of_the_control_stops_the_hold(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.plan = msgspec.structs.replace(world.plan, control=CONTROL)
    events = world.held()
    assert (events[-1].kind, "the configuration of the control changed" in events[-1].reason) == ("aborted", True)


TARGETS = """
[targets.{name}]
kind = "{kind}"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
session_token_env = "SESSION"
caps = {{ clients = {clients}, connects_per_s = 10.0, events_per_s = 10.0 }}
"""


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ({"kind": "production"}, "is of kind production"),
        ({"clients": 50}, "has caps"),
        ({"port": 8001}, "has the address of target"),
        ({"name": "other"}, "there is no target 'control'"),
    ],
)
def test_control_that_cannot_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: dict[str, object], words: str
) -> None:
    monkeypatch.setenv("SESSION", "s3ssion")
    usual: dict[str, object] = {"name": "staging", "kind": "staging", "port": 8001, "clients": 120}
    file = tmp_path / "targets.toml"
    good = {**usual, "name": "control", "port": 8002}
    file.write_text(TARGETS.format(**usual) + TARGETS.format(**good))
    found = stage_target.control_of("control", stage_target.resolve("staging", file))
    assert found is not None
    assert found.endpoints.name == "control"
    file.write_text(TARGETS.format(**usual) + TARGETS.format(**{**good, **control}))
    with pytest.raises(UsageError, match=words):
        stage_target.control_of("control", stage_target.resolve("staging", file))


@pytest.mark.parametrize(("stage", "words"), [("0", "has no use here"), ("4", "leaves no control")])
def test_preflight_and_full_rollout_have_no_control(tmp_path: Path, stage: str, words: str) -> None:
    text = stages.DEFAULT_PATH.read_text().replace(f"[stages.{stage}]\n", f'[stages.{stage}]\ncontrol = "before"\n')
    (tmp_path / "stages.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        stages.load(tmp_path / "stages.toml")


def test_twelve_canary_checks_are_enough() -> None:
    assert len(control().canary_checks) * CLIENTS > THRESHOLDS["canary.bootstrap_ms"].minimum_n  # type: ignore[operator]
