"""Where a drill runs: the embedded mock, or a runtime of ours that is already up on this machine."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from sim.errors import UsageError

if TYPE_CHECKING:
    from sim.engines.lane_http import Lane

EMBEDDED = "mock"


def resolve(target: str) -> "Lane | None":
    """The lane that `--target` names; None is the embedded mock, started for the run.

    Raises `UsageError` for anything but `mock` and an http address on this machine: load and faults go to loopback only.
    """
    from sim.engines.lane_http import Lane  # imported late: it takes httpx, which the help text does not need

    if target == EMBEDDED:
        return None
    parts = _parts(target)
    if parts is None:
        raise UsageError(f"--target: expected '{EMBEDDED}', or an address such as http://127.0.0.1:8080.")
    shown = f"--target {parts.scheme}://{parts.hostname}"  # no more of it, as a secret may stand in the rest
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"{shown}: the port must be a number from 1 to 65535.")
    if not _is_loopback(str(parts.hostname)):
        raise UsageError(f"{shown}: drills go to this machine only; give an address such as http://127.0.0.1:8080.")
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise UsageError(f"{shown}: give scheme, host and port alone.")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    url = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return Lane(name=url, kind="mock", runtime_url=url, control_url=url)


def _parts(target: str) -> SplitResult | None:
    """An http address taken apart; None for what is none."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
