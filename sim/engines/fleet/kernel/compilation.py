"""Compilation with Numba. Compiled code is cached for the next run if possible; a failing cache never makes a run fail.

Each state of the modules' source has its own folder, in the user's cache folder or in `NUMBA_CACHE_DIR`. In an installation
without a home, or on a full disk, each process compiles again.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit

from sim.base import bounded_reads

F = TypeVar("F", bound=Callable[..., Any])


def inner(function: F) -> F:
    """Compile a function that only compiled code calls; it is compiled and cached as a part of its callers."""
    options: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls it
    return cast(F, njit(error_model="numpy", **options)(function))  # divides as NumPy does; otherwise as exact as Python


def compiled(function: F) -> F:
    """Compile a function that Python calls."""
    return cast(F, _Compiled(function))


class _Compiled:
    """A compiled function. If its code cannot be cached or read from the cache, it is compiled for this process alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._call: Callable[..., Any] | None = None
        self._has_worked = False

    def __call__(self, *arguments: object) -> object:
        call = self._call = self._call or self._keeping()
        try:
            answer = call(*arguments)
        except Exception:  # any error that a damaged file or a full disk can cause
            if self._has_worked:
                raise
            if not getattr(call, "signatures", ()):  # it was not compiled
                call = self._call = njit(error_model="numpy")(self._function)
            answer = call(*arguments)
        self._has_worked = True
        return answer

    def _keeping(self) -> Callable[..., Any]:
        folder = _folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
            return njit(cache=True, error_model="numpy")(self._function)
        except (OSError, RuntimeError):  # no writable folder; do not use one beside the source
            return njit(error_model="numpy")(self._function)


def _folder() -> Path:
    """Return the folder for this state of the source: Numba checks a function's own file for changes, but not its callees'."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(bounded_reads.file_bytes(path))
    named, cache = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    base = Path(named) if named else Path(cache or Path("~/.cache").expanduser()) / "stormgate"
    return base / f"fleet-{digest.hexdigest()[:16]}"
