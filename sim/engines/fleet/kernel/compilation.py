"""Compiling with Numba; what was compiled is kept for the next run where that is possible, and never a reason for one to fail.

It is kept in a folder of its own for each state of the compiled modules' source, in the user's cache folder, or where
`NUMBA_CACHE_DIR` says. In an installation without a home, or on a full disk, each process compiles again.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def inner(function: F) -> F:
    """A function that only compiled code calls: it is compiled, and kept, as a part of its callers."""
    options: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # nobody else calls it
    return cast(F, njit(error_model="numpy", **options)(function))  # divides as NumPy does; all else is as exact as Python


def compiled(function: F) -> F:
    """A compiled function for Python to call."""
    return cast(F, _Compiled(function))


class _Compiled:
    """Calls the compiled function; when its code cannot be kept, or read back, it is compiled for this process alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._call: Callable[..., Any] | None = None
        self._has_worked = False

    def __call__(self, *arguments: object) -> object:
        call = self._call = self._call or self._keeping()
        try:
            answer = call(*arguments)
        except Exception:  # whatever a damaged file or a full disk makes of it
            if self._has_worked:
                raise
            if not getattr(call, "signatures", ()):  # it was not even compiled
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
        except (OSError, RuntimeError):  # there is no folder that can be written, and none beside the source is wanted
            return njit(error_model="numpy")(self._function)


def _folder() -> Path:
    """One for each state of the source: Numba asks a function's own file when it changed, but not those of its helpers."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    named, cache = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    base = Path(named) if named else Path(cache or Path("~/.cache").expanduser()) / "stormgate"
    return base / f"fleet-{digest.hexdigest()[:16]}"
