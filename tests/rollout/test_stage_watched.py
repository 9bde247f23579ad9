"""A stage that other tools watch while its process runs: metrics, verdict, traces, and what an interruption leaves behind."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import HoldEvent
from sim.base.clocks import SystemClock
from sim.base.exit_codes import ExitCode
from tests.commands import LIMIT_S, STORMGATE, free_port, http_server
from tests.exports.test_traces import Collector
from tests.prometheus_server import prometheus
from tests.rollout.rollout_world import STAGES, STORM, WATCH
from tests.rollout.stepped_service import stepped_service

UNLOCKED = (sys.executable, "-m", "tests.rollout.unlocked_stormgate")
_STAGE_LIMIT_S = 300.0  # beside other work
CONFIG = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs: [{{ job_name: stormgate, static_configs: [{{ targets: ["127.0.0.1:{port}"] }}] }}]
"""


OWN_STAGES = STAGES.replace("interval_s = 300.0, judge_every_s = 7200.0", "interval_s = 2.0, judge_every_s = 300.0")
FAILING = '[[commands]]\nname = "broken"\nargv = ["false"]\nstands_for = "sync_metrics"\n'


class Watched:
    """A stage in its own process, its served verdict, and the collector of its traces."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, collector: Collector) -> None:
        self.process, self.collector = process, collector
        self._url = f"http://127.0.0.1:{port}"

    def verdict(self) -> dict[str, Any]:
        """The verdict now; empty until it is served."""
        with contextlib.suppress(httpx.HTTPError):
            found: dict[str, Any] = httpx.get(f"{self._url}/verdict.json", trust_env=False).json()
            return found
        return {}

    def metrics(self) -> str:
        """The metrics now, as text."""
        return httpx.get(f"{self._url}/metrics", trust_env=False).text

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; the process must not end before."""
        until = time.monotonic() + _STAGE_LIMIT_S
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, self.verdict()
            time.sleep(0.3)

    def interrupt(self) -> str:
        """Press Ctrl-C; returns what it says."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == ExitCode.TOOL, err
        return err


@contextlib.contextmanager
def watched(command: tuple[str, ...], *arguments: object) -> Iterator[tuple[Watched, int]]:
    port, collector, pipe = free_port(), Collector(), subprocess.PIPE
    with http_server(collector.answer, takes_body=True) as url:
        line = [*command, *map(str, arguments), "--metrics-port", str(port), "--otlp-endpoint", url]
        process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True)
        try:
            yield Watched(process, port, collector), port
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def below(collector: Collector, parent: Any) -> list[Any]:
    return [span for span in collector.spans if span.parent_span_id == parent.span_id]


def blocked(folder: Path) -> str:
    """The summary of the operators' forms, which must not let the rollout go on."""
    summary = (folder / "SUMMARY.md").read_text()
    assert "- Interrupted: yes" in summary
    assert "- Failures: 0" not in summary
    assert "- Decision: block" in summary
    return summary


def small(drill: str) -> str:
    """A drill with few clients and short phases."""
    for name, value in (("clients", "10"), ("fault_s", "3.0")):
        drill = re.sub(rf"\b{name} = [\d.]+", f"{name} = {value}", drill, count=1)
    return drill


def test_hold_is_watched_by_a_real_prometheus_and_interrupted(tmp_path: Path) -> None:
    files = {"tiny_watch.toml": small(WATCH), "their-stages.toml": OWN_STAGES}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with stepped_service(tmp_path, SystemClock()) as service:
        where = ("--target", service.name, "--targets", service.targets, "--stages", tmp_path / "their-stages.toml")
        options = (*where, "--rollout", "r", "--out", tmp_path / "out", "--anyway", "--export-operators", tmp_path / "forms")
        with watched(UNLOCKED, "stage", "hold", "1", *options) as (stage, port):
            figures_of_a_hold_are_scraped(stage, port, tmp_path)
            verdict = stage.verdict()
            err = stage.interrupt()
    assert (verdict["state"], verdict["exit_code"], verdict["stage"]) == ("running", None, "1")
    assert "stage 1 was interrupted; resume it with `stormgate stage hold 1 --rollout r" in err
    assert "| gate:hold | failed |" in blocked(tmp_path / "forms")
    run_dir = tmp_path / "out" / "rollouts" / "r" / "runs" / verdict["run_id"]
    assert [event.kind for event in evidence.read_lines(run_dir / records.HOLD, HoldEvent)] == ["started", "interrupted"]
    assert not (run_dir / records.REPORT).exists(), "the hold can be resumed, so it has no report yet"
    assert "Fatal" not in (run_dir / records.LOGS / "canary-checks.txt").read_text(), "the process of a check ends in order"
    collector = stage.collector
    (top,), (hold,) = collector.named("stage 1"), collector.named("hold")
    assert top.status.code == 2, "an interrupted hold is no go"
    assert [event.name for event in top.events] == ["hold started", "hold interrupted"]
    assert hold.parent_span_id == top.span_id
    assert "evaluation" in {span.name for span in below(collector, hold)}
    check = next(span for span in below(collector, hold) if span.name == "canary check")
    (drill,) = below(collector, check)
    assert {span.name for span in below(collector, drill)} >= {"phase steady", "phase fault"}


def figures_of_a_hold_are_scraped(stage: Watched, port: int, folder: Path) -> None:
    with prometheus(CONFIG.format(port=port), folder) as url:

        def number(expression: str) -> float:
            asked = httpx.get(f"{url}/api/v1/query", params={"query": expression}, trust_env=False).json()
            return float(asked["data"]["result"][0]["value"][1]) if asked["data"]["result"] else 0.0

        stage.wait_until(lambda: number("stormgate_events_applied_total") > 0)  # a canary check has ended
        assert number('stormgate_hold_is_holding{rollout="r",stage="1"}') == 1
        assert 0 < number("stormgate_hold_held_seconds") < number("stormgate_hold_required_seconds") == 18000
        assert number('stormgate_verdict_state{state="running"}') == 1
        assert number('stormgate_verdict_state{state="go"}') == 0


def test_preflight_is_watched_and_interrupted(tmp_path: Path) -> None:
    files = {"tiny_watch.toml": small(WATCH), "tiny_storm.toml": STORM, "their-stages.toml": f"{OWN_STAGES}\n{FAILING}"}
    for name, text in files.items():
        (tmp_path / name).write_text(re.sub(r"clients = \d+", "clients = 20", text))
    options = ("--stages", tmp_path / "their-stages.toml", "--export-operators", tmp_path / "forms")
    with watched(STORMGATE, "stage", "run", "0", *options, "--anyway", "--out", tmp_path / "out") as (stage, _):
        stage.wait_until(lambda: stage.verdict().get("part") == "rollback")
        verdict, metrics = stage.verdict(), stage.metrics()
        err = stage.interrupt()
    assert (verdict["state"], verdict["stage"]) == ("running", "0")
    assert verdict["worst_check"]["state"] == "fail"
    assert 'stormgate_clients{drill="tiny_storm"} 20.0' in metrics, "the rows of a drill are added when it ends"
    assert "stage 0 was interrupted; run it again with" in err
    assert "| tiny_storm |" in blocked(tmp_path / "forms")
    (top,), (drill,) = stage.collector.named("stage 0"), stage.collector.named("drill tiny_storm")
    assert {event.name for event in top.events} >= {"precondition token_issuance", "precondition builds_deployed"}
    assert drill.parent_span_id == top.span_id
    assert [span.name for span in below(stage.collector, drill)].count("fault drop_sockets") == 2
    assert stage.collector.named("command broken")
