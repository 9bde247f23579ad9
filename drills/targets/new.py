"""Add targets to a targets file: annotated ones, made from the shipped example, and servers that were started here."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from drills import DATA
from drills.runs import targets
from sim.base import bounded_reads
from sim.base.atomic_files import write_whole
from sim.base.config import read_toml
from sim.base.errors import UsageError
from sim.protocols import registry

_EXAMPLE, _NAME, _NEXT = DATA / "targets.example.toml", "staging", "[targets.production]"


def text(name: str, protocol: str) -> str:
    """Return the annotated table of a target. Raises `UsageError` for an unknown protocol or an impossible name."""
    targets.check_name(name)
    protocol = registry.get(protocol).name
    example = bounded_reads.file_text(_EXAMPLE).partition(_NEXT)[0].rstrip() + "\n"
    example = re.sub(rf"\btargets\.{_NAME}\b", f"targets.{name}", example)
    example = example.replace(f"check {_NAME}", f"check {name}").replace(f"--target {_NAME}", f"--target {name}")
    return example.replace(f'protocol = "{registry.DEFAULT}"', f'protocol = "{protocol}"', 1)


def write(path: Path, name: str, protocol: str) -> None:
    """Add a new target to a targets file, which is created if it is missing. Raises `UsageError` for a name that it has."""
    made = text(name, protocol)
    add(path, name, made if not path.exists() else made[made.index(f"[targets.{name}]") :])


def add(path: Path, name: str, table: str) -> None:
    """Add the table of a target to a targets file. Raises `UsageError` for a name that it has."""
    if name == targets.EMBEDDED:
        raise UsageError(f"'{name}' is the name of the embedded mock; give the target another one.")
    before = f"{bounded_reads.file_text(path).rstrip()}\n\n" if path.exists() else ""
    if before and name in read_toml(path).get("targets", {}):
        raise UsageError(f"{path}: there is a target '{name}' already; remove it, or give the new one another name.")
    write_whole(path, (before + table).encode())


@contextlib.contextmanager
def while_it_runs(path: Path, name: str, table: str) -> Iterator[None]:
    """Add the table of a started server to a targets file, and remove it at the end. Raises `UsageError` as `add` does."""
    add(path, name, table)
    try:
        yield
    finally:
        if path.exists():
            left = bounded_reads.file_text(path).replace(table, "").strip()
            if left:
                write_whole(path, f"{left}\n".encode())
            else:
                path.unlink()
