"""`make load`: serve Locust's web page on a free local port and print its address."""

import os
import socket
import sys
from pathlib import Path

_LOCUSTFILE = Path(__file__).parents[1] / "reconnect_storm.py"


def free_port() -> int:
    """Return a local port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> None:
    """Replace this process by Locust and pass it further arguments. Each test starts its own embedded mock."""
    port = free_port()
    print(f"stormgate: open http://127.0.0.1:{port} to start a load test; press Ctrl-C to end.", flush=True)
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--web-host", "127.0.0.1", "--web-port", str(port)]
    os.execv(sys.executable, [*command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
