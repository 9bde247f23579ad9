"""The targets file: every mistake in one sentence, caps and hooks held before anything starts, and no secret ever said."""

import contextlib
import json
from pathlib import Path

import pytest

from drills import DATA
from drills.runs import catalog, target_forms, targets
from sim.base.errors import NotRunnableError, UsageError
from sim.drill import model as drills
from sim.drill.target_rules import Caps
from sim.engines.shared import permission
from tests.commands import Said, free_port, stormgate_here

USAGE, INCONCLUSIVE = 3, 2
EXAMPLE = DATA / "targets.example.toml"
VARIABLES = {
    "RUNTIME_BASE_URL": "https://runtime.staging.example.com/base/",
    "STORMGATE_SESSION": "s3cret-session",
    "RUNTIME_ADMIN_TOKEN": "s3cret-admin",
    "STORMGATE_PRODUCTION_SESSION": "s3cret-production",
}
GOOD = """
[targets.staging]
kind = "staging"
runtime_url_env = "RUNTIME_BASE_URL"
control_url = "https://control.staging.example.com"
session_token_env = "STORMGATE_SESSION"
admin_token_env = "RUNTIME_ADMIN_TOKEN"
caps = { clients = 100, connects_per_s = 50.0, events_per_s = 10.0 }
"""


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def refused(said: Said, *words: str) -> None:
    """Check for a usage error of one sentence with these words, without a secret."""
    assert said.code == USAGE, said
    assert [word for word in words if word not in said.sentence] == [], said.sentence
    assert said.sentence.count("\n") == 0
    assert "s3cret" not in said.err + said.out


def dry(file: Path | None, *options: object, name: str = "staging", drill: str = "reconnect_storm") -> Said:
    given = ["--targets", file] if file else []
    return stormgate_here("drill", "run", drill, "--target", name, *given, "--dry-run", *options)


def prometheus(
    expressions: str = "'mirror.failed_total' = 'x'", url: str = "https://prometheus.example.com", more: str = ""
) -> str:
    inside = ", ".join(part for part in (f"url = '{url}'", more, f"expressions = {{ {expressions} }}") if part)
    return f"prometheus = {{ {inside} }}"


def before(tables: str) -> tuple[str, str]:
    """A change to `GOOD` that adds these keys or tables."""
    return "caps = {", f"{tables}\ncaps = {{"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my-targets.toml"
    path.write_text(text)
    return path


def test_the_example_is_one() -> None:
    staging, production = (targets.read(EXAMPLE, name) for name in ("staging", "production"))
    assert staging.runtime_url == "https://runtime.staging.example.com/base"
    assert (staging.session, staging.admin_token) == ("s3cret-session", "s3cret-admin")
    assert staging.rules.stop.metrics_above == {"auth_failures.unauthorized_total": 500}
    assert production.rules.caps == Caps(clients=120, connects_per_s=25.0, events_per_s=15.0)
    assert "s3cret" not in repr(staging)


def uncommented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> targets.Target:
    """The example's target with all its optional tables, which are comments there."""
    monkeypatch.setattr(target_forms.shutil, "which", lambda program: f"/bin/{program}")
    monkeypatch.setenv("PROMETHEUS_TOKEN", "s3cret-prometheus")
    monkeypatch.setenv("STAGING_CODE", "s3cret-code")
    head, begin, rest = EXAMPLE.read_text().partition("# [targets.staging.")
    tables, production, tail = (begin + rest).partition("[targets.production]")
    keys = [line.removeprefix("# ") for line in tables.splitlines() if line.startswith(("# [", '# "')) or " = " in line]
    return targets.read(written(tmp_path, "\n".join([head, *keys, production + tail])), "staging")


def test_optional_tables_of_the_example_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = uncommented(monkeypatch, tmp_path)
    assert found.rules.hooks["kill_runtime"].timeout_s == 90
    assert found.rules.hooks["revoke_sessions"].reports.sessions == "/revoked"
    assert [sorted(step.values) for step in found.forms.sign_in] == [["challenge"], ["session", "session_id"]]
    way = found.rollback
    assert (way.observed_within_s, way.allow_on_production, way.recovery_check) == (60.0, False, ())
    assert way.traffic is not None
    assert way.throttle is not None
    assert way.cohort is not None
    revisions = (way.traffic.control_revision, way.traffic.runtime_revision, way.traffic.timeout_s)
    assert revisions == ("control-00041", "runtime-00087", 90.0)
    assert (way.throttle.refuses, way.throttle.burst, way.cohort.percent) == ("publishes", 40, 0.0)
    assert found.revisions.runtime[0] == "kubectl"
    assert found.prometheus is not None
    assert set(found.prometheus.expressions) == {"auth_failures.unauthorized_total", "sockets.reconnects_total"}
    assert found.prometheus.token == "s3cret-prometheus"
    assert "s3cret" not in repr(found) + repr(found.prometheus)


WAY = 'apply = ["true"], restore = ["true"]'


def test_a_prometheus_token_is_kept_secret_with_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_TOKEN", "s3cret-prometheus")
    text = GOOD.replace(*before(prometheus(more="token_env = 'PROMETHEUS_TOKEN'")))
    endpoints = targets.resolve("staging", written(tmp_path, text))
    assert endpoints is not None
    assert "s3cret-prometheus" in endpoints.secrets
    assert "s3cret" not in repr(endpoints)


def test_the_example_can_be_run_dry_by_the_catalogue_and_observed() -> None:
    said = dry(EXAMPLE)
    assert said.code == INCONCLUSIVE, said
    assert dry(EXAMPLE, name="production", drill="observation").code == INCONCLUSIVE


def test_the_example_allows_what_each_drill_of_the_catalogue_needs() -> None:
    """A drill that needs a hook, say, cannot run there; none is refused by the caps."""
    target = targets.resolve("staging", EXAMPLE)
    assert target is not None
    for path in catalog.catalogue().values():
        with contextlib.suppress(NotRunnableError):
            permission.require_allowed(drills.load(path), target)


def test_a_file_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(GOOD)
    endpoints = targets.resolve("staging")
    assert endpoints is not None
    assert endpoints.socket_url == "wss://runtime.staging.example.com/base/sync/socket/websocket"
    assert "s3cret" not in repr(endpoints)


@pytest.mark.parametrize("secret", ["Bearer pasted/secret", "pasted_secret", "pasted-secret", "PASTED SECRET"])
@pytest.mark.parametrize("key", ["session_token_env", "admin_token_env"])
def test_a_secret_in_the_place_of_a_variables_name_is_not_repeated(tmp_path: Path, key: str, secret: str) -> None:
    name = {"session_token_env": "STORMGATE_SESSION", "admin_token_env": "RUNTIME_ADMIN_TOKEN"}[key]
    (tmp_path / "targets.toml").write_text(GOOD.replace(f'"{name}"', f'"{secret}"'))
    with pytest.raises(UsageError) as caught:
        targets.resolve("staging")
    assert f"'{key}'" in str(caught.value)
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('kind = "staging"', 'kind = "prod"'), ["'kind'", "'prod'", "mock, staging, production"]),
        (('kind = "staging"', ""), ["'kind'", "is missing"]),
        (('kind = "staging"', 'kind = "staging"\ncolour = 1'), ["'colour'", "unknown key", "runtime_url"]),
        (('session_token_env = "STORMGATE_SESSION"', ""), ["'session_token_env'", "is missing"]),
        (('"STORMGATE_SESSION"', '"NOT_SET_ANYWHERE"'), ["'session_token_env'", "NOT_SET_ANYWHERE", "not set"]),
        (('"RUNTIME_BASE_URL"', '"NOT_SET_ANYWHERE"'), ["'runtime_url_env'", "NOT_SET_ANYWHERE", "not set"]),
        (('"STORMGATE_SESSION"', '"a name"'), ["'session_token_env'", "is not the name of an environment"]),
        (("caps = {", "cups = {"), ["'cups'", "unknown key"]),
        (("clients = 100", "clients = 0"), ["'caps.clients'", "0", ">= 1"]),
        (("clients = 100, ", ""), ["'caps.clients'", "is missing"]),
        (("connects_per_s = 50.0", "connects_per_s = inf"), ["'caps.connects_per_s'", "finite"]),
        (('control_url = "https:', 'control_url = "ftp:'), ["'control_url'", "https://"]),
        (('control_url = "https://', 'control_url = "https://u:s3cret@'), ["'control_url'", "no user"]),
        (('control_url = "https', 'control_url_env = "X"\ncontrol_url = "https'), ["'control_url'", "both given"]),
        (('control_url = "https://control.staging.example.com"', ""), ["'control_url'", "both missing"]),
        (before('socket_path = "sync?x=1"'), ["'socket_path'", "sync?x=1"]),
        (before('metrics_profile = "half"'), ["'metrics_profile'", "full, pinned, none"]),
        (before("stop = { error_ratio = 2.0 }"), ["[targets.staging.stop]", "'error_ratio'", "2.0"]),
        (before("stop = { colour = 2.0 }"), ["'colour'", "live_share"]),
        (before("stop = 3"), ["'stop'", "a table"]),
        (before("stop.metrics_above.delivery.max_replay_lag = 3"), ["metrics_above.delivery", "in quotes"]),
        (
            ('admin_token_env = "RUNTIME_ADMIN_TOKEN"', "stop = { metrics_unreachable_polls = 2 }"),
            ["'stop'", "admin_token_env"],
        ),
        (before("hooks = 3"), ["'hooks'", "one table per fault kind"]),
        (before("hooks.meteor = { inject = ['true'] }"), ["meteor", "no such fault", "kill_runtime"]),
        (before("hooks.drop_sockets = { inject = ['true'] }"), ["drop_sockets", "by itself"]),
        (before("hooks.kill_runtime = { inject = [] }"), ["hooks.kill_runtime]", "'inject'", "length >= 1"]),
        (before("hooks.kill_runtime = { revert = [] }"), ["hooks.kill_runtime]", "'inject'", "is missing"]),
        (before("hooks.kill_runtime = { inject = 'true' }"), ["hooks.kill_runtime]", "'inject'", "array"]),
        (
            before("hooks.kill_runtime = { inject = ['true'], revert = ['no-such-program-here'] }"),
            ["hooks.kill_runtime]", "'revert'", "'no-such-program-here'", "not an executable program"],
        ),
        (before('publish = { over = "protocol" }'), ["publish]", "'over'", "'spacetime' cannot publish"]),
        (
            before('protocol = "nats_jetstream"\nsocket = false\npublish = { over = "protocol" }'),
            ["'publish.over'", "'socket' is false"],
        ),
        (before('streams = { names = ["a"], created_by_publish = true }'), ["streams]", "'created_by_publish'", "both given"]),
        (
            before('streams = { created_by_publish = true }\ncreate = { path = "/x" }'),
            ["'create'", "'created_by_publish'", "both given"],
        ),
        (before("revisions = 3"), ["'revisions'", "'control' and 'runtime'"]),
        (before("revisions = { runtim = ['true'] }"), ["[targets.staging.revisions]", "'runtim'", "runtime"]),
        (before("revisions = { runtime = 'true' }"), ["[targets.staging.revisions]", "'runtime'", "array"]),
        (before("revisions = { runtime = [] }"), ["[targets.staging.revisions]", "'runtime'", "is empty"]),
        (before("revisions = { timeout_s = 0 }"), ["[targets.staging.revisions]", "'timeout_s'"]),
        (
            before("revisions = { control = ['no-such-program-here'] }"),
            ["[targets.staging.revisions]", "'control'", "'no-such-program-here'", "not an executable program"],
        ),
        (before("prometheus = 3"), ["'prometheus'", "'url' and 'expressions'"]),
        (before(prometheus(url="")), ["[targets.staging.prometheus]", "'url'", "both missing"]),
        (before(prometheus(url="https://u:s3cret@h")), ["[targets.staging.prometheus]", "'url'", "no user"]),
        (before(prometheus(url="ftp://h")), ["[targets.staging.prometheus]", "'url'", "https://"]),
        (before(prometheus(more="token_env = 'NOT_SET_ANYWHERE'")), ["'token_env'", "NOT_SET_ANYWHERE", "not set"]),
        (before(prometheus(more="tokn_env = 'X'")), ["[targets.staging.prometheus]", "'tokn_env'", "token_env"]),
        (before(prometheus(more="max_age_s = 0")), ["[targets.staging.prometheus]", "'max_age_s'"]),
        (before(prometheus("mirror.failed = 'x'")), ["expressions.mirror", "in quotes"]),
        (before(prometheus("'mirror.failed_total' = 3")), ["expressions.mirror.failed_total", "PromQL", "as text"]),
        (before(prometheus("'mirror.failed_total' = ''")), ["expressions.mirror.failed_total", "''", "PromQL"]),
        (before(prometheus("'mirror.faild_total' = 'x'")), ["mirror.faild_total", "unknown metric", "mirror.failed_total"]),
        (before(prometheus("")), ["[targets.staging.prometheus]", "'expressions' is empty"]),
        (before("rollback = 3"), ["'rollback' is 3", "traffic", "cohort"]),
        (before("rollback = { cohort = 3 }"), ["rollback]", "'cohort' is 3", "'apply' and 'restore'"]),
        (before("rollback = { routing = {} }"), ["rollback]", "unknown key 'routing'", "traffic"]),
        (before("rollback = { cohort = { apply = ['true'] } }"), ["'cohort.restore' is missing"]),
        (before("rollback = { cohort = { apply = [], restore = ['true'] } }"), ["'cohort.apply'", "length >= 1"]),
        (
            before("rollback = { cohort = { apply = ['no_tool'], restore = ['true'] } }"),
            ["'cohort.apply'", "'no_tool'"],
        ),
        (
            before("rollback = { cohort = { apply = ['true'], restore = ['no_tool'] } }"),
            ["'cohort.restore'", "'no_tool'"],
        ),
        (before(f"rollback = {{ cohort = {{ {WAY}, percent = 100 }} }}"), ["'cohort.percent' is 100", "< 100"]),
        (before(f"rollback = {{ traffic = {{ {WAY}, control_revision = 'a' }} }}"), ["'traffic.runtime_revision' is missing"]),
        (
            before(f"rollback = {{ traffic = {{ {WAY}, control_revision = 'a', runtime_revision = '' }} }}"),
            ["traffic.runtime_revision"],
        ),
        (before(f"rollback = {{ throttle = {{ {WAY}, burst = 1 }} }}"), ["'throttle.burst' is 1", ">= 2"]),
        (before(f"rollback = {{ throttle = {{ {WAY}, refuses = 'mints' }} }}"), ["'throttle.refuses'", "publishes, connects"]),
        (before("rollback = { observed_within_s = 0 }"), ["'observed_within_s' is 0", "> 0"]),
        (("[targets.staging]", "[staging]"), ["'staging'", "[targets.staging]"]),
        (("[targets.staging]", "[targets.mock]"), ["'targets.mock'", "embedded mock"]),
        (("[targets.staging]", "[targets.preview]"), ["no target 'staging'", "preview"]),
        (("[targets.staging]", "[targets.staging"), ["not valid TOML"]),
    ],
)
def test_mistake_is_reported_in_one_sentence(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    assert change[0] in GOOD
    refused(dry(written(tmp_path, GOOD.replace(*change))), "my-targets.toml", *words)


def test_an_address_in_a_variable_is_never_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("https://u:s3cret@h", "s3cret", "https://h?token=s3cret", "https://h:s3cret", "https://h/s3 cret"):
        monkeypatch.setenv("RUNTIME_BASE_URL", address)
        said = dry(written(tmp_path, GOOD))
        assert said.code == USAGE
        assert "'runtime_url_env'" in said.sentence
        assert "s3" not in said.sentence.replace("s3cret-", "")


def test_a_secret_that_fits_in_no_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMGATE_SESSION", "s3cret\nX: y")
    refused(dry(written(tmp_path, GOOD)), "is not valid in an HTTP header")


@pytest.mark.parametrize("name", ["staging", "https//x", "ftp://u:s3cret@h"])
def test_a_name_without_a_file(name: str) -> None:
    refused(dry(None, name=name), "targets.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(dry(tmp_path / "none.toml"), "none.toml: no such file")


def test_what_is_no_name_is_not_said_again(tmp_path: Path) -> None:
    refused(dry(written(tmp_path, GOOD), name="ftp://u:s3cret@h"))


# --- what a target does not allow -------------------------------------------------------------------

WITHIN = ("--clients", 98, "--set", "fleet.connects_per_s=50", "--set", "load.events_per_s=10")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["caps.clients is 100", "302 connections", "--clients 98"]),
        (["--clients", 98], ["caps.connects_per_s is 50", "150/s", "--set fleet.connects_per_s=50"]),
        (WITHIN[:4], ["caps.events_per_s is 10", "30/s", "--set load.events_per_s=10"]),
    ],
)
def test_a_drill_over_a_cap_is_refused_with_the_flag_to_use(tmp_path: Path, options: list[object], words: list[str]) -> None:
    refused(dry(written(tmp_path, GOOD), *options), *words)


def test_a_storm_that_will_be_paced_says_so_before(tmp_path: Path) -> None:
    said = dry(written(tmp_path, GOOD), *WITHIN)
    assert said.code == INCONCLUSIVE
    assert "Up to 98 clients" in said.out
    assert "--clients 50 is not paced" in said.out
    assert "is not paced" not in dry(written(tmp_path, GOOD), *WITHIN, "--clients", 50).out


def test_a_fault_without_a_hook_is_not_run_by_name(tmp_path: Path) -> None:
    said = dry(written(tmp_path, GOOD), *WITHIN, "--clients", 97, drill="token_expiry_storm")
    assert said.code == INCONCLUSIVE
    for words in ("token_expiry_storm is not run", "has the fault", "[targets.staging.hooks.", "staging"):
        assert words in said.out


def test_production_refuses_whatever_breaks_anything(tmp_path: Path) -> None:
    text = GOOD.replace('"staging"', '"production"').replace(*before("hooks.kill_runtime = { inject = ['true'] }"))
    refused(dry(written(tmp_path, text), *WITHIN, drill="runtime_restart"), "kill_runtime", "production")


# --- what is shown ----------------------------------------------------------------------------------


def test_a_dry_run_shows_where_it_would_go_and_what_it_would_do_and_no_secret(tmp_path: Path) -> None:
    hook = "hooks.kill_runtime = { inject = ['echo', 's3cret-admin', 'x y'], revert = ['true'] }"
    file = written(tmp_path, GOOD.replace(*before(hook)))
    said = dry(file, *WITHIN, drill="runtime_restart")
    assert said.code == INCONCLUSIVE, said
    for word in (
        "https://runtime.staging.example.com/base",
        "https://control.staging.example.com",
        "100 clients, 50 connects/s, 10 events/s",
        "echo '[secret]' 'x y'",
        "every client of the service, not only this drill's",
    ):
        assert word in said.out
    as_json = dry(file, *WITHIN, "--json", drill="runtime_restart")
    plan = json.loads(as_json.out)
    assert plan["target_plan"]["runtime_url"] == "https://runtime.staging.example.com/base"
    assert plan["target_plan"]["hooks"]["kill_runtime"]["inject"] == ["echo", "[secret]", "x y"]
    assert "s3cret" not in said.out + said.err + as_json.out


def test_a_mock_of_ours_elsewhere_can_be_named(tmp_path: Path) -> None:
    port = free_port()
    text = f'[targets.ours]\nkind = "mock"\nruntime_url = "http://127.0.0.1:{port}"\ncontrol_url = "http://127.0.0.1:{port}"\n'
    assert dry(written(tmp_path, text), name="ours").code == INCONCLUSIVE
    said = dry(written(tmp_path, text), name="ours", drill="runtime_restart")
    assert "only works on the embedded mock" in said.out


def test_the_virtual_engine_takes_no_target(tmp_path: Path) -> None:
    refused(dry(written(tmp_path, GOOD), "--engine", "virtual"), "leave --target out")


def test_a_name_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no target 'stage'; there are: staging"):
        targets.resolve("stage", written(tmp_path, GOOD))
