"""What is known of a server that is started here: how to configure, start and describe it, and how it can be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "stormgate-server-"  # of the temporary folders of servers
Parameters = Mapping[str, str]  # of a fault, as a hook gets them, with names in lower case
NO_PARAMETERS: Parameters = {}
Report = Mapping[str, object]  # what an action did, for a hook that reports it
SANE = "sane"  # the variant in which the server is set up well


@dataclass(frozen=True)
class Variant:
    """A wrong configuration, or a known weakness. It differs from the sane configuration in one setting."""

    says: str  # the setting and what follows from it, in words
    settings: Mapping[str, object]  # replace the recipe's settings of these names


@dataclass(frozen=True)
class Place:
    """Where one server runs. `folder` is its own: configuration and data. `ports` stay the same over restarts."""

    folder: Path
    ports: tuple[int, ...]
    settings: Mapping[str, object]  # of the chosen variant
    control: tuple[str, ...]  # a command line; with an action as its last argument, it acts on this server

    def hook(self, inject: str, revert: str = "") -> str:
        """Return the keys of a hook's table: the actions that inject and revert a fault."""
        lines = [f"inject = {_array([*self.control, inject])}"]
        if revert:
            lines.append(f"revert = {_array([*self.control, revert])}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Recipe:
    """A third-party server.

    `settings` has every setting that a variant may change, with its sane value. What they mean is the recipe's own matter: a
    key of the server's configuration, an option of its program, or a key of the target's description.
    `prepare` makes ready what clients need, such as streams, after every start; `actions` are what hooks may ask for besides
    `kill`, `start` and `restart`.
    """

    name: str
    title: str
    version: str
    says: str  # how its clients resume, in one sentence
    settings: Mapping[str, object]
    variants: Mapping[str, Variant]
    command: Callable[[Place], list[str]]  # writes the configuration into the folder; returns program and arguments
    ready_url: Callable[[Place], str]
    target: Callable[[Place], str]  # the target's table in TOML; begins with [targets.NAME]
    program: str = ""  # what must be installed: nats-server, centrifugo or node; empty: nothing
    ready_statuses: tuple[int, ...] = (200,)
    ports: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)  # for the drill's process: keys that are no secrets here
    prepare: Callable[[Place], None] = lambda place: None
    clean_up: Callable[[Place], None] = lambda place: None  # removes what is not in the folder
    actions: Mapping[str, Callable[[Place, Parameters], Report | None]] = field(default_factory=dict)

    def settings_of(self, variant: str) -> Mapping[str, object]:
        """Return all settings of a variant."""
        return self.settings if variant == SANE else {**self.settings, **self.variants[variant].settings}


def _array(words: list[str]) -> str:
    """Return a TOML array of strings."""
    return "[" + ", ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words) + "]"
