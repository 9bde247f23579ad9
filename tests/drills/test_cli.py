"""The command line in its own process: each trouble is one sentence and the right exit code, and leaves nothing behind."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drills.cli.main import CATALOG
from sim.drill.model import expected_duration_s, load
from tests.commands import Answer, Said, free_port, http_server, stormgate, stormgate_here, tcp_server

USAGE, STORAGE, INCONCLUSIVE = 3, 4, 2
JSON = "application/json"
TOKEN = json.dumps({"data": {"token": "a.b.c", "expires_in": 300, "refresh_after_in": 270}}).encode()


def refused(said: Said, code: int, *words: str) -> None:
    """One sentence with these words on stderr, nothing on stdout, no traceback."""
    assert (said.code, said.out) == (code, ""), said
    assert "Traceback" not in said.err
    assert said.sentence.endswith((".", "?"))
    assert [word for word in words if word not in said.sentence] == [], said.sentence


def run(out: Path, *arguments: object) -> Said:
    return stormgate_here("drill", "run", *arguments, "--out", out)


# --- targets that are none --------------------------------------------------------------------------


def aimed_at(target: str, out: Path) -> Said:
    said = run(out, "reconnect_storm", "--clients", 3, "--target", target)
    assert not out.exists(), "nothing began, so nothing is left"
    return said


def test_a_dead_target(tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
    refused(aimed_at(url, tmp_path / "out"), USAGE, "nothing answers at", url)
    said = stormgate("drill", "run", "reconnect_storm", "--target", url, "--out", tmp_path / "out")
    refused(said, USAGE, "nothing answers at", url)


def page(method: str, path: str) -> Answer:
    return 200, "text/html", b"<html>hello</html>"


def nothing(method: str, path: str) -> Answer:
    return 404, "text/html", b"<html>not found</html>"


def ready_but_html_for_a_token(method: str, path: str) -> Answer:
    return (200, JSON, b"{}") if path == "/readyz" else (200, "text/html", b"<html>sign in</html>")


def ready_but_refusing(method: str, path: str) -> Answer:
    return (200, JSON, b"{}") if path == "/readyz" else (401, JSON, b'{"error": {"code": "unauthorized"}}')


def ready_but_another_json(method: str, path: str) -> Answer:
    return (200, JSON, b"{}") if path == "/readyz" else (200, JSON, b'{"token": "x"}')


def without_a_socket(method: str, path: str) -> Answer:
    answers = {"/readyz": (200, JSON, b"{}"), "/api/spacetime/token": (200, JSON, TOKEN)}
    return answers.get(path, (404, JSON, b"{}"))


def not_ready(method: str, path: str) -> Answer:
    return 503, JSON, b"{}"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page, ["/api/spacetime/token", "200 (text/html)"]),
        (nothing, ["/readyz", "404 (text/html)", "no sync runtime"]),
        (not_ready, ["/readyz", "503", "not ready"]),
        (ready_but_html_for_a_token, ["/api/spacetime/token", "200 (text/html)", "token"]),
        (ready_but_another_json, ["/api/spacetime/token", "token's JSON"]),
        (ready_but_refusing, ["/api/spacetime/token", "401", "session may mint"]),
        (without_a_socket, ["/sync/socket/websocket", "404", "not 403"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_port_that_speaks_http_but_not_this_protocol(tmp_path: Path, answer: Callable[[str, str], Answer], words: list[str]):
    with http_server(answer) as url:
        refused(aimed_at(url, tmp_path / "out"), USAGE, url, *words)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"\x00\x01\x02" * 100, b"HTTP/9.9 yes\r\n\r\n"])
def test_a_port_that_speaks_no_http(tmp_path: Path, greeting: bytes):
    with tcp_server(greeting) as url:
        refused(aimed_at(url, tmp_path / "out"), USAGE, url, "does not answer as an HTTP server")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://203.0.113.9:8080", ["this machine only"]),
        ("http://example.com", ["this machine only"]),
        ("http://127.0.0.1.example.com", ["this machine only"]),
        ("http://[2001:db8::1]:80", ["this machine only"]),
        ("production", ["expected 'mock', or an address"]),
        ("ftp://127.0.0.1", ["expected 'mock', or an address"]),
        ("http://", ["expected 'mock', or an address"]),
        ("http://[::1", ["expected 'mock', or an address"]),
        ("http://127.0.0.1:99999", ["1 to 65535"]),
        ("http://127.0.0.1:0", ["1 to 65535"]),
        ("http://127.0.0.1:http", ["1 to 65535"]),
        ("http://user:s3cret@127.0.0.1:8080", ["host and port alone"]),
        ("http://127.0.0.1:8080/path", ["host and port alone"]),
        ("http://127.0.0.1:8080?token=s3cret", ["host and port alone"]),
        ("http://127.0.0.1:8080#part", ["host and port alone"]),
    ],
)
def test_a_target_that_cannot_be(tmp_path: Path, target: str, words: list[str]):
    said = aimed_at(target, tmp_path / "out")
    refused(said, USAGE, "--target", *words)
    assert "s3cret" not in said.err


def test_a_drill_that_kills_needs_its_own_runtime(tmp_path: Path):
    said = run(tmp_path / "out", "runtime_restart", "--target", f"http://127.0.0.1:{free_port()}")
    refused(said, USAGE, "runtime_restart", "embedded mock")


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
def test_what_was_asked_for_cannot_be(tmp_path: Path, arguments: list[str], words: list[str]):
    refused(run(tmp_path / "out", *arguments), USAGE, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = [", ["is not valid TOML"]),
        ("", ["is missing"]),
        ("colour = 'red'", ["unknown key 'colour'"]),
    ],
)
def test_a_drill_file_that_is_none(tmp_path: Path, text: str, words: list[str]):
    path = tmp_path / "my.toml"
    path.write_text(text)
    refused(run(tmp_path / "out", path), USAGE, str(path), *words)


@pytest.mark.parametrize("arguments", [["judge"], ["bogus"], ["mock", "bogus"], ["--colour"], ["drill", "run", "--out"]])
def test_a_command_that_is_none(arguments: list[str]):
    refused(stormgate_here(*arguments), USAGE)


@pytest.mark.parametrize("arguments", [[], ["drill"], ["mock"]])
def test_no_command_shows_the_help(arguments: list[str]):
    said = stormgate_here(*arguments)
    assert said.code == USAGE
    assert "Usage:" in said.out
    assert said.sentence == "name a command."


# --- places to write to -----------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").write_text("")
    refused(run(tmp_path / "file" / "out", "reconnect_storm", "--clients", 3), STORAGE, "cannot be written", "--out")
    said = stormgate("drill", "run", "reconnect_storm", "--out", tmp_path / "file")
    refused(said, STORAGE, "cannot be written", "--out")


@pytest.mark.parametrize("limit", [1_000, 12_000])
def test_a_full_disk(tmp_path: Path, limit: int):
    """No file may grow over a limit: of the plan it is the first thing too many, of the runtime's log the second."""

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


# --- what it says -----------------------------------------------------------------------------------


def test_a_dry_run_does_nothing_and_cannot_tell(tmp_path: Path):
    said = run(tmp_path / "out", "reconnect_storm", "--clients", 7, "--dry-run")
    assert said.code == INCONCLUSIVE
    assert "7 reference clients" in said.out
    assert "drop_sockets" in said.out
    assert said.err == ""
    assert not (tmp_path / "out").exists()


def test_a_dry_run_as_json_is_one_object(tmp_path: Path):
    said = run(tmp_path / "out", "--all", "--dry-run", "--json", "--seed", 5)
    plan = json.loads(said.out)
    assert (said.code, said.err, said.out.count("\n")) == (INCONCLUSIVE, "", 1)
    assert (plan["dry_run"], plan["seed"], len(plan["drills"])) == (True, 5, len(list(CATALOG.glob("*.toml"))))
    assert run(tmp_path / "out", "--all", "--dry-run", "--json", "--seed", 5).out == said.out


def test_the_quick_set_is_a_part_of_the_catalogue(tmp_path: Path):
    """It is what `make drill` runs in a fresh clone, in less than four minutes, so it must not grow by accident."""
    plans = [json.loads(run(tmp_path / "out", which, "--dry-run", "--json").out) for which in ("--quick", "--all")]
    quick, every = (set(plan["drills"]) for plan in plans)
    assert {"reconnect_storm", "stale_cursor", "runtime_restart", "token_misuse"} <= quick < every
    assert sum(expected_duration_s(load(CATALOG / f"{name}.toml")) for name in quick) < 150


@pytest.mark.parametrize(
    ("more", "left_out"), [((), {"retired_routes"}), (("--replications", "3"), {"retired_routes", "parity"})]
)
def test_of_a_whole_set_what_cannot_be_run_so_is_left_out_and_said(tmp_path: Path, more: tuple[str, ...], left_out: set[str]):
    said = run(tmp_path / "out", "--all", "--engine", "virtual", "--dry-run", "--json", *more)
    everything = {path.stem for path in CATALOG.glob("*.toml")}
    assert everything - set(json.loads(said.out)["drills"]) == left_out
    assert all(f"{name} (" in said.err for name in left_out)
    assert said.err.count("\n") == 1


def test_the_catalogue_is_listed():
    said = stormgate("drill", "list", COLUMNS="160")
    assert said.code == 0
    assert all(name in said.out for name in ("reconnect_storm", "stale_cursor", "runtime_restart"))


def test_whoever_reads_may_leave(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "drills.cli.main", "drill", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == STORAGE


HEAVY = (
    "pandas",
    "pyarrow",
    "numpy",
    "scipy",
    "matplotlib",
    "httpx",
    "websockets",
    "uvicorn",
    "starlette",
    "jwt",
    "jinja2",
    "msgspec",
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
