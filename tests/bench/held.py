"""How many users one Locust process holds: a whole load test that only observes, each client getting an event a second.

What the load generator says of its own lateness decides whether it held them: more than 5 % of its samples over 250 ms late is
saturation. `python -m tests.bench.held CLIENTS` asks for one number of clients.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from sim.analysis import samples
from sim.record.history import History
from sim.record.observations import Kind
from sim.record.run_header import read_verified

CLIENTS = 5000
STREAMS = 25  # each published once a second, so that a 25th of the clients hears of something at once
CONNECTS_PER_S = 250
MEASURE_S = 20
LIMIT_S = 300.0
_SATURATED_MS = 250.0  # as in drills/thresholds.toml


def _command(clients: int, out: str) -> list[str]:
    asked = {
        "clients": clients,
        "connects-per-s": CONNECTS_PER_S,
        "events-per-s": STREAMS,
        "topics-per-client": 1,
        "steady-s": 5,
        "fault-s": MEASURE_S,
        "out": out,
    }
    sets = (f"--set=load.run_streams={STREAMS}", "--set=load.worker_events=false", "--set=phases.steady_limit_s=30")
    options = [f"--{name}={value}" for name, value in asked.items()]
    locust = [sys.executable, "-m", "locust", "-f", "locustfiles/steady_state.py", "--headless", "--only-summary"]
    return [*locust, *options, *sets]


def _wait_for(phase: str, log: Path, process: psutil.Popen) -> float:
    """CPU seconds of the process when that phase began."""
    limit = time.monotonic() + LIMIT_S
    while not re.search(rf"stormgate: {phase}: ", log.read_text()):
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"the phase {phase} never began: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    times = process.cpu_times()
    return float(times.user + times.system)


def run(clients: int = CLIENTS) -> dict[str, float]:
    """One measurement."""
    with tempfile.TemporaryDirectory(prefix="stormgate-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("w") as said:
            process = psutil.Popen(_command(clients, folder + "/out"), stdout=said, stderr=subprocess.STDOUT)
        begun, cpu_s = time.perf_counter(), _wait_for("fault", log, process)
        begun = time.perf_counter()
        cpu_s = _wait_for("recovery", log, process) - cpu_s
        took_s, mib = time.perf_counter() - begun, process.memory_info().rss / 2**20
        process.wait(LIMIT_S)
        (run_folder,) = Path(folder, "out").glob("*/drills/observation")
        return {"clients": clients, "cores": cpu_s / took_s, "memory_mib": mib, **_held(run_folder)}


def _held(folder: Path) -> dict[str, float]:
    history = History(*read_verified(folder))
    late_ms = np.sort(samples.generator_lag_ms(history))
    applied, phases = history.fleet(Kind.APPLIED).t, history.phases
    within = (applied >= phases["fault"]) & (applied < phases["recovery"])
    return {
        "deliveries_per_s": float(within.sum()) / (phases["recovery"] - phases["fault"]),
        "late_p95_ms": float(np.percentile(late_ms, 95)),
        "late_max_ms": float(late_ms[-1]),
        "saturated": float(np.mean(late_ms > _SATURATED_MS) > 0.05),
        "load_of_machine": os.getloadavg()[0],
    }


def show(result: dict[str, float]) -> None:
    """One line."""
    figures = ", ".join(f"{name} {value:,.2f}" for name, value in result.items())
    Console(width=160).print(f"one Locust process at an event a second each: {figures}")


if __name__ == "__main__":
    show(run(*map(int, sys.argv[1:])))
