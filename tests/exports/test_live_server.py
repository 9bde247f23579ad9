"""The metrics and the verdict of a running drill over HTTP, scraped by a real Prometheus."""

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from drills.exports import server
from drills.exports.live import Live
from drills.exports.verdict import CheckNow, HoldNow, Verdict
from sim.base.errors import UsageError
from sim.base.exit_codes import ExitCode
from tests.commands import LIMIT_S, free_port, sets, soon, started, stormgate_here
from tests.prometheus_server import prometheus
from tests.storms import SHORT, SMALL

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "stormgate.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
DRILL, CLIENTS = "reconnect_storm", 15
_DRILL_LIMIT_S = 300.0  # beside other work
CONFIG = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: stormgate
    static_configs: [{{ targets: ["{drill}", "{hold}"] }}]
"""
HOLD = HoldNow(
    is_holding=True, held_s=900.0, required_s=3600.0, restarts=1, checks=(CheckNow(name="delivery.latency", state="pass"),)
)


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=LIMIT_S)


@dataclass
class Watched:
    """A drill that has ended and lingers, the verdicts that it served, and a Prometheus that scraped it all the time."""

    url: str
    prometheus: str
    verdicts: list[dict[str, Any]]
    phases: set[str]
    summary: dict[str, Any]

    def query(self, expression: str) -> list[dict[str, Any]]:
        plain = expression.replace("$__rate_interval", "30s").replace("$drill", ".*")
        asked = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": plain}, trust_env=False)
        answer = asked.json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def number(self, expression: str) -> float:
        (series,) = self.query(expression)
        return float(series["value"][1])

    def metric(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.summary["drills"][0]["metrics"][name]
        return found


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Watched]:
    port, summary = free_port(), folder / "summary.json"
    options = (
        "--metrics-port",
        port,
        "--metrics-linger",
        300,
        "--json",
        "--out",
        folder,
        *sets(*SMALL, *SHORT[DRILL], f"fleet.clients={CLIENTS}"),
    )
    url, verdicts, phases = f"http://127.0.0.1:{port}", [], set()
    held = Live(Verdict(kind="stage", rollout="november", stage="1", hold=HOLD))
    with server.serving(held, server.LOOPBACK, 0) as hold_url:
        config = CONFIG.format(drill=f"127.0.0.1:{port}", hold=hold_url.removeprefix("http://"))
        with prometheus(config, folder) as scraper, started("drill", "run", DRILL, *options) as process:
            with contextlib.suppress(httpx.HTTPError):
                get(f"{url}/verdict.json")
            limit = time.monotonic() + _DRILL_LIMIT_S
            while not verdicts or verdicts[-1]["state"] == "running":
                assert time.monotonic() < limit
                assert process.poll() is None
                with contextlib.suppress(httpx.HTTPError):
                    verdicts.append(get(f"{url}/verdict.json").json())
                    phases |= set(re.findall(r'phase="(\w+)"} 1\.0', get(f"{url}/metrics").text))
                time.sleep(0.2)
            watched = Watched(url, scraper, verdicts, phases, {})
            done = (
                f'stormgate_phase{{drill="{DRILL}",phase="end"}} == 1 and on() stormgate_verdict_state{{state="running"}} == 0'
            )
            assert soon(lambda: bool(watched.query(done)), LIMIT_S)
            yield _with_summary(watched, process.stdout, summary)
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == verdicts[-1]["exit_code"], "an interruption while it lingers changes nothing"


def _with_summary(watched: Watched, stdout: Any, path: Path) -> Watched:
    """Read the command's JSON, which it printed before it lingers."""
    text = ""
    while not text.endswith("\n}\n"):
        text += stdout.readline()
    watched.summary = json.loads(text)
    return watched


def test_drill_is_watched_by_a_real_prometheus(tmp_path: Path) -> None:
    """One test, because there is one drill."""
    with watching(tmp_path) as watched:
        verdict_is_running_and_then_that_of_the_report(watched)
        scraped_figures_agree_with_the_judged_report(watched)
        for title, expression in QUERIES:
            every_query_of_the_dashboard_returns_data(watched, title, expression)


def verdict_is_running_and_then_that_of_the_report(watched: Watched) -> None:
    states = [verdict["state"] for verdict in watched.verdicts]
    last = watched.verdicts[-1]
    assert states[:-1] == ["running"] * (len(states) - 1)
    assert len(states) > 1
    assert (last["decision"], last["run_id"]) == (watched.summary["decision"], watched.summary["run_id"])
    assert last["state"] != "running"
    assert {"steady", "fault", "end"} <= watched.phases
    running = watched.verdicts[0]
    assert (running["exit_code"], running["decision"], running["worst_check"]) == (None, "", None)


def scraped_figures_agree_with_the_judged_report(watched: Watched) -> None:
    """The counts are equal. A quantile of a histogram lies in the bucket of the judged one."""
    recovered, latency = watched.metric("live_again_99_s"), watched.metric("publish_to_apply_p99_ms")
    assert watched.number("stormgate_recovery_seconds_count") == recovered["n"] > 0
    assert watched.number("stormgate_delivery_latency_seconds_count") == latency["n"] > 0
    for name, metric, scale in (("recovery_seconds", recovered, 1.0), ("delivery_latency_seconds", latency, 1000.0)):
        judged_s = metric["value"] / scale
        buckets = {float(each["metric"]["le"]): float(each["value"][1]) for each in watched.query(f"stormgate_{name}_bucket")}
        bound = min(le for le, count in buckets.items() if count >= 0.99 * metric["n"])
        assert max((le for le in buckets if le < bound), default=0.0) < judged_s <= bound
    ends = {(end["by"], end["code"]): end["count"] for end in watched.summary["drills"][0]["endings"]}
    scraped = {
        (series["metric"]["by"], series["metric"]["code"]): float(series["value"][1])
        for series in watched.query("stormgate_connections_ended_total")
    }
    assert scraped == ends
    for name in ("connects_attempted", "connects_failed"):
        assert watched.number(f"stormgate_{name}_total") == watched.metric(name)["value"]
    assert watched.number("stormgate_events_published_total") == watched.metric("published_events")["value"]
    assert watched.number("stormgate_clients") == CLIENTS
    assert watched.number("sum(stormgate_faults_active)") == 0


def every_query_of_the_dashboard_returns_data(watched: Watched, title: str, expression: str) -> None:
    found = watched.query(expression)
    assert found, title
    if "rate(" not in expression:  # a quantile of a rate is NaN while nothing happens
        assert all(float(series["value"][1]) == float(series["value"][1]) for series in found), (title, found)


def test_dashboard_has_unique_panels_that_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [(x, y) for p in panels for x in _span(p["gridPos"], "x", "w") for y in _span(p["gridPos"], "y", "h")]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def _span(place: dict[str, int], at: str, size: str) -> range:
    return range(place[at], place[at] + place[size])


# --- the server -------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(live: Live) -> Iterator[str]:
    with server.serving(live, server.LOOPBACK, 0) as url:
        yield url


@pytest.mark.parametrize(
    ("code", "state", "go", "no_go"),
    [
        (None, "running", 409, 409),
        (ExitCode.GO, "go", 200, 409),
        (ExitCode.NO_GO, "no_go", 409, 200),
        (ExitCode.INCONCLUSIVE, "inconclusive", 409, 409),
        (ExitCode.TOOL, "error", 409, 409),
        (ExitCode.USAGE, "error", 409, 409),
    ],
)
def test_only_a_go_is_a_go(code: ExitCode | None, state: str, go: int, no_go: int) -> None:
    live = Live(Verdict(kind="drill run", target="mock"))
    if code is not None:
        live.concluded(code, "go" if code is ExitCode.GO else "no_go", "")
    with served(live) as url:
        assert get(f"{url}/verdict.json").json()["state"] == state
        assert [get(f"{url}/{path}").status_code for path in ("go", "no-go")] == [go, no_go]
        posted = httpx.post(f"{url}/go", json={"name": "sync", "phase": "Progressing"}, trust_env=False)
        assert posted.status_code == go
        assert posted.json() == get(f"{url}/verdict.json").json()
        assert get(f"{url}/elsewhere").status_code == 404


def test_metrics_are_valid_openmetrics_and_text() -> None:
    live = Live(Verdict(kind="stage", rollout="november", stage="1", hold=HOLD))
    with served(live) as url:
        asked = httpx.get(f"{url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}, trust_env=False)
        plain = get(f"{url}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(asked.text)}
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert plain.headers["content-type"].startswith("text/plain")
    assert families["stormgate_recovery_seconds"].type == "histogram"
    (state,) = [sample.labels["state"] for sample in families["stormgate_verdict_state"].samples if sample.value == 1]
    assert state == "running"
    (held,) = families["stormgate_hold_held_seconds"].samples
    assert (held.value, held.labels) == (900.0, {"rollout": "november", "stage": "1"})


def test_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind((server.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = stormgate_here("drill", "run", DRILL, "--metrics-port", port)
        with pytest.raises(UsageError, match=f"--metrics-port {port}: cannot listen on 127.0.0.1:{port} .*another port"):
            server.serving(Live(Verdict(kind="drill run")), server.LOOPBACK, port).__enter__()
    assert said.code == 3
    assert said.sentence.startswith(f"--metrics-port {port}: cannot listen on 127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics-linger", 5), "need --metrics-port"),
        (("--metrics-host", "0.0.0.0"), "need --metrics-port"),
        (("--metrics-port", 0, "--engine", "virtual"), "--engine virtual simulates time"),
        (("--otlp-endpoint", "http://127.0.0.1:4318", "--engine", "fleet"), "--engine fleet simulates time"),
        (("--otlp-endpoint", "collector:4318"), "expected an address such as http://127.0.0.1:4318"),
        (("--metrics-port", 0, "--metrics-host", "nowhere.invalid"), "cannot listen on nowhere.invalid:0"),
    ],
)
def test_misuse_is_refused_before_anything_starts(options: tuple[object, ...], words: str, tmp_path: Path) -> None:
    said = stormgate_here("drill", "run", DRILL, "--out", tmp_path, *options)
    assert said.code == 3
    assert words in said.sentence
    assert list(tmp_path.iterdir()) == []


def test_defect_in_live_metrics_is_one_warning_and_never_ends_a_run() -> None:
    warned: list[str] = []
    live = Live(Verdict(kind="drill run"), warned.append)
    header: Any = type("Header", (), {"drill": DRILL})()  # lacks what figures need
    for _ in range(3):
        live.observe(header, pa.table({}))
    (sentence,) = warned
    assert sentence.startswith(f"the live metrics of {DRILL} are incomplete (")
    assert sentence.endswith("the verdict is not affected")


def test_slow_client_does_not_hold_up_the_others() -> None:
    with served(Live(Verdict(kind="drill run"))) as url, socket.socket() as silent:
        silent.connect((server.LOOPBACK, int(url.rpartition(":")[2])))
        silent.send(b"GET /metrics")
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(get(f"{url}/verdict.json").status_code))
        thread.start()
        thread.join(LIMIT_S)
        assert answers == [200]
