"""What is recorded of our own processes, and of a target on this machine, while a run goes on."""

import signal
import subprocess
import time

from sim.machine import monitor
from sim.machine.monitor import MachineMonitor
from sim.machine.processes import is_stopped
from sim.record.observations import Kind


class Told:
    """Takes rows, and keeps what they say."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float]] = []

    def add(self, t: float, kind: Kind, *, attempt: int = 0, value: float = 0.0, detail: str = "", **_: object) -> None:
        self.found.append((detail, value))


def test_a_stopped_server_is_recorded_from_the_sample_before_it_until_the_one_after():
    rows, server = Told(), subprocess.Popen(["sleep", "60"])
    try:
        machine = MachineMonitor(rows, lambda: server.pid)  # type: ignore[arg-type]

        def sample() -> set[str]:
            rows.found.clear()
            machine._at = time.monotonic() - monitor._PERIOD_S
            machine.sample(1.0)
            return {what for what, _ in rows.found if what.endswith("_stopped")}

        assert sample() == set()
        server.send_signal(signal.SIGSTOP)
        while not is_stopped(server.pid):
            pass
        assert sample() == sample() == {"server_stopped"}
        server.send_signal(signal.SIGCONT)
        while is_stopped(server.pid):
            pass
        assert sample() == {"server_stopped"}, "it ran again at some time since the last sample"
        assert sample() == set()
    finally:
        server.kill()
        server.wait()
    assert not is_stopped(server.pid), "nobody knows"
