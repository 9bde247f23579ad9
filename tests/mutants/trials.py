"""Tries mutants one after the other in a copy of the tree: each in a process that runs the fast tests of its module.

The processes are forked from one that has imported pytest and the big libraries, as this import takes longer than most tests.
"""

import compileall
import importlib
import os
import resource
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, Literal

from tests.mutants.operators import Mutant

TESTS = "tests/mutants/tests.toml"  # the fast tests of each module or package
EQUIVALENT = "tests/mutants/equivalent.toml"
_ELSEWHERE = ("node_modules", "__pycache__", "results", "build")  # not copied; neither is what starts with a dot
_PASSED, _FAILED, _NO_TESTS = 0, 1, 5  # pytest's exit codes; 2 to 4 are broken imports and the like
# A mutant may loop for ever: it gets this many times the CPU time of the unchanged tests, and so many seconds more.
_CPU_TIMES, _CPU_MORE_S = 3, 20
_WAIT_S = 600.0  # of wall clock, for a mutant that waits for ever; other load may slow the tests down a lot
_MEMORY = 4 << 30  # bytes

Outcome = Literal["killed", "survived", "equivalent"]


@dataclass(frozen=True)
class Trial:
    """What came of a mutant, and the last lines that pytest printed."""

    mutant: Mutant
    outcome: Outcome
    why: str = ""


def killers(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / TESTS).read_text())


def killers_of(root: Path, module: str) -> list[str]:
    """The tests that may kill a mutant of `module`: first its own, then those of the packages around it."""
    around = [module, *(parent.as_posix() for parent in Path(module).parents)]
    table = killers(root)
    return list(dict.fromkeys(path for key in around for path in table["tests"].get(key, [])))


def equivalents(root: Path) -> dict[tuple[str, str, str], str]:
    """The reasons why some mutants change nothing that anybody can see: by module, line and changed line."""
    path = root / EQUIVALENT
    rows = tomllib.loads(path.read_text()).get("mutant", []) if path.exists() else []
    return {(row["module"], row["was"], row["becomes"]): row["reason"] for row in rows}


class Copy:
    """A copy of the tree at `root`, in which mutants are tried."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.tree = folder / "tree"
        self._log = folder / "log.txt"
        self._cpu_s = 0.0
        self._reasons = equivalents(root)
        shutil.copytree(root, self.tree, ignore=shutil.ignore_patterns(*_ELSEWHERE, ".*"), symlinks=True)
        for library in ("pytest", *killers(root)["libraries"]):
            importlib.import_module(library)

    def unchanged(self, modules: Sequence[str]) -> str:
        """Run the tests of all these modules without a mutant. Returns what pytest printed if they fail, else nothing."""
        compileall.compile_dir(self.tree, quiet=2)
        tests = list(dict.fromkeys(path for module in modules for path in killers_of(self.root, module)))
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self._run(tests, writes_bytecode=True) if tests else _NO_TESTS
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._cpu_s = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
        return "" if code == _PASSED else self._log.read_text(errors="replace") if tests else f"{TESTS} has no tests of them"

    def tried(self, mutant: Mutant) -> Trial:
        """Apply a mutant, run the tests of its module, and restore the module."""
        if reason := self._reasons.get((mutant.module, mutant.was, mutant.becomes)):
            return Trial(mutant, "equivalent", reason)
        path = self.tree / mutant.module
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
        path.write_text(mutant.code)
        try:
            code = self._run(killers_of(self.root, mutant.module))
        finally:
            path.write_text(mutant.source)
        if code == _NO_TESTS:
            raise RuntimeError(f"pytest ran no test of {mutant.module}")
        return Trial(mutant, "survived" if code == _PASSED else "killed", self._killer(code))

    def _killer(self, code: int) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return (
            named[0].partition(" - ")[0].split(" ", 1)[1]
            if named
            else ""
            if code == _PASSED
            else "the process ended or took too long"
        )

    def _run(self, tests: Sequence[str], writes_bytecode: bool = False) -> int:
        """Pytest's exit code; that of a process that was ended is negative."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._child(tests, writes_bytecode)
        try:
            return _waited(child, time.monotonic() + _WAIT_S)
        finally:
            with suppress(ProcessLookupError, ChildProcessError):
                os.killpg(child, signal.SIGKILL)  # with all that the tests started
                os.waitpid(child, 0)

    def _child(self, tests: Sequence[str], writes_bytecode: bool) -> None:
        code = 2
        try:
            os.setsid()
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _enter(self.tree, writes_bytecode)
            resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
            if self._cpu_s:
                seconds = round(_CPU_TIMES * self._cpu_s + _CPU_MORE_S)
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            main: Callable[[list[str]], int] = importlib.import_module("pytest").main
            code = int(main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", *tests]))
        finally:
            os._exit(code)


def _enter(tree: Path, writes_bytecode: bool) -> None:
    """Let this process import the project from `tree`, as if it had been started there."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.dont_write_bytecode = not writes_bytecode
    libraries = [path for path in sys.path if "site-packages" in path or Path(path).is_relative_to(sys.base_prefix)]
    sys.path[:] = [str(tree), *libraries]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "sim", "drills", "locustfiles")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _waited(child: int, until: float) -> int:
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
