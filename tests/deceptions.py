"""What each lie of the deceiving server turns red, on real sockets: one table. A drill on a server that lies is never a go.

To add a kind: a lie in `tests/peers/deceiving_lies.py`, and a row here. `tests/targets/test_deceiving_server.py` runs every
row; those without `ci` only with `make prove`. What is wrong with clients, drills or evidence is in `tests/mutation_table.py`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.config import to_struct
from sim.drill.model import Drill
from tests.commands import LIMIT_S
from tests.mutation_table import turned_red
from tests.storms import OF_TIME

SERVER, HOOK = "tests.peers.deceiving_server", Path(__file__).parent / "peers" / "deceiving_hook.py"
ROOT = Path(__file__).parents[1]
TARGET = """
[targets.deceiving]
kind = "staging"
runtime_url = "http://127.0.0.1:{port}"
control_url = "http://127.0.0.1:{port}"
socket_path = "/socket"
metrics_every_s = 0.5
caps = {{ clients = 200, connects_per_s = 200.0, events_per_s = 200.0 }}
streams = {{ topic = "room:{{run_id}}" }}
token = {{ source = "none" }}
ready = {{ without_token = [] }}
metrics = {{ path = "/metrics", headers = {{}} }}
read_back = {{ path = "/internal/v1/runs/{{run_id}}" }}
service = {{ heartbeat_interval_s = 0.5, window_events = {window} }}
hooks.kill_runtime = {{ inject = {restart}, reports = {{ count = "/count" }} }}
hooks.slow_publishes = {{ inject = {slow}, reports = {{ count = "/count" }} }}
"""
HOOKED = ("kill_runtime", "slow_publishes")
COMMON = {
    "summary": "Is a lie of the server found?",
    "checks": [
        "error.failed_tries_ratio",
        "replay.divergence",
        "replay.stale_loops",
        "delivery.dropped_deliveries",
        "ux.integrity",
    ],
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
    "cut_half": {"faults": [{"kind": "drop_sockets", "at_s": 0.0, "share": 0.5, "offline_s": 0.3}]},
    "timed": {
        "checks": ["replay.bootstrap_ms"],
        "fleet": {"clients": 60, "connects_per_s": 120.0},
        "faults": [{"kind": "drop_sockets", "at_s": 0.0, "offline_s": 0.3}],
    },
    "restart": {"faults": [{"kind": "kill_runtime", "at_s": 0.0, "down_s": 0.3}]},
    "long_restart": {
        "phases": {"steady_s": 1.0, "fault_s": 14.0, "recovery_s": 0.5, "settle_s": 4.0},
        "faults": [{"kind": "kill_runtime", "at_s": 0.0, "down_s": 0.3}],
    },
    "slow_publishes": {"faults": [{"kind": "slow_publishes", "at_s": 0.0, "delay_ms": 600.0, "for_s": 1.2}]},
    "stale_some": {
        **STALE,
        "expect": {"stale_reasons": ["retention_floor_breach"]},
        "faults": [
            {"kind": "drop_sockets", "at_s": 0.0, "share": 0.6, "waves": 2, "wave": 1, "offline_s": 1.5},
            {"kind": "drop_sockets", "at_s": 0.0, "share": 0.6, "waves": 2, "wave": 2, "offline_s": 0.4},
        ],
    },
    "stale": {**STALE, "expect": {"stale_reasons": ["retention_floor_breach"]}},
    "stale_with_loss": {**STALE, "expect": {"stale_reasons": ["retention_floor_breach"], "declared_loss": True}},
}


@dataclass(frozen=True)
class Deception:
    """A lie, the drill that finds it, and what must turn red by name: checks that fail or are an error, and invariants.

    Several lies at once, joined by commas, are found each by its own name.
    """

    lie: str  # of `LIES`; empty: the server is honest, and nothing turns red
    drill: str
    names: frozenset[str]
    state: State = State.FAIL  # of the drill
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
        if self.state is State.INCONCLUSIVE:
            red |= {check.name for check in verdict.checks if check.state is State.INCONCLUSIVE}
        return sorted(self.names - red) if self.lie else sorted(red - {*OF_TIME})


@contextmanager
def deceiving(folder: Path, *options: str, window: int = 1024, server: str = SERVER, target: str = TARGET) -> Iterator[Path]:
    """Run the server; yield the targets file that describes it."""
    command = [sys.executable, "-m", server, "--retain", str(window), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            targets = folder / "targets.toml"
            port = int(process.stdout.readline())
            restart, slow = (json.dumps([sys.executable, str(HOOK), kind, str(port)]) for kind in HOOKED)
            targets.write_text(target.format(port=port, window=window, restart=restart, slow=slow))
            yield targets
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def row(lie: str, drill: str, *names: str, **more: Any) -> Deception:
    """One row of the table."""
    return Deception(lie, drill, frozenset(names), **more)


DECEPTIONS = (
    row("", "cut", ci=True),
    row("", "checkpoint_lost"),
    row("", "checkpoint_future"),
    row("", "stale", window=WINDOW),
    row("", "stale_with_loss", window=WINDOW),
    # Content.
    row("alter", "cut", "altered_payload", "acknowledged_lost"),
    row("truncate", "cut", "altered_payload", "acknowledged_lost"),
    row("swap", "cut", "acknowledged_lost"),
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
    row("empty_snapshot", "stale", "incomplete_snapshot", window=WINDOW),
    row("low_snapshot", "stale", "incomplete_snapshot", "drill.declared_loss", window=WINDOW),
    row("low_snapshot", "stale_with_loss", "incomplete_snapshot", "drill.declared_loss", window=WINDOW),
    row("unfit_snapshot", "stale", "incomplete_snapshot", window=WINDOW),
    row("high_snapshot", "stale", "incomplete_snapshot", window=WINDOW),
    # Order and durability.
    row("late_first", "cut", "real_time_order"),
    row("acknowledge_nothing", "cut", "acknowledged_lost", "silent_loss"),
    row("acknowledge_above", "cut", "phantom_event"),
    row("acknowledge_last", "cut", "missing_at_rest", "acknowledged_lost", "drill.converged"),
    row("refuse_first", "cut", "error.failed_tries_ratio"),
    row("unanswered_to_some", "cut", "partly_delivered", "error.failed_tries_ratio"),
    # Excuses.
    row("", "cut_half"),
    row("close_others", "cut_half", "drill.undisturbed"),
    row("close_again", "cut_half", "drill.undisturbed"),
    row("close_later", "cut_half", "drill.undisturbed"),
    row("close_at_rest", "cut", "drill.undisturbed"),
    # Repair by whoever comes.
    row("wait_for_fresh", "cut", "drill.converged"),
    row("wait_for_poll", "cut", "drill.converged", "missing_at_rest"),
    # Faults of hooks.
    row("", "restart"),
    row("restart_nothing", "restart", "drill.faults_observed", state=State.ERROR, ci=True),
    row("restart_some", "restart", "drill.faults_observed", state=State.ERROR),
    row("restart_again", "restart", "drill.undisturbed"),
    row("", "long_restart"),
    row("restart_again", "long_restart", "drill.undisturbed"),
    row("", "slow_publishes"),
    row("slow_nothing", "slow_publishes", "drill.faults_observed", state=State.ERROR),
    # Digests.
    row("wrong_digest", "stale", "incomplete_snapshot", window=WINDOW),
    row("old_digest", "stale", "incomplete_snapshot", window=WINDOW, ci=True),
    # Clocks.
    *(
        row(lie, "cut", "drill.wall_clocks", state=State.ERROR)
        for lie in ("fast_clock", "slow_clock", "stepped_clock", "clock_set_back", "clock_of_some")
    ),
    # Counters.
    row("counters_set_back", "cut", "drill.undisturbed", state=State.INCONCLUSIVE, ci=True),
    # Time.
    row("", "timed"),
    row("sleep", "timed", "replay.bootstrap_ms"),
    # To some readers, in some streams.
    row("skip_for_one", "cut", "silent_loss", "phantom_event"),
    row("repeat_for_one", "cut", "applied_twice", "phantom_event"),
    row("mute_one_stream", "cut", "missing_at_rest", "drill.converged"),
    row("complete_first", "cut", "early_replay_complete"),
    row("replay_all", "cut", "replay.divergence"),
    row("retype", "cut", "altered_payload"),
    row("close_before_live", "cut", "drill.undisturbed"),
    row("", "stale_some", window=WINDOW),
    row("stale_within", "stale_some", "drill.stale_justified", window=WINDOW),
    row("stale_floor", "stale_some", "drill.stale_justified", window=WINDOW),
    # Over HTTP, beside the socket.
    row("store_less", "cut", "stored_lost"),
    row("store_twice", "cut", "stored_twice"),
    row("store_altered", "cut", "stored_altered"),
    row("store_swapped", "cut", "stored_otherwise", "real_time_order"),
    # Several at once.
    row(
        *("close_again,refuse_first,stepped_clock", "cut_half"),
        *("drill.undisturbed", "error.failed_tries_ratio", "drill.wall_clocks"),
        ci=True,
    ),
    row("wait_for_fresh,acknowledge_above", "cut", "drill.converged", "phantom_event", ci=True),
)
