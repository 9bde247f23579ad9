"""Where a stage goes: the lane, its operators' file, and a hash of what they configured."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from drills.rollout.setup import embedded_mock
from drills.runs import target_file, targets
from sim.base.errors import UsageError
from sim.engines.sockets.service import Endpoints


@dataclass(frozen=True)
class StageTarget:
    """One target. `given` is what `--target` said, with `{...}` of an embedded mock its address; `entry` is None of a mock."""

    given: str
    file: Path | None
    endpoints: Endpoints
    entry: target_file.Target | None

    @property
    def is_embedded(self) -> bool:
        """Whether the mock was started for this."""
        return self.endpoints.name == embedded_mock.NAME

    @property
    def has_metrics(self) -> bool:
        """Whether its metrics endpoint is asked."""
        return bool(self.endpoints.admin_token) and self.endpoints.rules.metrics_profile != "none"

    def configuration(self) -> str:
        """Hex SHA-256 of all that was said of the target, without its secrets."""
        return _digest(self.endpoints, self.entry, self.is_embedded)

    def configuration_now(self) -> str:
        """The same of the file as it is at this moment; a sentence instead where it cannot be read any more."""
        if self.entry is None:
            return self.configuration()
        try:
            now = _named(self.given, self.file)
            return _digest(now.endpoints, now.entry, False)
        except UsageError as error:
            return str(error)


@contextlib.contextmanager
def aimed(given: str, file: Path | None, log: Path) -> Iterator[StageTarget]:
    """The target that `--target` names; the embedded mock runs for as long as the body does, and writes to `log`.

    Raises `UsageError` and `TargetError`.
    """
    if given != targets.EMBEDDED:
        yield resolve(given, file)
        return
    with embedded_mock.serving(log) as endpoints:
        yield StageTarget(endpoints.runtime_url, None, endpoints, None)


def resolve(given: str, file: Path | None) -> StageTarget:
    """Any target but the embedded mock. Raises `UsageError`."""
    if "://" in given:
        endpoints = targets.resolve(given, file)
        assert endpoints is not None
        return StageTarget(given, file, endpoints, None)
    return _named(given, file)


def control_of(name: str, aim: StageTarget) -> StageTarget | None:
    """The control that a stage names, for its canary to be held against; None where it names none.

    Raises `UsageError` for one that does not compare: of another kind, with other caps, or at the target's own address.
    """
    if not name:
        return None
    found = _named(name, aim.file)
    for what, mine, theirs in (
        ("is of kind", aim.endpoints.kind, found.endpoints.kind),
        ("has caps", aim.endpoints.rules.caps, found.endpoints.rules.caps),
    ):
        if mine != theirs:
            raise UsageError(
                f"the control '{name}' {what} {theirs}, but the target '{aim.endpoints.name}' {mine}; give both the same."
            )
    if found.endpoints.runtime_url == aim.endpoints.runtime_url:
        raise UsageError(
            f"control '{name}' has the address of target '{aim.endpoints.name}', {found.endpoints.runtime_url}; expected one "
            "where the revisions before are reached."
        )
    return found


def _named(name: str, file: Path | None) -> StageTarget:
    endpoints = targets.resolve(name, file)
    assert endpoints is not None
    return StageTarget(name, file, endpoints, target_file.read(file or targets.DEFAULT_FILE, name))


def _digest(endpoints: Endpoints, entry: target_file.Target | None, is_embedded: bool) -> str:
    where = (
        [] if is_embedded else [endpoints.runtime_url, endpoints.control_url, endpoints.socket_path]
    )  # its port is another every time
    said = [endpoints.name, endpoints.kind, *where, msgspec.to_builtins(endpoints.rules)]
    if entry is not None:
        said += [msgspec.to_builtins(entry.revisions), msgspec.to_builtins(entry.rollback)]
        if (found := entry.prometheus) is not None:
            said.append([found.url, found.max_age_s, found.expressions])
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()
