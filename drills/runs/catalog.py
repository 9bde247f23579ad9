"""Find drills: those of the catalogue and the examples by name, any other by its file."""

from pathlib import Path

from drills import BY_NAME, CATALOG, EXAMPLES
from sim.base.errors import UsageError


def catalogue() -> dict[str, Path]:
    """The drills that this version ships, by name."""
    return _in(CATALOG)


def examples() -> dict[str, Path]:
    """The example drills, by name; `--all` leaves them out."""
    return _in(EXAMPLES)


def only_by_name() -> dict[str, Path]:
    """The drills that delete what a service stores, by name; `--all` and stage 0 leave them out."""
    return _in(BY_NAME)


def by_name() -> dict[str, Path]:
    """All drills that have a name: the catalogue, then those that run by name only, then the examples."""
    return catalogue() | only_by_name() | examples()


def path_of(name: str, beside: Path = Path()) -> Path:
    """The file of a drill; a `.toml` file is relative to `beside`. Raises `UsageError` for an unknown name."""
    if name.endswith(".toml"):
        return beside / name
    known = by_name()
    if name not in known:
        raise UsageError(f"there is no drill '{name}'; there are: {', '.join(known)}, or give a .toml file.")
    return known[name]


def _in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
