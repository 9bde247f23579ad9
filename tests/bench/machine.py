"""What the samples of the machine cost a run: CPU time of a sample, and the share of a core that ten a second take.

python -m tests.bench.machine
"""

import subprocess
import time

from sim.machine.monitor import MachineMonitor
from sim.record.columns import Columns

SAMPLES = 3000
PER_SECOND = 10  # each tenth one reads clocks and pressure, too


def main() -> None:
    """Sample without waiting in between, and print the cost."""
    with subprocess.Popen(["sleep", "600"]) as server:
        monitor = MachineMonitor(Columns(), lambda: server.pid, lambda: 0.1)
        began = time.process_time()
        for number in range(SAMPLES):
            monitor._at -= 1.0 / PER_SECOND
            monitor._slow_at -= number % PER_SECOND == 0
            monitor.sample(number / PER_SECOND)
        sample_s = (time.process_time() - began) / SAMPLES
        server.kill()
    print(f"{1e6 * sample_s:.0f} µs a sample, {100 * PER_SECOND * sample_s:.2f} % of a core")


if __name__ == "__main__":
    main()
