"""Where a drill runs: the embedded mock, or a runtime of ours that is already up on this machine."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--target {target}: expected '{EMBEDDED}', or an address such as http://127.0.0.1:8080.")
    try:
        port = parts.port
    except ValueError:
        raise UsageError(f"--target {target}: the port must be a number from 1 to 65535.") from None
    if not _is_loopback(parts.hostname):
        raise UsageError(f"--target {target}: drills go to this machine only; give an address such as http://127.0.0.1:8080.")
    if parts.username or parts.query or parts.path.strip("/"):
        raise UsageError(f"--target {target}: give scheme, host and port alone.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    url = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return Lane(name=url, kind="mock", runtime_url=url, control_url=url)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
