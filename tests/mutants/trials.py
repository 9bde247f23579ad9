"""Tries mutants in a copy of the tree, with the fast tests of their modules.

Most are tried in one session of pytest that has collected these tests once (`collected`). What that cannot try is tried in an
interpreter that imports the mutant: forked from one that has imported the big libraries.
"""

import compileall
import importlib
import os
import pickle
import shutil
import signal
import sys
import tomllib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pytest

from tests.mutants.collected import Collected, fast
from tests.mutants.forked import ENDED, forked, limit_cpu, start
from tests.mutants.operators import Mutant

TESTS = "tests/mutants/tests.toml"  # the fast tests of each module or package
EQUIVALENT = "tests/mutants/equivalent.toml"
_ELSEWHERE = ("node_modules", "__pycache__", "results", "build")  # not copied; neither is what starts with a dot
_PASSED, _FAILED, _NO_TESTS = 0, 1, 5  # pytest's exit codes; 2 to 4 are broken imports and the like

Outcome = Literal["killed", "survived", "equivalent"]


class UnchangedFailedError(Exception):
    """The tests fail without a mutant, too; with what pytest printed."""


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
        self._folder = folder
        self._log = folder / "log.txt"
        self._seconds: dict[str, float] = {}  # CPU time of each test
        shutil.copytree(root, self.tree, ignore=shutil.ignore_patterns(*_ELSEWHERE, ".*"), symlinks=True)
        for library in killers(root)["libraries"]:
            importlib.import_module(library)

    def quick(self, mutants: Sequence[Mutant]) -> Generator[Trial | None]:
        """Try mutants in one session of pytest; None for each that it cannot try. Raises `UnchangedFailedError`."""
        compileall.compile_dir(self.tree, quiet=2)
        tests = {mutant.module: killers_of(self.tree, mutant.module) for mutant in mutants}
        if missing := [module for module, paths in tests.items() if not paths]:
            raise UnchangedFailedError(f"{TESTS} has no tests of {', '.join(missing)}")
        reader, writer = os.pipe()
        child = start(lambda: self._session(mutants, tests, os.fdopen(writer, "wb")))
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            try:
                failed, self._seconds = _next(answers) or (ENDED, {})
                if failed:
                    raise UnchangedFailedError(f"{failed}\n{self._log.read_text(errors='replace')}")
                for mutant in mutants:
                    killer = _next(answers)
                    yield None if killer is None else Trial(mutant, "killed" if killer else "survived", killer)
            finally:
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)

    def tried(self, mutant: Mutant) -> Trial:
        """Run the tests of a mutant's module in an interpreter that imports the mutant, and restore the module."""
        path = self.tree / mutant.module
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
        path.write_text(mutant.code)
        try:
            code = forked(lambda: self._fresh(killers_of(self.tree, mutant.module)))
        finally:
            path.write_text(mutant.source)
        if code == _NO_TESTS:
            raise RuntimeError(f"pytest ran no test of {mutant.module}")
        return Trial(mutant, "survived" if code == _PASSED else "killed", self._killer(code))

    def _killer(self, code: int) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return named[0].partition(" - ")[0].split(" ", 1)[1] if named else "" if code == _PASSED else ENDED

    def _session(self, mutants: Sequence[Mutant], tests: dict[str, list[str]], answers: BinaryIO) -> int:
        self._enter(writes_bytecode=True)
        return self._pytest(dict.fromkeys(chain(*tests.values())), [Collected(self.tree, mutants, tests, answers)])

    def _fresh(self, tests: Sequence[str]) -> int:
        self._enter(writes_bytecode=False)
        limit_cpu(sum(self._seconds.values()))
        return self._pytest(dict.fromkeys(test.partition("::")[0] for test in tests), [Fast(self._seconds, tests)])

    def _pytest(self, tests: Iterable[str], plugins: Sequence[object] = ()) -> int:
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", f"--basetemp={self._folder / 'tmp'}"]
        return int(pytest.main([*options, *tests], plugins))

    def _enter(self, writes_bytecode: bool) -> None:
        """Let this process import the project from the copy, as if it had been started there."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.tree)
        os.environ["PYTHONPATH"] = str(self.tree)
        sys.dont_write_bytecode = not writes_bytecode
        libraries = [path for path in sys.path if "site-packages" in path or Path(path).is_relative_to(sys.base_prefix)]
        sys.path[:] = [str(self.tree), *libraries]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "sim", "drills", "locustfiles")]:
            del sys.modules[name]
        importlib.invalidate_caches()


class Fast:
    """A plugin of pytest that runs the fast tests only, the shortest first."""

    def __init__(self, seconds: dict[str, float], tests: Sequence[str]) -> None:
        self._seconds, self._tests = seconds, tests

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = fast(items, self._seconds, self._tests)


def _next(answers: BinaryIO) -> Any:
    """What the session sent next, or None if it ended."""
    try:
        return pickle.load(answers)
    except EOFError:
        return None
