"""Read the results files of operators' scripts: JSON lines with a name, `status` and `log_file`.

A script may exit with 0 although a step was skipped, or although a test command in it ran no test. So each step must say
`passed`, and the tests in its own log file are counted.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sim.base import bounded_reads

_NAMES = ("scenario", "gate", "cohort_percent", "label")
_MAX_BYTES = 4 * 1024 * 1024
PASSED = "passed"


class Step(NamedTuple):
    """One step of a script."""

    name: str
    status: str  # passed, failed, skipped, ...
    log: Path | None  # its output


class UnreadableError(Exception):
    """A results file is not what a script writes; the text says why."""


def read(path: Path, folder: Path) -> list[Step]:
    """The steps of a results file. `folder`: where the script ran. Raises `UnreadableError`, also without any step."""
    try:
        content = bounded_reads.file_bytes(path)
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read ({error.strerror})") from None
    if len(content) > _MAX_BYTES:
        raise UnreadableError(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB")
    steps = [_step(line, number, path, folder) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not steps:
        raise UnreadableError(f"{path.name} has no step")
    return steps


def _step(line: bytes, number: int, path: Path, folder: Path) -> Step:
    found: Any = None
    with contextlib.suppress(msgspec.DecodeError):
        found = msgspec.json.decode(line)
    if not isinstance(found, dict) or not isinstance(found.get("status"), str):
        raise UnreadableError(f"line {number} of {path.name} is not an object with a status")
    name = next((str(found[key]) for key in _NAMES if key in found), f"line {number}")
    log = found.get("log_file")
    return Step(name, found["status"], folder / log if isinstance(log, str) and log else None)


def not_passed(steps: list[Step]) -> Iterator[str]:
    """The steps that did not pass, in words."""
    yield from (f"{step.name} {step.status}" for step in steps if step.status != PASSED)
