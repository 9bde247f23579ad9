"""Verification commands: how tests are counted, and that nothing but a command which ran tests is a pass."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from drills.rollout.setup import commands, records, runner_summaries
from drills.rollout.setup.commands import Setting
from drills.rollout.setup.records import CommandDone
from drills.rollout.setup.stages import Command
from sim.base.clocks import SystemClock
from tests.commands import http_server, is_running, soon

CARGO = """
running 1 test
test tests::retired_spacetime_routes_return_not_found ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 120 filtered out; finished in 0.03s

     Running tests/other.rs
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
"""
FILTERED = (
    "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 120 filtered out; finished in 0.00s\n"
)


@pytest.mark.parametrize(
    ("runner", "output", "n"),
    [
        ("unittest", "-----\nRan 3 tests in 0.012s\n\nOK\n", 3),
        ("unittest", "Ran 1 test in 0.012s\n\nFAILED (failures=1)\n", 1),
        ("unittest", "Ran 4 tests in 0.012s\n\nOK (skipped=4)\n", 0),
        ("unittest", "Ran 0 tests in 0.000s\n\nNO TESTS RAN\n", 0),
        ("unittest", "Ran 3 tests in 0.012s\n", 0),
        ("unittest", "Traceback (most recent call last):\nImportError: no module\n", 0),
        ("cargo", CARGO, 3),
        ("cargo", FILTERED, 0),
        ("cargo", "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 3),
        ("cargo", "error: no such package\n", 0),
        ("cargo", "\x1b[32mtest result: ok. 4 passed; 0 failed; 0 ignored\x1b[0m".replace("\x1b[32m", ""), 4),
        ("pytest", "...\n3 passed in 0.12s\n", 3),
        ("pytest", "===== 2 failed, 5 passed, 1 skipped, 1 warning in 3.10s =====\n", 7),
        ("pytest", "===== 12 skipped in 0.10s =====\n", 0),
        ("pytest", "===== 4 deselected in 0.10s =====\n", 0),
        ("pytest", "no tests ran in 0.01s\n", 0),
        ("pytest", "test_x.py: 3 passed the exam\n", 0),
        ("go", "=== RUN TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/sub (0.00s)\nPASS\nok  \tx/y\t0.010s\n", 2),
        ("go", "ok  \tx/y\t0.010s\nok  \tx/z\t(cached)\n", 2),
        ("go", "ok  \tx/y\t0.010s [no tests to run]\n?   \tx/z\t[no test files]\n", 0),
        ("go", '{"Action":"run","Test":"TestA"}\n{"Action":"pass","Test":"TestA"}\n{"Action":"pass","Package":"x"}\n', 1),
        ("go", '{"Action":"skip","Test":"TestA"}\n{"Action":"pass","Package":"x"}\n', 0),
        ("node", "# tests 5\n# suites 0\n# pass 4\n# fail 1\n# skipped 0\n", 5),
        ("node", "ℹ tests 0\nℹ pass 0\nℹ fail 0\n", 0),
        ("node", "# tests 3\n# pass 0\n# fail 0\n# skipped 3\n", 0),
    ],
)
def test_tests_are_counted_from_the_runners_summary(runner: str, output: str, n: int):
    assert [count.tests for count in runner_summaries.calls(runner, output)] == [n]


SEVERAL = {  # a script that calls its runner five times
    "cargo": "".join(
        f"    Finished `test` profile [unoptimized] target(s) in 0.05s\n     Running unittests src/lib.rs\n"
        f"test result: ok. {n} passed; 0 failed; 0 ignored\n   Doc-tests x\ntest result: ok. 0 passed; 0 failed; 0 ignored\n"
        for n in (9, 0, 0, 7, 1)
    ),
    "pytest": "9 passed in 0.1s\nno tests ran in 0.0s\n4 deselected in 0.0s\n7 passed in 1.0s\n=== 1 passed in 0.1s ===\n",
    "unittest": "".join(f"{'-' * 70}\nRan {n} tests in 0.001s\n\nOK\n\n" for n in (9, 0, 0, 7, 1)),
    "node": "".join(f"ℹ tests {n}\nℹ pass {n}\nℹ fail 0\n" for n in (9, 0, 0, 7, 1)),
}


@pytest.mark.parametrize("runner", SEVERAL)
def test_each_call_of_a_runner_counts_by_itself(tmp_path: Path, runner: str):
    found = done(tmp_path, command(f"cat <<'X'\n{SEVERAL[runner]}X", runner=runner))
    assert (found.state, found.tests) == ("fail", 17)
    assert "call 2 of 5, call 3 of 5 ran no test" in found.reason


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("mkdir logs; for n in 9 7; do echo $n passed in 1.0s > logs/$n; done", "pass", "16 tests ran in 2 calls"),
        ("mkdir logs; echo no tests ran in 1s > logs/a; echo 7 passed in 1s > logs/b", "fail", "logs/a ran no test"),
        ("echo 9 passed in 1.0s", "fail", "no file logs/* was written"),
        ("mkdir logs; echo 9 passed in 1.0s > logs/a; touch -d '1 hour ago' logs/a", "fail", "no file logs/* was"),
    ],
)
def test_tests_are_counted_in_the_log_files_that_a_command_names(tmp_path: Path, script: str, state: str, words: str):
    (tmp_path / "there").mkdir()
    found = done(tmp_path, command(script, runner="pytest", logs=("logs/*",), cwd=str(tmp_path / "there")))
    assert (found.state, words in found.reason) == (state, True), found.reason


def command(script: str, **more: object) -> Command:
    return Command(**{"name": "check", "argv": ("sh", "-c", script), **more})  # type: ignore[arg-type]


def done(folder: Path, what: Command, **setting: object) -> CommandDone:
    found = commands.run(what, folder, SystemClock(), Setting(**setting))  # type: ignore[arg-type]
    lines = (folder / records.COMMANDS).read_text().splitlines()
    assert json.loads(lines[-1])["state"] == found.state, "what is said is what was written"
    return found


def test_command_that_ran_tests_passes_and_its_output_is_kept(tmp_path: Path):
    found = done(tmp_path, command(f"cat <<'X'\n{CARGO}X", runner="cargo"))
    assert (found.state, found.tests, found.exit_code, found.reason) == ("pass", 3, 0, "3 tests ran")
    kept = (tmp_path / found.log).read_bytes()
    assert b"filtered out" in kept
    assert hashlib.sha256(kept).hexdigest() == found.sha256


@pytest.mark.parametrize(
    ("script", "more", "state", "words"),
    [
        (f"cat <<'X'\n{FILTERED}X", {"runner": "cargo"}, "fail", "it ran no test"),
        ("true", {"runner": "pytest"}, "fail", "it ran no test"),
        ("echo 3 passed in 0.1s; exit 1", {"runner": "pytest"}, "fail", "exit code 1"),
        ("sleep 30", {"timeout_s": 0.3}, "fail", "within 0.3 s"),
        ("there-is-no-such-program", {}, "not_run", "127"),
        ("true", {"cwd_env": "NO_SUCH_VARIABLE"}, "not_run", "NO_SUCH_VARIABLE"),
        ("true", {"cwd": "/no/such/folder"}, "not_run", "/no/such/folder"),
        ("true", {"programs": ("no-such-program",)}, "not_run", "no-such-program"),
        ("true", {"argv": ("./scripts/none.sh",)}, "not_run", "none.sh"),
        ("true", {"environment": ("NO_SUCH_VARIABLE",)}, "not_run", "NO_SUCH_VARIABLE"),
        ("true", {}, "pass", "exit code 0"),
    ],
)
def test_command_passes_only_if_tests_ran(tmp_path: Path, script: str, more: dict[str, object], state: str, words: str):
    found = done(tmp_path, command(script, **more))
    assert (found.state, words in found.reason) == (state, True), found


_ERROR = '{"error":{"code":"unauthorized"}}'


@pytest.mark.parametrize(
    ("line", "answer", "state", "words"),
    [
        (f"echo '{_ERROR}'", "", "fail", 'its output is an error answer: {"error":{"code":"unauthorized"}}'),
        (f"echo warning; echo '{_ERROR}'", "", "fail", "is an error answer"),
        ('echo \'{"errors": ["forbidden"]}\'', "json", "fail", "is an error answer"),
        ('echo \'{"error": null, "checked": 3}\'', "json", "pass", "exit code 0"),
        ("echo 'curl: (7) Failed to connect' >&2", "json", "fail", "no answer of a service (curl: (7) Failed"),
        ("true", "json", "fail", "it printed nothing"),
        ("echo '{}'", "json", "fail", "no answer of a service ({})"),
        ('echo \'{"status": "ok"}\'', "metrics", "fail", "no metrics of the sync service"),
        ("true | jq .", "", "fail", "it printed nothing"),
        ("true | jq -r .status", "", "pass", "exit code 0"),
    ],
)
def test_answer_that_is_an_error_or_missing_is_no_evidence(tmp_path: Path, line: str, answer: str, state: str, words: str):
    """As `curl -sS URL | jq`, which exits with 0 whatever it gets."""
    found = done(tmp_path, command(line, answer=answer))
    assert (found.state, found.exit_code, words in found.reason) == (state, 0, True), found.reason


def test_operators_snapshot_command_passes_as_it_is_with_metrics_and_only_then(tmp_path: Path):
    """The runbook's line, without `--fail`, `-e` or `pipefail`."""
    line = 'curl -sS "$RUNTIME_BASE_URL/metrics" -H "Authorization: Bearer $RUNTIME_ADMIN_TOKEN" | jq'
    metrics = json.dumps({"generated_at": "2026-11-20T12:00:00Z", "delivery": {"served_messages": 3}}).encode()
    answers = {"200": (200, metrics), "401": (401, _ERROR.encode()), "empty": (502, b"")}
    for name, (status, body) in answers.items():
        with http_server(lambda *_, status=status, body=body: (status, "application/json", body)) as url:
            given = {**os.environ, "RUNTIME_BASE_URL": url, "RUNTIME_ADMIN_TOKEN": "adm1n-s3cret"}
            for answer in ("metrics", ""):
                asked = command(line, answer=answer, environment=("RUNTIME_BASE_URL", "RUNTIME_ADMIN_TOKEN"))
                found = done(tmp_path, asked, environment=given)
                assert (found.exit_code, found.state) == (0, "pass" if name == "200" else "fail"), (name, found.reason)


def test_command_gets_only_named_variables_and_secrets_are_redacted(tmp_path: Path):
    environment = {**os.environ, "RUNTIME_ADMIN_TOKEN": "adm1n-s3cret", "OTHER": "other-value", "ASKED": "asked-value"}
    script = "env; echo $RUNTIME_ADMIN_TOKEN adm1n-s3cret session-s3cret"
    found = done(
        tmp_path,
        command(script, environment=("RUNTIME_ADMIN_TOKEN",)),
        environment=environment,
        secrets=("session-s3cret",),
    )
    said = (tmp_path / found.log).read_text()
    assert "RUNTIME_ADMIN_TOKEN=[secret]" in said
    assert "OTHER" not in said
    assert "s3cret" not in said + (tmp_path / records.COMMANDS).read_text()


def test_processes_of_a_command_end_with_it(tmp_path: Path):
    mark = tmp_path / "pid"
    done(tmp_path, command(f"sleep 60 & echo $! > {mark}; wait", timeout_s=0.5))
    assert soon(lambda: not is_running(int(mark.read_text())), 5.0)


def test_long_output_is_cut_in_its_middle(tmp_path: Path):
    found = done(tmp_path, command("yes x | head -c 9000000; echo 7 passed in 1.00s", runner="pytest"))
    assert found.tests == 7
    assert (tmp_path / found.log).stat().st_size < 5_000_000


def test_operators_commands_are_optional_on_a_mock_and_ours_are_not(tmp_path: Path):
    missing = {"cwd_env": "NO_SUCH_VARIABLE"}
    assert not done(tmp_path, command("true", **missing), is_mock=True).required
    assert done(tmp_path, command("true", **missing), is_mock=False).required
    assert done(tmp_path, command("true", stands_for="other"), is_mock=True).required


def test_precondition_is_the_worst_of_its_commands(tmp_path: Path):
    rules = [command("true", name=name, precondition="observability_tests") for name in ("a", "b")]
    lines = {"a": done(tmp_path, rules[0])}
    assert commands.precondition(rules, lines, "observability_tests")[0] == "pass"
    lines["b"] = done(tmp_path, command("exit 3", name="b"))
    assert commands.precondition(rules, lines, "observability_tests") == ("fail", "b: ended with exit code 3")
    assert commands.precondition(rules, {}, "observability_tests")[0] == "not_run"


def _step(name: str, status: str, log: str = "") -> str:
    return json.dumps({"scenario": name, "status": status, "duration_seconds": 1, **({"log_file": log} if log else {})})


_RAN, _EMPTY = "echo '7 passed in 1s' > out/a.log; ", "echo 'no tests ran in 1s' > out/b.log; "


@pytest.mark.parametrize(
    ("lines", "state", "words"),
    [
        ([_step("a", "passed", "out/a.log")], "pass", "7 tests ran"),
        ([_step("a", "passed", "out/a.log"), _step("b", "passed", "out/b.log")], "fail", "b ran no test"),
        ([_step("a", "passed", "out/a.log"), _step("c", "failed", "out/a.log")], "fail", "c failed"),
        ([json.dumps({"gate": "all", "status": "skipped", "reason": "--skip-gates"})], "fail", "all skipped"),
        ([_step("a", "passed")], "fail", "a has no log file"),
        ([_step("a", "passed", "out/missing.log")], "fail", "a has no log file"),
        (["{not json"], "fail", "line 1 of results.jsonl is not an object"),
        (["[1]"], "fail", "line 1 of results.jsonl is not an object"),
        ([], "fail", "has no step"),
    ],
)
def test_each_step_of_a_script_must_pass_and_its_tests_count_by_themselves(
    tmp_path: Path, lines: list[str], state: str, words: str
):
    (tmp_path / "there").mkdir()
    written = "\n".join(lines)
    script = f"mkdir out; {_RAN}{_EMPTY}cat > out/results.jsonl <<'X'\n{written}\nX\n"
    found = done(tmp_path, command(script, runner="pytest", results=("out/*.jsonl",), cwd=str(tmp_path / "there")))
    assert (found.state, words in found.reason) == (state, True), found.reason


def test_a_results_file_that_the_script_did_not_write_is_no_evidence(tmp_path: Path):
    (tmp_path / "there").mkdir()
    old = tmp_path / "there" / "results.jsonl"
    old.write_text(_step("a", "passed") + "\n")
    os.utime(old, (0, 0))
    found = done(tmp_path, command("true", results=("*.jsonl",), cwd=str(tmp_path / "there")))
    assert (found.state, "no file *.jsonl was written" in found.reason) == ("fail", True)
