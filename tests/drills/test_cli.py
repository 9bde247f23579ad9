"""The command line: every error is one sentence with the right exit code, and leaves nothing behind."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from drills import BY_NAME, CATALOG, EXAMPLES
from drills.cli import main
from drills.judging.checks.thresholds import DEFAULT_PATH
from sim.drill.model import expected_duration_s, load
from tests.commands import Answer, Said, free_port, http_server, stormgate, stormgate_here, tcp_server

USAGE, STORAGE, INCONCLUSIVE = 3, 4, 2
JSON = "application/json"
TOKEN = json.dumps({"data": {"token": "a.b.c", "expires_in": 300, "refresh_after_in": 270}}).encode()


def refused(said: Said, code: int, *words: str) -> None:
    """Check for one sentence with these words on stderr, nothing on stdout, and no traceback."""
    assert (said.code, said.out) == (code, ""), said
    assert "Traceback" not in said.err
    assert said.sentence.endswith((".", "?"))
    assert [word for word in words if word not in said.sentence] == [], said.sentence


def run(out: Path, *arguments: object) -> Said:
    return stormgate_here("drill", "run", *arguments, "--out", out)


# --- invalid targets --------------------------------------------------------------------------------


def run_against(target: str, out: Path) -> Said:
    said = run(out, "reconnect_storm", "--clients", 3, "--target", target)
    assert not out.exists(), "nothing started, so nothing is left"
    return said


def test_dead_target_is_refused(tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
    refused(run_against(url, tmp_path / "out"), USAGE, "nothing answers at", url)
    said = stormgate("drill", "run", "reconnect_storm", "--target", url, "--out", tmp_path / "out")
    refused(said, USAGE, "nothing answers at", url)


HTML, EMPTY = "text/html", (200, JSON, b"{}")
READY = {"/readyz": EMPTY}


READY_WITH_TOKEN = {**READY, "/api/spacetime/token": (200, JSON, TOKEN)}


@pytest.mark.parametrize(
    ("known", "others", "words"),
    [
        ({}, (200, HTML, b"<html>hello</html>"), ["/api/spacetime/token", "200 (text/html)"]),
        ({}, (404, HTML, b"<html>not found</html>"), ["/readyz", "404 (text/html)", "not a sync service"]),
        ({}, (503, JSON, b"{}"), ["/readyz", "503", "not ready"]),
        (READY, (200, HTML, b"<html>sign in</html>"), ["/api/spacetime/token", "200 (text/html)", "token"]),
        (READY, (200, JSON, b'{"token": "x"}'), ["/api/spacetime/token", "token's JSON"]),
        (READY, (401, JSON, b'{"error": {"code": "unauthorized"}}'), ["/api/spacetime/token", "401", "session may mint"]),
        (READY_WITH_TOKEN, (404, JSON, b"{}"), ["/sync/socket/websocket", "404", "not 403"]),
    ],
    ids=["page", "nothing", "not_ready", "html_for_a_token", "another_json_for_a_token", "refused_token", "without_a_socket"],
)
def test_http_server_without_the_protocol_is_refused(
    tmp_path: Path, known: dict[str, Answer], others: Answer, words: list[str]
):
    with http_server(lambda method, path: known.get(path, others)) as url:
        refused(run_against(url, tmp_path / "out"), USAGE, url, *words)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"\x00\x01\x02" * 100, b"HTTP/9.9 yes\r\n\r\n"])
def test_server_that_speaks_no_http_is_refused(tmp_path: Path, greeting: bytes):
    with tcp_server(greeting) as url:
        refused(run_against(url, tmp_path / "out"), USAGE, url, "does not answer as an HTTP server")


INVALID_TARGETS = {
    "must be on this machine": [
        *("http://203.0.113.9:8080", "http://example.com", "http://127.0.0.1.example.com", "http://[2001:db8::1]:80"),
    ],
    "expected 'mock', or an address": ["production", "ftp://127.0.0.1", "http://", "http://[::1"],
    "1 to 65535": ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:http"],
    "only scheme, host and port": [
        *("http://user:s3cret@127.0.0.1:8080", "http://127.0.0.1:8080/path"),
        *("http://127.0.0.1:8080?token=s3cret", "http://127.0.0.1:8080#part"),
    ],
}


@pytest.mark.parametrize(("target", "words"), [(each, words) for words, every in INVALID_TARGETS.items() for each in every])
def test_invalid_target_is_refused(tmp_path: Path, target: str, words: str):
    said = run_against(target, tmp_path / "out")
    refused(said, USAGE, "--target", words)
    assert "s3cret" not in said.err


def test_drill_that_kills_the_runtime_needs_the_mock(tmp_path: Path):
    said = run(tmp_path / "out", "runtime_restart", "--target", f"http://127.0.0.1:{free_port()}")
    assert (said.code, "Not run: 1" in said.out) == (INCONCLUSIVE, True), said
    assert "embedded mock" in said.out


# --- usage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_drill"], ["no_such_drill", "reconnect_storm", "token_expiry_storm"]),
        ([], ["--all", "reconnect_storm"]),
        (["reconnect_storm", "--all"], ["not two of them"]),
        (["--quick", "--all"], ["not two of them"]),
        (["reconnect_storm", "reconnect_storm"], ["two drills", "reconnect_storm"]),
        (["reconnect_storm", "--engine", "steam"], ["--engine steam", "sockets"]),
        (["reconnect_storm", "--policy", "mobile"], ["'fleet.policy'", "'mobile'", "reference, desktop"]),
        (["reconnect_storm", "--defect", "rust"], ["--defect rust", "skip_delivery"]),
        (["reconnect_storm", "--clients", "0"], ["--clients 0", "at least 1"]),
        (["reconnect_storm", "--clients", "-5"], ["--clients -5", "at least 1"]),
        (["reconnect_storm", "--clients", "1000000"], ["1000000 clients", "file descriptors", "--clients"]),
        (["reconnect_storm", "--clients", "abc"], ["--clients", "integer"]),
        (["reconnect_storm", "--seed", "x"], ["--seed", "integer"]),
        (["reconnect_storm", "--colour"], ["--colour"]),
        (["reconnect_storm", "--set", "fleet"], ["--set fleet", "KEY=VALUE"]),
        (["reconnect_storm", "--set", "fleet.colour=red"], ["'fleet.colour'", "unknown key"]),
        (["reconnect_storm", "--set", "checks=['ux.beauty']"], ["ux.beauty", "there are"]),
        (["reconnect_storm", "--thresholds", "none.toml"], ["none.toml", "no such file"]),
        (["none.toml"], ["none.toml", "no such file"]),
        (["reconnect_storm", "--defect", "skip_delivery", "--target", "http://127.0.0.1:9"], ["--defect", "embedded mock"]),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, arguments: list[str], words: list[str]):
    refused(run(tmp_path / "out", *arguments), USAGE, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("name = [", ["is not valid TOML"]), ("", ["is missing"]), ("colour = 'red'", ["unknown key 'colour'"])]
)
def test_invalid_drill_file_is_refused(tmp_path: Path, text: str, words: list[str]):
    path = tmp_path / "my.toml"
    path.write_text(text)
    refused(run(tmp_path / "out", path), USAGE, str(path), *words)


@pytest.mark.parametrize("arguments", [["judge"], ["bogus"], ["mock", "bogus"], ["--colour"], ["drill", "run", "--out"]])
def test_unknown_command_is_refused(arguments: list[str]):
    refused(stormgate_here(*arguments), USAGE)


@pytest.mark.parametrize("arguments", [[], ["drill"], ["mock"]])
def test_group_without_a_command_shows_its_help(arguments: list[str]):
    said = stormgate_here(*arguments)
    assert said.code == USAGE
    assert "Usage:" in said.out
    assert said.sentence == "name a command."


# --- places to write to -----------------------------------------------------------------------------


def test_unwritable_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    refused(run(tmp_path / "file" / "out", "reconnect_storm", "--clients", 3), STORAGE, "cannot be written", "--out")
    said = stormgate("drill", "run", "reconnect_storm", "--out", tmp_path / "file")
    refused(said, STORAGE, "cannot be written", "--out")


@pytest.mark.parametrize("limit", [1_000, 12_000])
def test_full_disk_is_a_storage_error(tmp_path: Path, limit: int):
    """A limit on file sizes stands for a full disk. The plan exceeds the first limit, the log of the mock the second."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    fast = ["--set", "phases.steady_s=1", "--set", "phases.steady_limit_s=2", "--set", "phases.settle_s=2"]
    command = ["drill", "run", "dropped_delivery", "--clients", 60, *fast, "--out", tmp_path / "out"]
    said = stormgate(*command, before=small_files)
    refused(said, STORAGE)
    for run_dir in (tmp_path / "out").glob("*"):
        again = stormgate("judge", run_dir, "--json")
        assert again.code in (USAGE, STORAGE)
        assert again.out == "" or json.loads(again.out)["decision"] == "no_go"


def test_full_disk_of_the_embedded_mock_is_no_fault_of_a_service(tmp_path: Path):
    """It has room for the record, but not for the events."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))

    much = {"load.events_per_s": 60, "load.payload_bytes": 10_000, "phases.fault_s": 2, "phases.settle_s": 2}
    options = [part for key, value in much.items() for part in ("--set", f"{key}={value}")]
    said = stormgate("drill", "run", "observation", "--clients", 5, *options, "--out", tmp_path / "out", before=small_files)
    refused(said, STORAGE, "the embedded mock could not write its log", "free some space")


# --- listing, showing and dry runs ------------------------------------------------------------------


def test_dry_run_does_nothing_and_is_inconclusive(tmp_path: Path):
    said = run(tmp_path / "out", "reconnect_storm", "--clients", 7, "--dry-run")
    assert said.code == INCONCLUSIVE
    assert "7 reference clients" in said.out
    assert "drop_sockets" in said.out
    assert said.err == ""
    assert not (tmp_path / "out").exists()


def test_dry_run_as_json_is_one_object(tmp_path: Path):
    said, again = (run(tmp_path / "out", "--all", "--dry-run", "--json", "--seed", 5) for _ in range(2))
    plan = json.loads(said.out)
    assert (said.code, said.err, said.out.count("\n")) == (INCONCLUSIVE, "", 1)
    assert (plan["dry_run"], plan["seed"], len(plan["drills"])) == (True, 5, len(list(CATALOG.glob("*.toml"))))
    assert again.out == said.out


def test_quick_set_stays_short(tmp_path: Path):
    """`make drill` runs it in a fresh clone, in less than four minutes."""
    plans = [json.loads(run(tmp_path / "out", which, "--dry-run", "--json").out) for which in ("--quick", "--all")]
    quick, every = (set(plan["drills"]) for plan in plans)
    assert {"reconnect_storm", "stale_cursor", "runtime_restart", "token_misuse"} <= quick < every
    assert sum(expected_duration_s(load(CATALOG / f"{name}.toml")) for name in quick) < 150


@pytest.mark.parametrize(
    ("more", "left_out"), [((), {"retired_routes"}), (("--replications", "3"), {"retired_routes", "parity"})]
)
def test_drills_that_an_engine_cannot_run_are_left_out_with_a_note(tmp_path: Path, more: tuple[str, ...], left_out: set[str]):
    said = run(tmp_path / "out", "--all", "--engine", "virtual", "--dry-run", "--json", *more)
    everything = {path.stem for path in CATALOG.glob("*.toml")}
    assert everything - set(json.loads(said.out)["drills"]) == left_out
    assert all(f"{name} (" in said.err for name in left_out)
    assert said.err.count("\n") == 1


def test_drill_list_has_one_line_per_drill():
    said = stormgate("drill", "list", COLUMNS="80")
    assert said.code == 0
    _, *rows = said.out.splitlines()
    assert [row.split()[0] for row in rows] == [
        path.stem for where in (CATALOG, BY_NAME, EXAMPLES) for path in sorted(where.glob("*.toml"))
    ]
    assert max(map(len, rows)) <= 80


def test_drill_show_has_the_question_and_everything_it_does():
    said = stormgate("drill", "show", "reconnect_storm", COLUMNS="200")
    drill = load(CATALOG / "reconnect_storm.toml")
    assert said.code == 0
    for words in (
        drill.summary,
        "300, policy reference",
        "steady 5 s, fault 9 s, recovery 1 s, settle up to 30 s",
        "drop_sockets at 7 s",
        "negative_clients mutation_over_socket",
        "sockets, virtual, fleet",
        "heartbeat_interval_s 2.0",
        *drill.checks,
    ):
        assert words in said.out


@pytest.mark.parametrize("path", [*CATALOG.rglob("*.toml"), *EXAMPLES.glob("*.toml")], ids=lambda path: path.stem)
def test_every_drill_can_be_shown(path: Path):
    said = stormgate_here("drill", "show", path.stem)
    assert (said.code, said.err) == (0, "")
    assert all(check in said.out for check in load(path).checks)


def test_drill_show_uses_overrides_and_thresholds(tmp_path: Path):
    thresholds = tmp_path / "my.toml"
    text = DEFAULT_PATH.read_text()
    thresholds.write_text(text.replace("threshold = 8000\n", "threshold = 7500\n"))
    assert thresholds.read_text() != text
    said = stormgate_here("drill", "show", "reconnect_storm", "--set", "fleet.clients=77", "--thresholds", thresholds)
    assert "77, policy reference" in said.out
    assert "7500 ms" in " ".join(said.out.split())
    refused(stormgate_here("drill", "show", "reconnect_sturm"), USAGE, "reconnect_sturm", "reconnect_storm")


def test_closed_stdout_ends_the_command_quietly(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "drills", "drill", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == STORAGE


# --- help, version and completion -------------------------------------------------------------------


def commands(app: typer.Typer, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all groups and commands."""
    yield name
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*name, str(group.name)))
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*name, command.name or command.callback.__name__)


@pytest.mark.parametrize("name", [*commands(main.app)], ids=" ".join)
def test_help_of_every_command_is_complete(name: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Brackets are kept, the first line fits into the list of commands, and every argument and option has a text."""
    monkeypatch.setenv("COLUMNS", "80")
    command: Any = get_command(main.app)
    for word in name:
        command = command.commands[word]
    said = stormgate_here(*name, "--help")
    assert said.code == 0
    assert " ".join((command.help or "").split()) in " ".join(said.out.split())
    assert not name or not command.get_short_help_str(60).endswith("...")
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_version_is_printed():
    said = stormgate("--version")
    assert (said.code, said.out, said.err) == (0, f"stormgate {metadata.version('stormgate')}\n", "")


def test_shell_completion_is_offered():
    said = stormgate("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")  # CI has no shell to detect
    assert said.code == 0
    assert "stormgate" in said.out
    completed = stormgate(_STORMGATE_COMPLETE="complete_bash", COMP_WORDS="stormgate drill s", COMP_CWORD="2")
    assert completed.out.split() == ["show"]


def test_module_and_command_are_the_same():
    command = Path(sys.executable).with_name("stormgate")
    said = subprocess.run([command, "drill", "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == stormgate("drill", "--help").out


HEAVY = (
    *("pandas", "pyarrow", "numpy", "scipy", "matplotlib", "httpx"),
    *("websockets", "uvicorn", "starlette", "jwt", "jinja2", "msgspec"),
)


@pytest.mark.parametrize("arguments", [["--help"], ["drill", "--help"], ["drill", "run", "--help"], ["judge", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    script = f"""
import sys
from drills.cli import main as cli
code = cli.run_words({arguments})
print(code, sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage:" in done.stdout
    assert done.stderr.strip() == "0 []"
