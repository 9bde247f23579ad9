"""A new, annotated description of a target, made from the example that is shipped."""

import re
from pathlib import Path

from drills import DATA
from drills.runs import targets
from sim.base.atomic_files import write_whole
from sim.base.config import read_toml
from sim.base.errors import UsageError
from sim.protocols import registry

_EXAMPLE, _NAME, _NEXT = DATA / "targets.example.toml", "staging", "[targets.production]"


def text(name: str, protocol: str) -> str:
    """Return the annotated table of a target. Raises `UsageError` for an unknown protocol or an impossible name."""
    targets.check_name(name)
    protocol = registry.get(protocol).name
    example = _EXAMPLE.read_text().partition(_NEXT)[0].rstrip() + "\n"
    example = re.sub(rf"\btargets\.{_NAME}\b", f"targets.{name}", example)
    example = example.replace(f"check {_NAME}", f"check {name}").replace(f"--target {_NAME}", f"--target {name}")
    return example.replace(f'protocol = "{registry.DEFAULT}"', f'protocol = "{protocol}"', 1)


def write(path: Path, name: str, protocol: str) -> None:
    """Add a new target to a targets file, which is created if it is missing. Raises `UsageError` for a name that it has."""
    made = text(name, protocol)
    if not path.exists():
        write_whole(path, made.encode())
        return
    if name in read_toml(path).get("targets", {}):
        raise UsageError(f"{path}: there is a target '{name}' already; give the new one another name.")
    table = made[made.index(f"[targets.{name}]") :]
    write_whole(path, f"{path.read_text().rstrip()}\n\n{table}".encode())
