"""`stage check`: a healthy target passes, and each thing that will fail is found before anything starts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from drills.judging.checks.thresholds import DEFAULT_PATH as THRESHOLDS
from drills.rollout.check import machine, stage_check
from drills.rollout.check.findings import Finding, failed
from drills.rollout.hold import rollouts
from drills.rollout.hold.rollout_options import Options
from drills.rollout.hold.stage_plan import Asked
from sim.base.clocks import SystemClock
from tests.commands import Said, stormgate_here
from tests.rollout.rollout_world import ROLLBACK, STAGES, STORM, WATCH
from tests.rollout.stepped_service import CAPS, SteppedService, stepped_service

OWN_STAGES = STAGES.replace("judge_every_s = 7200.0", "judge_every_s = 300.0").replace("per_s = 10000.0", "per_s = 400.0")
KILL = '[targets.stepped.hooks.kill_runtime]\ninject = ["true"]\n'
RESTART = """
name = "tiny_storm"
summary = "Is everybody back after a restart?"
checks = ["reconnect.live_again_99_s"]
faults = [{ kind = "kill_runtime", at_s = 1.0, down_s = 8.0 }]
fleet = { clients = 100, connects_per_s = 100.0 }
load = { events_per_s = 30.0, run_streams = 2 }
phases = { steady_s = 5.2, fault_s = 9.5, recovery_s = 0.2, settle_s = 10.0 }
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SteppedService]:
    for name, text in (("tiny_watch.toml", WATCH), ("tiny_storm.toml", STORM), ("their-stages.toml", OWN_STAGES)):
        (tmp_path / name).write_text(text)
    with stepped_service(tmp_path, SystemClock(), extra=ROLLBACK) as found:
        yield found


def asked(service: SteppedService, stage: str = "0") -> Asked:
    folder = service.folder
    return Asked(stage, service.name, service.targets, "r", folder / "their-stages.toml", THRESHOLDS, folder / "out")


def wrong(service: SteppedService, stage: str = "0") -> list[Finding]:
    """What will fail."""
    return failed(stage_check.check(asked(service, stage), SystemClock()))


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def said(service: SteppedService, *command: str) -> Said:
    files = ("--target", service.name, "--targets", service.targets, "--stages", service.folder / "their-stages.toml")
    return stormgate_here(*command, *files, "--rollout", "r", "--out", service.folder / "out")


def test_nothing_fails_on_a_healthy_target(service: SteppedService) -> None:
    found = stage_check.check(asked(service), SystemClock())
    assert failed(found) == []
    items = {each.item for each in found}
    assert items >= {"secrets", "caps", "commands", "disk", "ports", "time", "metrics endpoint", "token issuance", "rollback"}


@pytest.mark.parametrize(
    ("caps", "change"),
    [
        ("clients = 100, connects_per_s = 200.0, events_per_s = 200.0", "caps.clients = 101"),
        ("clients = 200, connects_per_s = 99.0, events_per_s = 200.0", "caps.connects_per_s = 100"),
        ("clients = 200, connects_per_s = 200.0, events_per_s = 29.0", "caps.events_per_s = 30"),
    ],
)
def test_a_cap_below_what_a_drill_needs_is_named_with_the_value_to_write(
    service: SteppedService, caps: str, change: str
) -> None:
    edit(service.targets, CAPS.split("{")[1].split("}")[0].strip(), caps)
    (found,) = wrong(service)
    assert change in found.change
    assert f"{service.targets}: [targets.stepped]" in found.change


def test_a_connect_rate_that_paces_a_storm_is_found(service: SteppedService) -> None:
    """The clients arrive slowly enough, but come back all at once."""
    edit(service.folder / "tiny_storm.toml", "connects_per_s = 100.0", "connects_per_s = 50.0")
    edit(service.folder / "tiny_watch.toml", "connects_per_s = 100.0", "connects_per_s = 50.0")
    edit(service.targets, "connects_per_s = 200.0", "connects_per_s = 60.0")
    (found,) = wrong(service)
    assert "their checks of times stay inconclusive" in found.reason
    assert "caps.connects_per_s = 100" in found.change


@pytest.mark.parametrize(
    ("stop", "key"),
    [
        ("error_ratio = 0.5", "stop.error_ratio"),
        ("live_share = 0.2, live_share_for_s = 5.0", "stop.live_share"),
        ("metrics_unreachable_polls = 3", "stop.metrics_unreachable_polls"),
        ('metrics_above = { "mirror.published_total" = 100 }', "stop.metrics_above.mirror.published_total"),
        ('metrics_above = { "delivery.served_messages" = 1000 }', "stop.metrics_above.delivery.served_messages"),
        ("error_ratio = 0.97", ""),
        ("live_share = 0.2", ""),
        ("metrics_unreachable_polls = 20", ""),
        ('metrics_above = { "mirror.published_total" = 900, "mirror.failed_total" = 0 }', ""),
    ],
)
def test_a_stop_condition_that_a_drills_own_fault_meets_is_found(service: SteppedService, stop: str, key: str) -> None:
    (service.folder / "tiny_storm.toml").write_text(RESTART)
    service.write(extra=f"stop = {{ {stop} }}\n{KILL}{ROLLBACK}")
    found = wrong(service)
    assert {each.item for each in found} == ({"stop"} if key else set()), found
    of_storm = [each for each in found if "drill 'tiny_storm'" in each.reason]
    assert not key or [key in each.change for each in of_storm] == [True]


def test_every_missing_hook_is_named_at_once(service: SteppedService) -> None:
    text = RESTART.replace(
        "faults = [", 'faults = [{ kind = "fail_publishes", at_s = 0.0, for_s = 1.0, status = 503, share = 0.5 },'
    )
    (service.folder / "tiny_storm.toml").write_text(text)
    (found,) = wrong(service)
    assert found.item == "hooks"
    assert "fail_publishes, kill_runtime" in found.change


def test_unset_variables_are_named_without_asking_the_services(
    service: SteppedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEPPED_SESSION")
    monkeypatch.delenv("STEPPED_ADMIN")
    found = stage_check.check(asked(service), SystemClock())
    assert [each.reason for each in failed(found)] == [
        "the environment variable STEPPED_SESSION is not set",
        "the environment variable STEPPED_ADMIN is not set",
    ]
    assert "[targets.stepped] session_token_env" in failed(found)[0].change
    assert "services" in {each.item for each in found}, "caps, commands and the rest are checked all the same"


def test_a_secret_in_place_of_a_variables_name_is_not_shown(service: SteppedService) -> None:
    edit(service.targets, '"STEPPED_SESSION"', '"eyJ0_secret_itself"')
    shown = str(stage_check.check(asked(service), SystemClock()))
    assert "must be the name of an environment variable" in shown
    assert "eyJ0" not in shown


@pytest.mark.parametrize(
    ("before", "after", "item", "words"),
    [
        ('check = ["true"]', 'check = ["false"]', "rollback check", "exit"),
        ('traffic = { apply = ["true"]', 'traffic = { apply = ["./absent.sh"]', "target", "not an executable program"),
        (
            'traffic = { apply = ["true"]',
            'traffic = { apply = ["sh", "absent.sh"]',
            "target",
            "'absent.sh'",
        ),
        ('runtime_revision = "mock-r1"', 'runtime_revision = ""', "target", "runtime_revision"),
        (
            'control_revision = "mock-r1", runtime_revision = "mock-r1"',
            'control_revision = "mock-r2", runtime_revision = "mock-r2"',
            "rollback revisions",
            "are the deployed ones",
        ),
        ('throttle = { apply = ["true"], restore = ["true"] }', "", "rollback", "no commands to roll back its throttle"),
    ],
)
def test_what_is_wrong_with_the_rollback_is_found(
    service: SteppedService, before: str, after: str, item: str, words: str
) -> None:
    edit(service.targets, before, after)
    (found,) = wrong(service)
    assert (found.item, words in found.reason) == (item, True), found


@pytest.mark.parametrize(
    ("variable", "items"),
    [
        ("STEPPED_ADMIN", ["metrics endpoint"]),
        ("STEPPED_SESSION", ["token issuance", "builds deployed"]),
    ],
)
def test_a_service_that_refuses_a_secret_is_found(
    service: SteppedService, monkeypatch: pytest.MonkeyPatch, variable: str, items: list[str]
) -> None:
    edit(service.targets, f'"{variable}"', '"ANOTHER_SECRET"')
    monkeypatch.setenv("ANOTHER_SECRET", "not-what-the-service-knows" if variable == "STEPPED_ADMIN" else "bad")
    if variable == "STEPPED_SESSION":
        service.alter = lambda path, status, body: (401, b"{}") if path.endswith("/token") else (status, body)
    assert [each.item for each in wrong(service)] == items


def test_a_prometheus_that_does_not_answer_is_found(service: SteppedService) -> None:
    prometheus = '\n[targets.stepped.prometheus]\nurl = "http://127.0.0.1:9"\n[targets.stepped.prometheus.expressions]\n'
    service.write(extra=f'{ROLLBACK}{prometheus}"mirror.failed_total" = "sum(failed)"\n')
    (found,) = wrong(service)
    assert found.item == "Prometheus"
    assert "[targets.stepped.prometheus]" in found.change


def test_a_command_that_cannot_be_run_is_found(service: SteppedService) -> None:
    edit(service.folder / "their-stages.toml", 'argv = ["sh", "-c"', 'cwd_env = "ABSENT_CHECKOUT"\nargv = ["sh", "-c"')
    (found,) = wrong(service)
    assert "sync_metrics, retired_routes will not be run: the environment variable ABSENT_CHECKOUT" in found.reason


def test_a_mistake_in_every_table_is_found_at_once(service: SteppedService) -> None:
    service.write(extra=f"{ROLLBACK}\n[targets.stepped.stop]\nluck = 1\n[targets.stepped.routing]\npaht = 2\n")
    edit(service.targets, "caps =", "colour = 3\ncaps =")
    (found,) = wrong(service)
    lines = found.reason.splitlines()
    assert (found.item, len(lines)) == ("target", 3)
    for key, line in zip(("'colour'", "'luck'", "'paht'"), lines, strict=True):
        assert f"unknown key {key}; allowed here: " in line


def test_too_little_space_is_found(service: SteppedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1024 * 1024))
    assert [each.item for each in wrong(service)] == ["disk"]


def test_a_stage_that_is_held_must_be_unlocked_and_in_its_cohort(service: SteppedService) -> None:
    service.write(extra=f"{ROLLBACK}")
    found = {each.item: each.reason for each in wrong(service, "3a")}
    assert found["unlocked"] == "stage 2 has not been run"
    assert "should be 25 %" in found["cohort"] or "wrong side of 25 %" in found["cohort"]


def test_commands_report_what_fails_and_begin_nothing(service: SteppedService) -> None:
    edit(service.targets, "events_per_s = 200.0", "events_per_s = 29.0")
    checked = said(service, "stage", "check", "--json")
    body = json.loads(checked.out)
    assert (checked.code, body["stage"], body["fails"]) == (3, "0", 1)
    shown = said(service, "stage", "check", "0")
    assert (shown.code, "1 of" in shown.out, "caps.events_per_s = 30" in " ".join(shown.out.split())) == (3, True, True)
    ran = said(service, "stage", "run", "0")
    assert (ran.code, "1 of" in ran.sentence, "--anyway" in ran.sentence) == (3, True, True)
    dry = said(service, "stage", "run", "0", "--dry-run")
    assert (dry.code, "1 of" in dry.out, "dry run" in dry.out) == (2, True, True)
    assert not (service.folder / "out").exists()


def test_new_hold_is_checked_and_one_under_way_resumes_without(
    service: SteppedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(service.targets, 'check = ["true"]', 'check = ["false"]')
    refused = said(service, "stage", "hold", "1")
    assert (refused.code, "stage 1 did not begin" in refused.sentence, "--anyway" in refused.sentence) == (3, True, True)
    assert "unlocked" in refused.err
    assert not (service.folder / "out").exists()
    anyway = said(service, "stage", "hold", "1", "--anyway")
    assert (anyway.code, "stage 1 cannot begin: stage 0 has not been run" in anyway.sentence) == (3, True)
    options = msgspec.to_builtins(Options.given(service.name, service.targets, service.folder / "their-stages.toml", None))
    with rollouts.journal_of(rollouts.folder_of(service.folder / "out", "r"), SystemClock()) as journal:
        journal.append(
            rollouts.STARTED, run="left", stage="1", target=service.name, plan_sha256="", options=msgspec.to_builtins(options)
        )
    monkeypatch.setattr(stage_check, "check", lambda asked, clock: pytest.fail("a hold under way waits for no check"))
    resumed = said(service, "stage", "hold", "1")
    assert (resumed.code, "left" in resumed.sentence, "did not begin" in resumed.sentence) == (4, True, False)


def test_dry_run_shows_the_stage_and_that_nothing_will_fail(service: SteppedService) -> None:
    shown = said(service, "stage", "run", "0", "--dry-run")
    assert (shown.code, "1 drills: tiny_storm" in shown.out, "dry run" in shown.out) == (2, True, True)
    assert said(service, "stage", "check").code == 0
    assert not (service.folder / "out").exists()


def test_dry_run_of_a_rehearsal_runs_the_check_of_the_rollback(service: SteppedService) -> None:
    files = ("--target", service.name, "--targets", service.targets, "--out", service.folder / "out", "--dry-run")
    assert stormgate_here("rollback", "rehearse", *files).code == 2
    edit(service.targets, 'check = ["true"]', 'check = ["false"]')
    shown = stormgate_here("rollback", "rehearse", *files)
    assert (shown.code, "rollback check" in shown.err) == (3, True)


def test_dry_run_of_a_drill_knows_what_the_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("drill", "run", "reconnect_storm", "--dry-run", "--out", tmp_path / "out")
    assert stormgate_here(*command).code == 2
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (256, 256))
    shown = stormgate_here(*command)
    assert (shown.code, "descriptors" in shown.err) == (3, True)
