"""Run verification commands in their folder, with a time limit and a minimal environment, and judge them.

For a command with a test runner, exit code 0 is not enough: each summary of the runner must report that tests ran.
"""

import asyncio
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from drills.rollout.setup import answers, records, runner_summaries, script_results
from drills.rollout.setup.evidence import append, cannot_write
from drills.rollout.setup.records import CommandDone, Outcome
from drills.rollout.setup.runner_summaries import Count
from drills.rollout.setup.script_results import Step, UnreadableError
from drills.rollout.setup.stages import Command
from sim.base import bounded_reads, operator_command
from sim.base.clocks import Clock, iso
from sim.base.exit_codes import ExitCode
from sim.base.operator_command import NOT_STARTED, Output
from sim.base.redaction import Redactor
from sim.engines.shared.endpoints import Endpoints

# Variables that programs need to find files and caches; no other variable of our environment is passed on.
_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("CARGO_HOME", "RUSTUP_HOME", "GOPATH", "GOCACHE", "NVM_DIR", "VIRTUAL_ENV"),
)
_MAX_OUTPUT_BYTES = 4 * 1024 * 1024  # maximum output that is kept of one command
_FILE_TIME_S = 2.0  # [ours] a file that a command has just written may look this much older: file systems count coarsely
MIN_SECRET_CHARS = 6  # a shorter value would match ordinary words
_NOT_FOUND = 127  # a shell's exit code for a missing program
STORMGATE = (sys.executable, "-P", "-m", "drills.cli.main")


@dataclass(frozen=True)
class Setting:
    """The settings to run commands with. `secrets` are removed from all stored output."""

    target: str = ""
    targets: str = ""  # the targets file
    secrets: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_mock: bool = False


class NotRunError(Exception):
    """The command cannot run because something is missing; the text names it."""


def run(command: Command, folder: Path, clock: Clock, setting: Setting | None = None) -> CommandDone:
    """Run a command; add it to `commands.jsonl` in `folder` and its output to `logs/`. Raises only `StorageError`."""
    setting = setting or Setting()
    began = iso(clock.now())
    given = _asked_for(command, setting.environment).values()
    redact = Redactor((*setting.secrets, *(value for value in given if len(value) >= MIN_SECRET_CHARS)))
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


def missing(command: Command, setting: Setting | None = None) -> str:
    """What a command lacks to be run; empty if it can be run."""
    setting = setting or Setting()
    try:
        _argv(command, _folder(command, setting.environment), Path(), setting)
        _environment(command, setting)
    except NotRunError as error:
        return str(error)
    return ""


def _run(command: Command, folder: Path, setting: Setting, redact: Redactor, plain: CommandDone) -> CommandDone:
    cwd = _folder(command, setting.environment)
    argv = _argv(command, cwd, folder / records.LOGS / command.name, setting)
    output = Output(redact, _MAX_OUTPUT_BYTES, keeps_end=True)
    limit_s, environment = command.timeout_s, _environment(command, setting)
    began, started = time.monotonic(), time.time()
    code, why = asyncio.run(operator_command.run(argv, environment, limit_s, output, cwd=cwd, ends_all=True))
    took_s = time.monotonic() - began
    if why.startswith(NOT_STARTED):
        raise NotRunError(f"it {why}")
    log = f"{records.LOGS}/{command.name}.txt"
    said = output.content
    try:
        (folder / records.LOGS).mkdir(parents=True, exist_ok=True)
        (folder / log).write_bytes(said)
    except OSError as error:
        raise cannot_write(folder / log, error) from None
    steps, trouble = _steps(command, cwd, started)
    counts = _counts(command, cwd, said.decode("utf-8", "replace"), started, steps)
    if not command.runner:
        trouble = trouble or answers.trouble(said, answers.expected(command.argv, command.answer))
    state, reason = _judged(code, why or trouble, counts, command)
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
        tests=sum(count.tests for _, count in counts) if command.runner else None,
    )


def _new(cwd: Path, pattern: str, started: float) -> list[Path]:
    """The files of a pattern that the command wrote."""
    found = (path for path in sorted(cwd.glob(pattern)) if path.is_file())
    return [path for path in found if path.stat().st_mtime >= started - _FILE_TIME_S]


def _steps(command: Command, cwd: Path, started: float) -> tuple[list[Step], str]:
    """The steps in the results files that the command wrote, and why they are no pass; empty without a reason."""
    found: list[Step] = []
    for pattern in command.results:
        new = _new(cwd, pattern, started)
        if not new:
            return [], f"no file {pattern} was written, so nothing shows what it ran"
        for path in new:
            try:
                found += script_results.read(path, cwd)
            except UnreadableError as error:
                return [], str(error)
    return found, f"by its own results: {', '.join(wrong)}" if (wrong := list(script_results.not_passed(found))) else ""


def _counts(command: Command, cwd: Path, said: str, started: float, steps: Sequence[Step]) -> list[tuple[str, Count]]:
    """Where each call of the test runner is read from, and its count; empty without a runner."""
    if not command.runner:
        return []
    if command.results:
        return [found for step in steps for found in _counts_of(step, command.runner)]
    if not command.logs:
        found = runner_summaries.calls(command.runner, said)
        return [(f"call {n} of {len(found)}" if len(found) > 1 else "it", count) for n, count in enumerate(found, 1)]
    counts = []
    for pattern in command.logs:
        new = _new(cwd, pattern, started)
        if not new:
            counts.append((f"no file {pattern} was written, so it", Count(0, 0)))
        for path in new:
            text = bounded_reads.file_end(path, _MAX_OUTPUT_BYTES).decode("utf-8", "replace")
            counts += [(str(path.relative_to(cwd)), count) for count in runner_summaries.calls(command.runner, text)]
    return counts


def _counts_of(step: Step, runner: str) -> list[tuple[str, Count]]:
    """The calls of the runner in the log of one step of a script."""
    if step.log is None or not step.log.is_file():
        return [(f"{step.name} has no log file, so it", Count(0, 0))]
    text = bounded_reads.file_end(step.log, _MAX_OUTPUT_BYTES).decode("utf-8", "replace")
    found = runner_summaries.calls(runner, text)
    return [
        (f"{step.name}, call {n} of {len(found)}" if len(found) > 1 else step.name, count) for n, count in enumerate(found, 1)
    ]


def _judged(code: int | None, why: str, counts: Sequence[tuple[str, Count]], command: Command) -> tuple[Outcome, str]:
    if code == _NOT_FOUND:
        return "not_run", "a program that it needs is missing (exit code 127)"
    if command.is_ours and code == ExitCode.INCONCLUSIVE:
        return "not_run", f"it could not tell (exit code {code}); its output says why"
    if why:
        return "fail", why
    tests = sum(count.tests for _, count in counts)
    by = f"ended with exit code 0, but by {command.runner}'s own summary"
    if empty := [where for where, count in counts if not count.tests]:
        return "fail", f"{by} {', '.join(empty)} ran no test"
    if failed := sum(count.failed for _, count in counts):
        return "fail", f"{by} {failed} of {tests} tests failed"
    if not counts:
        return "pass", "ended with exit code 0"
    return "pass", f"{tests} {'test' if tests == 1 else 'tests'} ran" + (f" in {len(counts)} calls" if len(counts) > 1 else "")


def _folder(command: Command, environment: Mapping[str, str]) -> Path:
    if command.cwd_env is None:
        folder = Path(command.cwd or ".")
    elif not (root := environment.get(command.cwd_env, "")):
        raise NotRunError(f"the environment variable {command.cwd_env}, which names the folder to run it in, is not set")
    else:
        folder = Path(root) / command.cwd
    if not folder.is_dir():
        raise NotRunError(f"its folder {folder} does not exist")
    return folder.resolve()


def _argv(command: Command, cwd: Path, logs: Path, setting: Setting) -> list[str]:
    """The command with its placeholders filled in. Raises `NotRunError` for a missing program."""
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


def _asked_for(command: Command, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the command names."""
    return {name: environment[name] for name in command.environment if environment.get(name)}


def plain_environment(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that every program needs; no secrets."""
    return {name: own[name] for name in _ENVIRONMENT if name in own}


def _environment(command: Command, setting: Setting) -> dict[str, str]:
    own = setting.environment
    small = plain_environment(own)
    if command.is_ours:  # stormgate's own commands may need any variable that the targets file names
        small = dict(own)
    if missing := [name for name in command.environment if not own.get(name)]:
        raise NotRunError(f"the environment variable {missing[0]}, which it needs, is not set")
    return {**small, **_asked_for(command, own), "TERM": "dumb", "CARGO_TERM_COLOR": "never", "NO_COLOR": "1"}


def hook_environment(endpoints: Endpoints, **about: str) -> dict[str, str]:
    """The environment of an operator's hook: our own plus STORMGATE_TARGET, ..._RUNTIME_URL, ..._CONTROL_URL and `about`."""
    of_target = {"TARGET": endpoints.name, "RUNTIME_URL": endpoints.runtime_url, "CONTROL_URL": endpoints.control_url}
    return {**os.environ, **{f"STORMGATE_{name}": value for name, value in {**of_target, **about}.items()}}


def precondition(commands: Iterable[Command], done: Mapping[str, CommandDone], name: str) -> tuple[Outcome, str]:
    """State and reason of a precondition, from the operators' commands for it."""
    asked = [done[command.name] for command in commands if command.precondition == name and command.name in done]
    graver: tuple[Outcome, ...] = ("fail", "error", "not_run")
    for state in graver:
        for each in asked:
            if each.state == state:
                return state, f"{each.name}: {each.reason}"
    return ("pass", "; ".join(f"{each.name}: {each.reason}" for each in asked)) if asked else ("not_run", "no command asks it")
