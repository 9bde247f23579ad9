"""Where a drill runs: the embedded mock, a runtime of ours that is already up on this machine, or a target of a file."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from sim.base.errors import UsageError

if TYPE_CHECKING:
    from sim.engines.shared.endpoints import Endpoints

EMBEDDED = "mock"
DEFAULT_FILE = Path("targets.toml")


def resolve(target: str, file: Path | None = None) -> "Endpoints | None":
    """The lane that `--target` names; None is the embedded mock, started for the run.

    `file` is the targets file, by default `targets.toml` in the working directory. Raises `UsageError` for anything but `mock`,
    an http address on this machine, and a name of that file: nothing else is ever reached.
    """
    if target == EMBEDDED:
        return None
    parts = _parts(target)
    return _address(parts) if parts is not None else _named(target, file)


def _named(name: str, file: Path | None) -> "Endpoints":
    from drills.runs import target_file
    from sim.engines.shared.endpoints import Endpoints  # imported late: the help text does not need it

    if file is None and not DEFAULT_FILE.exists():
        raise UsageError(
            f"--target: expected '{EMBEDDED}', or an address such as http://127.0.0.1:8080, or a name of {DEFAULT_FILE}, which "
            "is not in this folder; give that file with --targets."
        )
    found = target_file.read(file or DEFAULT_FILE, name)
    return Endpoints(
        name=found.name,
        kind=found.entry.kind,
        runtime_url=found.runtime_url,
        control_url=found.control_url,
        session=found.session,
        admin_token=found.admin_token,
        socket_path=found.entry.socket_path,
        rules=found.rules,
        further_secrets=(found.prometheus.token,) if found.prometheus else (),
    )


def _address(parts: SplitResult) -> "Endpoints":
    """A mock of ours at an address on this machine."""
    from sim.engines.shared.endpoints import Endpoints
    from sim.mock.server import admin_token

    shown = f"--target {parts.scheme}://{parts.hostname}"  # no more of it, as a secret may stand in the rest
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"{shown}: the port must be a number from 1 to 65535.")
    if not is_loopback(str(parts.hostname)):
        raise UsageError(
            f"{shown}: addresses are of this machine only, such as http://127.0.0.1:8080; others need a name in a targets file."
        )
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise UsageError(f"{shown}: give scheme, host and port alone.")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    url = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return Endpoints(name=url, kind="mock", runtime_url=url, control_url=url, admin_token=admin_token())


def _parts(target: str) -> SplitResult | None:
    """An http address taken apart; None for what is none."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
