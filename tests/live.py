"""The third-party service as a separate process, with the targets file and drill for it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.commands import LIMIT_S

SECRETS = {"THEIR_SESSION": "their-s3ssion-s3cret", "THEIR_ADMIN": "their-adm1n-s3cret"}
DRILL = """
name = "passing_through"
summary = "Do all clients reconnect after a cut, with nothing lost?"
checks = ["replay.divergence", "replay.stale_loops", "reconnect.live_again_99_s", "delivery.dropped_deliveries", "ux.integrity"]
faults = [{ kind = "drop_sockets", at_s = 0.2 }]
fleet = { clients = 20, connects_per_s = 40.0 }
load = { events_per_s = 40.0, run_streams = 2 }
phases = { steady_s = 1.5, fault_s = 3.0, recovery_s = 0.5, settle_s = 10.0 }
expect = { negative_clients = ["mutation_over_socket"] }
"""
CAPS = "caps = { clients = 200, connects_per_s = 200.0, events_per_s = 100.0 }\n"


@dataclass(frozen=True)
class Live:
    """A running service and the folder of its files."""

    pid: int
    runtime: int  # ports
    control: int
    folder: Path
    scheme: str = "http"

    def table(self, kind: str = "staging", extra: str = "") -> str:
        return (
            f'[targets.thirdparty]\nkind = "{kind}"\nruntime_url = "{self.scheme}://127.0.0.1:{self.runtime}"\n'
            f'control_url_env = "THEIR_CONTROL"\nsession_token_env = "THEIR_SESSION"\nadmin_token_env = "THEIR_ADMIN"\n'
            'payload_at = "/äußeres"\nmetrics_profile = "pinned"\nmetrics_every_s = 0.5\n'
            f"{'' if 'caps' in extra else CAPS}{extra}"
        )

    def write(self, kind: str = "staging", extra: str = "", drill: str = DRILL) -> tuple[Path, Path]:
        """The targets file and the drill."""
        targets, path = self.folder / "their-targets.toml", self.folder / "passing_through.toml"
        targets.write_text(self.table(kind, extra))
        path.write_text(drill)
        return targets, path

    @property
    def environment(self) -> dict[str, str]:
        return {**SECRETS, "THEIR_CONTROL": f"{self.scheme}://127.0.0.1:{self.control}/"}

    @property
    def log(self) -> list[tuple[str, float]]:
        lines = (self.folder / "their.log").read_text().splitlines()
        return [(line.split()[0], float(line.split()[1])) for line in lines]


def certified(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a key and certificate for this machine; returns its file and the environment that trusts it."""
    authority, pem, believed = trustme.CA(), folder / "service.pem", folder / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(believed)
    return pem, {"SSL_CERT_FILE": str(believed)}


@contextmanager
def thirdparty(folder: Path, *options: str) -> Iterator[Live]:
    command = [sys.executable, str(Path(__file__).with_name("thirdparty.py")), "--log", str(folder / "their.log"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**SECRETS}) as process:
        try:
            assert process.stdout is not None
            runtime, control = map(int, process.stdout.readline().split())
            yield Live(process.pid, runtime, control, folder, "https" if "--tls" in options else "http")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)
