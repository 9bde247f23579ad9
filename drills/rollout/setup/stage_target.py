"""The target of a stage: its addresses, its entry in the targets file, and a hash of its configuration."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from drills.runs import targets
from sim.base.errors import UsageError
from sim.engines.shared.endpoints import EMBEDDED_MOCK, Endpoints
from sim.engines.shared.metrics_book import is_asked
from sim.mock.process import BlockingMockProcess
from sim.mock.server import ServeOptions, admin_token
from sim.server.settings import RuntimeSettings, Switches


@dataclass(frozen=True)
class StageTarget:
    """One target. `given` is the value of `--target`, or the address of an embedded mock; `entry` is None for a mock."""

    given: str
    file: Path | None
    endpoints: Endpoints
    entry: targets.Target | None

    @property
    def is_embedded(self) -> bool:
        """Whether this process started the mock."""
        return self.endpoints.name == EMBEDDED_MOCK

    @property
    def has_metrics(self) -> bool:
        """Whether the target has a metrics endpoint to sample."""
        return is_asked(self.endpoints)

    def configuration(self) -> str:
        """Hex SHA-256 of the target's configuration, without secrets."""
        return _digest(self.endpoints, self.entry, self.is_embedded)

    def configuration_now(self) -> str:
        """The same for the current targets file; a sentence with the problem if the file cannot be read."""
        if self.entry is None:
            return self.configuration()
        try:
            now = _named(self.given, self.file, os.environ)
            return _digest(now.endpoints, now.entry, False)
        except UsageError as error:
            return str(error)


@contextlib.contextmanager
def open_target(given: str, file: Path | None, log: Path) -> Iterator[StageTarget]:
    """Yield the target that `--target` names; an embedded mock runs until the end of the block and logs to `log`.

    Raises `UsageError` and `TargetError`.
    """
    if given != targets.EMBEDDED:
        yield resolve(given, file)
        return
    mock = BlockingMockProcess(ServeOptions(RuntimeSettings(), Switches()), log)
    try:
        yield StageTarget(mock.url, None, Endpoints.of_embedded_mock(mock.url, admin_token()), None)
    finally:
        mock.stop()


def resolve(given: str, file: Path | None, environment: Mapping[str, str] = os.environ) -> StageTarget:
    """Look up a target that is not the embedded mock; `environment` has its secrets. Raises `UsageError`."""
    if "://" not in given:
        return _named(given, file, environment)
    endpoints = targets.resolve(given, file)
    assert endpoints is not None
    return StageTarget(given, file, endpoints, None)


def control_of(name: str, target: StageTarget, environment: Mapping[str, str] = os.environ) -> StageTarget | None:
    """The control that a stage compares its canary with; None if the stage has no control.

    Raises `UsageError` for a control that cannot be compared: another kind, other caps, or the target's own address.
    """
    if not name:
        return None
    found = _named(name, target.file, environment)
    own, other = target.endpoints, found.endpoints
    for what, mine, theirs in (("is of kind", own.kind, other.kind), ("has caps", own.rules.caps, other.rules.caps)):
        if mine != theirs:
            raise UsageError(f"the control '{name}' {what} {theirs}, but the target '{own.name}' {mine}; give both the same.")
    if other.runtime_url == own.runtime_url:
        raise UsageError(
            f"control '{name}' has the address of target '{own.name}', {other.runtime_url}; expected the address of the "
            "previous revisions."
        )
    return found


def _named(name: str, file: Path | None, environment: Mapping[str, str]) -> StageTarget:
    endpoints = targets.resolve(name, file, environment)
    assert endpoints is not None
    return StageTarget(name, file, endpoints, targets.read(file or targets.DEFAULT_FILE, name, environment))


def _digest(endpoints: Endpoints, entry: targets.Target | None, is_embedded: bool) -> str:
    said = endpoints.configuration(has_addresses=not is_embedded)
    if entry is not None:
        said += [msgspec.to_builtins(entry.revisions), msgspec.to_builtins(entry.rollback)]
        if (found := entry.prometheus) is not None:
            said.append([found.url, found.max_age_s, found.expressions])
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()
