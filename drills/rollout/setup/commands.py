"""Verification commands: run in their folder, bounded, with as little of our environment as they need, and counted.

That a command exits with 0 is not enough where a runner is named: its own words must tell that tests ran.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import msgspec

from drills.rollout.setup import records, test_counts
from drills.rollout.setup.evidence import append
from drills.rollout.setup.records import CommandDone
from drills.rollout.setup.stages import Command
from sim.base.clocks import Clock, iso
from sim.base.errors import StorageError
from sim.base.redaction import Redactor

# What a program needs to find itself and its caches; nothing else of our environment is handed on.
_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("CARGO_HOME", "RUSTUP_HOME", "GOPATH", "GOCACHE", "NVM_DIR", "VIRTUAL_ENV"),
)
_MAX_OUTPUT_BYTES = 4 * 1024 * 1024  # kept of one command, the half from its beginning and the half from its end
_GRACE_S = 2.0  # from SIGTERM to SIGKILL
_CUT = b"\n[... stormgate kept the beginning and the end ...]\n"
_SHORTEST_SECRET = 6  # characters; a shorter value would be found in every other word
_NOT_FOUND = 127  # what a shell says of a program that is not there
Outcome = Literal["pass", "fail", "error", "not_run"]
STORMGATE = (sys.executable, "-m", "drills")


@dataclass(frozen=True)
class Setting:
    """What commands are run with. `secrets` are kept out of all that is kept."""

    target: str = ""
    targets: str = ""  # the targets file
    secrets: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_mock: bool = False


class NotRunError(Exception):
    """What it would need is not there; the text says what."""


def run(command: Command, folder: Path, clock: Clock, setting: Setting | None = None) -> CommandDone:
    """Run one command and add it to `commands.jsonl` in `folder`, its output to `logs/`. Raises `StorageError` alone."""
    setting = setting or Setting()
    began = iso(clock.now())
    given = _handed_on(command, setting.environment).values()
    redact = Redactor((*setting.secrets, *(value for value in given if len(value) >= _SHORTEST_SECRET)))
    plain = CommandDone(
        name=command.name,
        argv=tuple(redact.text(part) for part in command.argv),
        cwd="",
        state="not_run",
        reason="",
        began=began,
        runner=command.runner,
        stands_for=command.stands_for,
        required=command.is_ours or not setting.is_mock,
    )
    try:
        done = _run(command, folder, setting, redact, plain)
    except NotRunError as error:
        done = msgspec.structs.replace(plain, reason=redact.text(str(error)))
    append(folder / records.COMMANDS, done)
    return done


def _run(command: Command, folder: Path, setting: Setting, redact: Redactor, plain: CommandDone) -> CommandDone:
    cwd = _folder(command, setting.environment)
    logs = folder / records.LOGS / command.name
    argv = _argv(command, cwd, logs, setting)
    log = f"{records.LOGS}/{command.name}.txt"
    try:
        logs.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=logs.parent) as output:
            began = time.monotonic()
            code, why = to_its_end(argv, cwd, _environment(command, setting), command.timeout_s, output)
            took_s = time.monotonic() - began
            said = redact(_kept(output))
        (folder / log).write_bytes(said)
    except OSError as error:
        raise StorageError(f"{folder / log}: cannot be written ({error.strerror}).") from None
    words = said.decode("utf-8", "replace")
    tests = test_counts.tests(command.runner, words) if command.runner else None
    failed = test_counts.failed(command.runner, words) if command.runner else 0
    state, reason = _judged(code, why, tests, failed, command)
    return msgspec.structs.replace(
        plain,
        argv=tuple(redact.text(part) for part in argv),
        cwd=redact.text(str(cwd)),
        state=state,
        reason=reason,
        exit_code=code,
        duration_s=round(took_s, 3),
        log=log,
        sha256=hashlib.sha256(said).hexdigest(),
        tests=tests,
    )


def _judged(code: int | None, why: str, tests: int | None, failed: int, command: Command) -> tuple[Outcome, str]:
    if why:
        return "fail", why
    if code == _NOT_FOUND:
        return "not_run", "a program that it needs is not there (exit code 127)"
    if code:
        return "fail", f"ended with exit code {code}"
    if tests == 0:
        return "fail", f"ended with exit code 0, but by {command.runner}'s own words no test ran"
    if failed:
        return "fail", f"ended with exit code 0, but by {command.runner}'s own words {failed} of {tests} tests failed"
    return "pass", f"{tests} tests ran" if tests is not None else "ended with exit code 0"


def _folder(command: Command, environment: Mapping[str, str]) -> Path:
    if command.cwd_env is None:
        folder = Path(command.cwd or ".")
    elif not (root := environment.get(command.cwd_env, "")):
        raise NotRunError(f"the environment variable {command.cwd_env}, which names the folder to run it in, is not set")
    else:
        folder = Path(root) / command.cwd
    if not folder.is_dir():
        raise NotRunError(f"its folder {folder} is not there")
    return folder.resolve()


def _argv(command: Command, cwd: Path, logs: Path, setting: Setting) -> list[str]:
    """The command with its places filled in. Raises `NotRunError` for a program that is not there."""
    is_stormgate = command.argv[0] == "{stormgate}"
    parts = [*STORMGATE, *command.argv[1:]] if is_stormgate else list(command.argv)
    places = {
        "{python}": sys.executable,
        "{target}": setting.target,
        "{targets}": setting.targets,
        "{logs}": str(logs.resolve()),
    }
    parts = [places.get(part, part) for part in parts]
    if setting.targets and is_stormgate and "--target" in parts:
        parts += ["--targets", setting.targets]
    for program in (parts[0], *command.programs):
        there = cwd / program if "/" in program else program
        if shutil.which(str(there), path=setting.environment.get("PATH")) is None:
            raise NotRunError(f"there is no program {program!r} that can be run")
    return parts


def _handed_on(command: Command, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that the command asks for by name."""
    return {name: environment[name] for name in command.environment if environment.get(name)}


def _environment(command: Command, setting: Setting) -> dict[str, str]:
    own = setting.environment
    small = {name: own[name] for name in _ENVIRONMENT if name in own}
    if command.is_ours:  # our own commands may need whatever variables a targets file names
        small = dict(own)
    if missing := [name for name in command.environment if not own.get(name)]:
        raise NotRunError(f"the environment variable {missing[0]}, which it needs, is not set")
    return {**small, **_handed_on(command, own), "TERM": "dumb", "CARGO_TERM_COLOR": "never", "NO_COLOR": "1"}


def to_its_end(
    argv: list[str],
    cwd: Path | None,
    environment: Mapping[str, str],
    limit_s: float,
    output: IO[bytes],
    errors: int = subprocess.STDOUT,
) -> tuple[int | None, str]:
    """Run a command; its exit code and what went wrong. Whatever it started ends with it. Raises `NotRunError`."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # a Ctrl-C on the terminal is for us; and a time-out ends its children, too
        )
    except OSError as error:
        raise NotRunError(f"it could not be started ({error.strerror})") from None
    try:
        return process.wait(limit_s), ""
    except subprocess.TimeoutExpired:
        return None, f"did not end within {limit_s:g} s"
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Make sure that a process that leads a session of its own has ended, and all of that session."""
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, None)):
        if process.poll() is None or number is signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)


def _kept(output: IO[bytes]) -> bytes:
    """What it printed, as much of it as is kept."""
    size = output.seek(0, os.SEEK_END)
    output.seek(0)
    if size <= _MAX_OUTPUT_BYTES:
        return output.read()
    half = _MAX_OUTPUT_BYTES // 2
    head = output.read(half)
    output.seek(size - half)
    return head + _CUT + output.read()


def precondition(commands: Iterable[Command], done: Mapping[str, CommandDone], name: str) -> tuple[Outcome, str]:
    """What the operators' commands say to a precondition: state and reason."""
    asked = [done[command.name] for command in commands if command.precondition == name and command.name in done]
    graver: tuple[Outcome, ...] = ("fail", "error", "not_run")
    for state in graver:
        for each in asked:
            if each.state == state:
                return state, f"{each.name}: {each.reason}"
    return ("pass", "; ".join(f"{each.name}: {each.reason}" for each in asked)) if asked else ("not_run", "no command asks it")
