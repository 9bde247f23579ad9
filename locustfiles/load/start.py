"""`make load`: Locust's web page on a free port of this machine, which is told before it opens."""

import os
import socket
import sys
from pathlib import Path

_LOCUSTFILE = Path(__file__).parents[1] / "reconnect_storm.py"


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> None:
    """Become Locust; further arguments are its own. Each test starts a runtime of its own, which ends with it."""
    port = free_port()
    print(f"stormgate: open http://127.0.0.1:{port} to load the lane; Ctrl-C ends everything.", flush=True)
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--web-host", "127.0.0.1", "--web-port", str(port)]
    os.execv(sys.executable, [*command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
