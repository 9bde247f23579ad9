"""What each lie of the deceiving server turns red, on real sockets: one table. A drill on a server that lies is never a go.

To add a kind: a lie in `tests/peers/deceiving_server.py`, and a row here. `tests/targets/test_deceiving_server.py` runs every
row; those without `ci` only with `make prove`. What is wrong with clients, drills or evidence is in `tests/mutation_table.py`.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drills.judging.checks.verdicts import DrillVerdict
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.config import to_struct
from sim.drill.model import Drill
from tests.commands import LIMIT_S
from tests.mutation_table import turned_red
from tests.storms import OF_TIME

SERVER = Path(__file__).parent / "peers" / "deceiving_server.py"
TARGET = """
[targets.deceiving]
kind = "staging"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
socket_path = "/socket"
metrics_profile = "none"
caps = {{ clients = 200, connects_per_s = 200.0, events_per_s = 200.0 }}
streams = {{ topic = "room:{{run_id}}" }}
token = {{ source = "none" }}
ready = {{ without_token = [] }}
service = {{ heartbeat_interval_s = 0.5, window_events = {window} }}
"""
COMMON = {
    "summary": "Is a lie of the server found?",
    "checks": ["replay.divergence", "replay.stale_loops", "delivery.dropped_deliveries", "ux.integrity"],
    "fleet": {"clients": 20, "connects_per_s": 40.0},
    "load": {"events_per_s": 40.0, "run_streams": 2},
    "phases": {"steady_s": 1.0, "fault_s": 1.5, "recovery_s": 0.5, "settle_s": 4.0},
}
WINDOW = 20  # events of a stream that are kept, so that what an offline client needs is trimmed
STALE = {
    "phases": {"steady_s": 1.5, "fault_s": 3.0, "recovery_s": 0.5, "settle_s": 4.0},
    "faults": [{"kind": "drop_sockets", "at_s": 0.0, "share": 0.5, "offline_s": 1.5}],
}
DRILLS: dict[str, dict[str, object]] = {
    "cut": {"faults": [{"kind": "drop_sockets", "at_s": 0.0, "offline_s": 0.5}]},
    "checkpoint_lost": {"faults": [{"kind": "restart_clients", "at_s": 0.0, "checkpoint": "lost", "down_s": 0.3}]},
    "checkpoint_future": {
        "faults": [{"kind": "restart_clients", "at_s": 0.0, "checkpoint": "future", "events": 100_000, "down_s": 0.3}]
    },
    "stale": {**STALE, "expect": {"stale_reasons": ["retention_floor_breach"]}},
    "stale_with_loss": {**STALE, "expect": {"stale_reasons": ["retention_floor_breach"], "declared_loss": True}},
}


@dataclass(frozen=True)
class Deception:
    """A lie, the drill that finds it, and what must turn red by name: checks that fail or are an error, and invariants."""

    lie: str  # of `LIES` in the server; empty: it is honest, and nothing turns red
    drill: str
    names: frozenset[str]
    window: int = 1024  # events of a stream that the server keeps
    ci: bool = False  # run by the ordinary tests, too

    def __str__(self) -> str:
        return f"{self.lie or 'honest'}-{self.drill}"

    def judged(self, folder: Path) -> DrillVerdict:
        """The verdict on the drill, with a server that is started for it."""
        drill = to_struct({"name": self.drill, **COMMON, **DRILLS[self.drill]}, Drill, self.drill)
        lie = ("--lie", self.lie) if self.lie else ()
        with deceiving(folder, *lie, window=self.window) as targets:
            request = Request(
                (drill,), engine="sockets", target="deceiving", seed=1, defects=(), thresholds=None, out=folder, targets=targets
            )
            (verdict,) = results.judge_run(running.run(request)).drills
        return verdict

    def missed(self, verdict: DrillVerdict) -> list[str]:
        """What must turn red and did not; of the honest server, what is red, apart from latencies."""
        red = turned_red(verdict)
        return sorted(self.names - red) if self.lie else sorted(red - {*OF_TIME})


@contextmanager
def deceiving(folder: Path, *options: str, window: int = 1024) -> Iterator[Path]:
    """Run the server; yield the targets file that describes it."""
    command = [sys.executable, str(SERVER), "--retain", str(window), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            targets = folder / "targets.toml"
            targets.write_text(TARGET.format(port=int(process.stdout.readline()), window=window))
            yield targets
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def row(lie: str, drill: str, *names: str, window: int = 1024, ci: bool = False) -> Deception:
    """One row of the table."""
    return Deception(lie, drill, frozenset(names), window, ci)


DECEPTIONS = (
    row("", "cut", ci=True),
    row("", "checkpoint_lost"),
    row("", "checkpoint_future"),
    row("", "stale", window=WINDOW),
    row("", "stale_with_loss", window=WINDOW),
    # Content.
    row("alter", "cut", "altered_payload", "acknowledged_lost"),
    row("truncate", "cut", "altered_payload", "acknowledged_lost"),
    row("swap", "cut", "real_time_order", "acknowledged_lost"),
    row("other_tenant", "cut", "cross_topic_leak", "silent_loss"),
    row("earlier_run", "cut", "cross_topic_leak", "silent_loss"),
    row("leftovers", "cut", "cross_topic_leak", ci=True),
    row("bad_hash", "cut", "jumbled_message", "drill.steady_state"),
    row("second_payload", "cut", "altered_payload", "acknowledged_lost", ci=True),
    row("second_hash", "cut", "jumbled_message", ci=True),
    # Starts and replays.
    row("skip_retained", "cut", "drill.audited"),
    row("skip_retained_at_first", "cut", "false_start", ci=True),
    row("skip_after_resume", "cut", "silent_loss", "applied_twice"),
    row("replay_nothing", "cut", "early_replay_complete", "drill.converged"),
    row("drop_tail", "cut", "delivery.dropped_deliveries", "drill.converged"),
    # Positions that nobody confirms.
    row("echo_future", "checkpoint_future", "silent_loss", "drill.converged", ci=True),
    row("ignore_future", "checkpoint_future", "silent_loss", "drill.converged"),
    # Snapshots.
    row("empty_snapshot", "stale", "incomplete_snapshot", window=WINDOW, ci=True),
    row("low_snapshot", "stale", "incomplete_snapshot", "drill.declared_loss", window=WINDOW),
    row("low_snapshot", "stale_with_loss", "incomplete_snapshot", "drill.declared_loss", window=WINDOW),
    row("unfit_snapshot", "stale", "incomplete_snapshot", window=WINDOW),
    row("high_snapshot", "stale", "incomplete_snapshot", window=WINDOW),
    # Order and durability.
    row("late_first", "cut", "real_time_order"),
    row("acknowledge_nothing", "cut", "acknowledged_lost", "silent_loss"),
)
