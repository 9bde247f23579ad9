"""Tries mutants in one pytest session that has imported and collected all tests once: each in a process forked from it.

There, the functions that the mutant changes get its code, and only the tests that call one of them run, the shortest first.
What this cannot try is left to `trials`: changes outside functions, and of functions that no test calls or that were called
before the fork. Tests that take long do not count as fast, and are not run.
"""

import gc
import math
import pickle
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from cProfile import Profile
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, BinaryIO

import pytest

from tests.mutants.forked import ENDED, answered, limit_cpu
from tests.mutants.operators import Mutant

Key = tuple[str, str, int]  # of a function: its file, its qualified name, its first line

FAST_S = 1.0  # [ours] of CPU time; a test that takes longer is not fast
_OF_FUNCTIONS = 0x1  # CO_OPTIMIZED; the code of modules and classes is without it


def changed_functions(mutant: Mutant, path: Path) -> list[tuple[CodeType, CodeType]] | None:
    """The functions that a mutant changes, as they were and as they become; None if it changes something else, too."""
    return _changes(compile(mutant.source, str(path), "exec"), compile(mutant.code, str(path), "exec"))


def _changes(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    inner = [[code for code in each.co_consts if isinstance(code, CodeType)] for each in (old, new)]
    is_same = _own(old) == _own(new)
    if not is_same and not old.co_flags & _OF_FUNCTIONS:
        return None
    found = [] if is_same else [(old, new)]
    if len(inner[0]) != len(inner[1]):
        return found
    for before, after in zip(*inner, strict=True):
        if (more := _changes(before, after)) is None:
            return None
        found += more
    return found + ([(old, new)] if found and is_same and old.co_flags & _OF_FUNCTIONS else [])


def _own(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without the functions in it and without line numbers."""
    constants = tuple(repr(value) for value in code.co_consts if not isinstance(value, CodeType))
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
    return (code.co_code, constants, names, counts, code.co_exceptiontable)


def _key(code: CodeType) -> Key:
    return (code.co_filename, code.co_qualname, code.co_firstlineno)


def _replace(functions: Sequence[FunctionType], changes: Sequence[tuple[CodeType, CodeType]]) -> bool:
    """Give every function its changed code. Returns whether there was one."""
    wanted = {(_key(old), _own(old)): new for old, new in changes}
    replaced = False
    for function in functions:
        code = function.__code__
        if new := wanted.get((_key(code), _own(code))):
            if len(new.co_freevars) != len(code.co_freevars):
                return False  # Python allows no other number of variables of outer functions
            function.__code__ = new
            replaced = True
    return replaced


def fast(items: Iterable[pytest.Item], seconds: Mapping[str, float], paths: Iterable[str]) -> list[pytest.Item]:
    """The fast tests at `paths`, the shortest first, by the CPU seconds of each in an unchanged run."""
    own = tuple(paths)
    found = [item for item in items if item.nodeid.startswith(own) and seconds.get(item.nodeid, math.inf) <= FAST_S]
    return sorted(found, key=lambda item: seconds[item.nodeid])


class Collected:
    """A plugin of pytest that, instead of running the tests, tries the mutants, and sends what came of each.

    It sends what an unchanged run of all tests says: the test that failed, and the CPU seconds of each. Then it sends for each
    mutant the test that killed it, "" if none did, or None if it could not be tried.
    """

    def __init__(self, tree: Path, mutants: Sequence[Mutant], tests: dict[str, list[str]], answers: BinaryIO) -> None:
        """Try `mutants` of modules below `tree` with the tests of each module, and send to `answers`."""
        self._tree, self._mutants, self._tests, self._answers = tree, mutants, tests, answers
        self._failed = ""
        self._calls: dict[str, tuple[float, set[Key]]] = {}  # of each test: CPU seconds, and the functions that it calls
        self._called_before: set[Key] = set()
        self._functions: dict[str, list[FunctionType]] = {str(tree / mutant.module): [] for mutant in mutants}  # by file

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        with self._watched(self._called_before):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename in self._functions:
                self._functions[each.__code__.co_filename].append(each)
        gc.freeze()  # garbage collections after a fork would copy the memory of this process
        failed, self._calls = ("collection", {}) if session.testsfailed else self._unchanged(session)
        self._send((failed, {name: seconds for name, (seconds, _) in self._calls.items()}))
        for mutant in [] if failed else self._mutants:
            self._send(self._tried(session, mutant))
        self._answers.close()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def _send(self, answer: Any) -> None:
        pickle.dump(answer, self._answers)
        self._answers.flush()

    def _unchanged(self, session: pytest.Session) -> tuple[str, dict[str, tuple[float, set[Key]]]]:
        calls: dict[str, tuple[float, set[Key]]] = {}

        def run() -> Any:
            for item in session.items:
                called: set[Key] = set()
                started = time.process_time()
                with self._watched(called):
                    self._run(session, [item])
                calls[item.nodeid] = (time.process_time() - started, called)
            return self._failed, calls

        return (ENDED, {}) if (answer := answered(run)) == ENDED else answer

    def _tried(self, session: pytest.Session, mutant: Mutant) -> str | None:
        path = self._tree / mutant.module
        changes = changed_functions(mutant, path)
        keys = {_key(old) for old, _ in changes or ()}
        seconds = {name: seconds for name, (seconds, called) in self._calls.items() if called & keys}
        items = [] if keys & self._called_before else fast(session.items, seconds, self._tests[mutant.module])

        def run() -> str | None:
            return self._run(session, items) if _replace(self._functions[str(path)], changes or ()) else None

        return answered(run) if items else None

    def _run(self, session: pytest.Session, items: Sequence[pytest.Item]) -> str:
        """Run tests until one fails, and return it."""
        for item, after in zip(items, [*items[1:], None], strict=True):
            if item.nodeid in self._calls:
                limit_cpu(self._calls[item.nodeid][0])
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self._failed:
                break
        limit_cpu(None)
        return self._failed

    @contextmanager
    def _watched(self, called: set[Key]) -> Iterator[None]:
        """Add the functions that are called meanwhile."""
        with Profile(subcalls=False, builtins=False) as profile:  # a tracer in Python would take longer than the tests
            yield
        codes = (entry.code for entry in profile.getstats())
        called |= {_key(code) for code in codes if isinstance(code, CodeType) and code.co_filename in self._functions}
