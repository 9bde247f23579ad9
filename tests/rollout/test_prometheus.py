"""Figures from a Prometheus: a hand-written one that answers anything, and a real one that scrapes a mock."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from drills.rollout.servers import prometheus as rollout_prometheus
from drills.rollout.servers.prometheus import PrometheusSource
from drills.rollout.setup.records import Snapshot
from drills.runs.targets import Prometheus
from sim.base.clocks import SteppedClock, SystemClock
from sim.base.redaction import Redactor
from tests.commands import LIMIT_S, Said, free_port, stormgate
from tests.pages import Asked, Page, pages
from tests.prometheus_server import prometheus
from tests.served import Served, serving

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)
FAILED, PUBLISHED, WINDOW = "mirror.failed_total", "mirror.published_total", "delivery.max_replay_lag"
TOKEN = "pr0metheus-s3cret"


def success(*values: object, kind: str = "vector", at_s: float = NOW.timestamp(), **more: object) -> bytes:
    series = [{"metric": {"instance": str(n)}, "value": [at_s, value]} for n, value in enumerate(values)]
    result = series if kind in ("vector", "matrix") else [at_s, *values]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more}).encode()


def about(url: str, expressions: dict[str, str], max_age_s: float = 150.0, token: str = "") -> PrometheusSource:
    return PrometheusSource(Prometheus(url, token, max_age_s, expressions), Redactor([token]))


def asked(answers: dict[str, Page]) -> tuple[Snapshot, bytes]:
    """What comes of one figure for each of these answers, by the figure's name."""

    def answer(request: Asked) -> Page:
        return answers[parse_qs(urlsplit(request.path).query)["query"][0].removeprefix("0 + ")]

    with pages(answer) as url:
        return about(url, {name: f"0 + {name}" for name in answers}, token=TOKEN).ask(3, "hold", False, SteppedClock(NOW))


def page(body: bytes, **more: object) -> Page:
    return Page(body, date=DATE, **more)  # type: ignore[arg-type]


# --- any answer -------------------------------------------------------------------------------------


def test_each_expression_is_one_metric() -> None:
    snapshot, body = asked({FAILED: page(success("3")), WINDOW: page(success("12.5", kind="scalar"))})
    assert (snapshot.outcome, snapshot.source, snapshot.n, snapshot.profile) == ("ok", "prometheus", 3, "")
    assert snapshot.metrics == {FAILED: 3.0, WINDOW: 12.5}
    assert (snapshot.missing, snapshot.notes, snapshot.clock_skew_s) == ((), (), 0.0)
    assert snapshot.generated_at == "2026-03-02T09:00:00.000Z"
    assert snapshot.url.endswith("/api/v1/query")
    kept = json.loads(body)
    assert kept[FAILED]["query"] == f"0 + {FAILED}"
    assert json.loads(kept[FAILED]["answer"])["data"]["result"][0]["value"] == [NOW.timestamp(), "3"]


GOOD = page(success("1"))
OLD = page(success("1", at_s=NOW.timestamp() - 151))


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_value_that_is_not_finite_is_missing(value: str) -> None:
    snapshot, _ = asked({FAILED: page(success(value)), PUBLISHED: GOOD})
    assert (snapshot.outcome, snapshot.metrics, snapshot.missing) == ("ok", {PUBLISHED: 1.0}, (FAILED,))
    assert snapshot.notes[0].startswith(f"{FAILED}: is ")


def test_empty_result_is_missing_not_zero() -> None:
    snapshot, _ = asked({FAILED: page(success()), PUBLISHED: GOOD})
    assert (snapshot.outcome, snapshot.metrics, snapshot.missing) == ("ok", {PUBLISHED: 1.0}, (FAILED,))
    assert snapshot.notes == (f"{FAILED}: no series has it now",)
    assert asked({FAILED: page(success())})[0].outcome == "no_metrics"


def test_old_sample_is_missing() -> None:
    snapshot, _ = asked({FAILED: OLD, PUBLISHED: GOOD})
    assert (snapshot.outcome, snapshot.metrics, snapshot.missing) == ("ok", {PUBLISHED: 1.0}, (FAILED,))
    assert snapshot.notes == (f"{FAILED}: its sample was made 0:02:31 before it came",)
    assert asked({FAILED: OLD})[0].outcome == "stale_body"


@pytest.mark.parametrize(
    ("expression", "series"),
    [
        ("failed_total", "failed_total"),
        ("sum(failed_total)", "failed_total"),
        (' max ( failed_total{a="b", c=~"d|e"} ) ', 'failed_total{a="b", c=~"d|e"}'),
        ("job:failed:sum{}", "job:failed:sum{}"),
        ("sum(failed_total", ""),
        ("failed_total)", ""),
        ("sum by (a) (failed_total)", ""),
        ("sum(failed_total) + sum(others_total)", ""),
        ("failed_total[5m]", ""),
        ("failed_total offset 5m", ""),
        ("count(failed_total)", ""),
        ("12", ""),
    ],
)
def test_series_is_also_asked_for_the_time_of_its_samples(expression: str, series: str) -> None:
    seen = []

    def answer(request: Asked) -> Page:
        query = parse_qs(urlsplit(request.path).query)
        seen.append(query["query"][0])
        assert query["lookback_delta"] == ["150s"]
        return page(success(str(NOW.timestamp() - 151) if "timestamp" in seen[-1] else "3"))

    with pages(answer) as url:
        snapshot, _ = about(url, {FAILED: expression}).ask(1, "hold", False, SteppedClock(NOW))
    assert [query for query in seen if query != expression] == ([f"min(timestamp({series}))"] if series else [])
    assert snapshot.outcome == ("stale_body" if series else "ok")


@pytest.mark.parametrize(
    ("wrong", "outcome", "words"),
    [
        (page(success("1", "2")), "bad_expression", "gives 2 series, but expected one; sum() makes one"),
        (page(success("1", kind="matrix")), "bad_expression", "gives a matrix"),
        (page(success("x", kind="string")), "bad_expression", "gives a string"),
        (
            page(b'{"status": "error", "errorType": "bad_data", "error": "invalid parameter"}', status=400),
            "bad_expression",
            "bad_data: invalid parameter",
        ),
        (page(b'{"status": "error", "errorType": "execution", "error": "no"}', status=422), "bad_expression", "execution: no"),
        (page(success("1", warnings=["a store did not answer"])), "partial_result", "a store did not answer"),
        (page(success("-1")), "bad_numbers", "which it cannot be"),
        (page(success("1", at_s=NOW.timestamp() + 86_400)), "future_body", "1 day"),
        (page(success("1", at_s=1e300)), "not_prometheus", "has no time"),
        (page(success("many")), "not_prometheus", ""),
        (page(success(None)), "not_prometheus", ""),
        (page(b'{"status": "success"}'), "not_prometheus", ""),
        (page(b'{"status": "success", "data": {"resultType": "vector", "result": {}}}'), "not_prometheus", ""),
        (page(b'{"status": "success", "data": {"resultType": "vector", "result": [3]}}'), "not_prometheus", ""),
        (page(b"{}"), "not_prometheus", ""),
        (page(b"[]"), "not_prometheus", ""),
        (page(b"<html>sign in</html>"), "no_json", ""),
        (page(b"<html>no</html>", status=400), "http_400", ""),
        (page(b'{"status": "error", "errorType": "timeout", "error": "query timed out"}', status=503), "http_503", ""),
        (page(b"", status=401), "http_401", ""),
        (page(b"x" * 300_000), "too_large", ""),
    ],
)
def test_one_wrong_expression_makes_the_snapshot_unusable(wrong: Page, outcome: str, words: str) -> None:
    snapshot, _ = asked({FAILED: wrong, PUBLISHED: GOOD})
    assert snapshot.outcome == outcome
    assert FAILED in snapshot.missing
    assert words in " ".join(snapshot.notes)


def test_unreachable_and_endless_servers_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteppedClock(NOW)
    snapshot, _ = about(f"http://127.0.0.1:{free_port()}", {FAILED: "x"}).ask(1, "hold", False, clock)
    assert (snapshot.outcome, snapshot.status, snapshot.missing) == ("unreachable", None, (FAILED,))
    monkeypatch.setattr(rollout_prometheus, "LIMIT_S", 0.2)
    with pages(lambda _: page(success("1"), drip_s=0.1)) as url:
        assert about(url, {FAILED: "x"}).ask(1, "hold", False, clock)[0].outcome == "timeout"


def test_token_goes_to_the_server_only() -> None:
    seen: list[Asked] = []

    def answer(request: Asked) -> Page:
        seen.append(request)
        return page(b'{"status": "error", "errorType": "bad_data", "error": "' + TOKEN.encode() + b'"}', status=400)

    with pages(answer) as url:
        snapshot, body = about(url, {FAILED: "0 + x"}, token=TOKEN).ask(1, "hold", False, SteppedClock(NOW))
        about(url, {FAILED: "0 + x"}).ask(1, "hold", False, SteppedClock(NOW))
    assert seen[0].headers["authorization"] == f"bearer {TOKEN}"
    assert "authorization" not in seen[1].headers
    assert TOKEN not in str(snapshot) + body.decode()
    assert "[secret]" in snapshot.notes[0]


# --- a real one -------------------------------------------------------------------------------------

CONFIG = """
global: {{ scrape_interval: 1s, scrape_timeout: 1s }}
scrape_configs:
  - job_name: mock
    authorization: {{ credentials: mock-admin }}
    static_configs: [{{ targets: ["{mock}"] }}]
  - job_name: theirs
    static_configs: [{{ targets: ["{theirs}"], labels: {{ zone: a }} }}, {{ targets: ["{theirs}"], labels: {{ zone: b }} }}]
"""


@dataclass
class Scraped:
    """A Prometheus that scrapes a mock, and a page of ours twice, under two labels. `shut` takes that page away."""

    url: str
    mock: Served
    shut: Callable[[], None]

    def ask(self, expressions: dict[str, str], max_age_s: float = 150.0) -> Snapshot:
        return about(self.url, expressions, max_age_s).ask(1, "other", False, SystemClock())[0]

    def until(self, fits: Callable[[Snapshot], bool], expressions: dict[str, str], max_age_s: float = 150.0) -> Snapshot:
        """The first snapshot that fits; scrapes come when they come."""
        limit = time.monotonic() + LIMIT_S
        while not fits(snapshot := self.ask(expressions, max_age_s)):
            assert time.monotonic() < limit, snapshot
            time.sleep(0.1)
        return snapshot


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("prometheus")
    is_there = [True]

    def theirs(_: Asked) -> Page:
        old_ms = int((time.time() - 120) * 1000)
        text = f"# TYPE theirs_total counter\ntheirs_total 5\n# TYPE pushed gauge\npushed 7 {old_ms}\n"
        return Page(text.encode(), kind="text/plain; version=0.0.4") if is_there[0] else Page(b"", status=500)

    with pages(theirs) as page_url, serving(folder / "mock") as mock:
        config = CONFIG.format(mock=mock.url.removeprefix("http://"), theirs=page_url.removeprefix("http://"))
        with prometheus(config, folder) as url:
            run = mock.run()
            for n in range(3):
                assert mock.publish(run, n).status_code == 201
            assert mock.token_response("nobody's").status_code == 401
            yield Scraped(url, mock, lambda: is_there.__setitem__(0, False))


def test_real_prometheus_gives_what_the_runtime_counted(scraped: Scraped) -> None:
    expressions = {
        PUBLISHED: "sum(stormgate_mirror_published_total)",
        WINDOW: "max(stormgate_delivery_max_replay_lag)",
        "sync.token.issue.auth_failed": "stormgate_sync_token_issue_auth_failed_total",
        "sockets.reconnects_total": "sum(stormgate_sockets_reconnects_total)",
    }
    snapshot = scraped.until(lambda each: each.metrics.get(PUBLISHED) == 3, expressions)
    assert (snapshot.outcome, snapshot.status, snapshot.missing, snapshot.notes) == ("ok", 200, (), ())
    assert snapshot.metrics == {PUBLISHED: 3, WINDOW: 3, "sync.token.issue.auth_failed": 1, "sockets.reconnects_total": 0}


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("sum(", "bad_data: "),
        ("theirs_total", "gives 2 series"),
        ("sum(theirs_total) / on(zone) theirs_total", "bad_expression"),
        ("theirs_total[1m]", "gives a matrix"),
        ("'text'", "gives a string"),
        ("sum(theirs_total) by (zone)", "gives 2 series"),
    ],
)
def test_real_prometheus_explains_a_wrong_expression(scraped: Scraped, expression: str, words: str) -> None:
    scraped.until(lambda each: each.metrics == {PUBLISHED: 10}, {PUBLISHED: "sum(theirs_total)"})
    snapshot = scraped.ask({FAILED: expression, PUBLISHED: "sum(theirs_total)"})
    assert snapshot.metrics == {PUBLISHED: 10}
    assert FAILED in snapshot.missing
    if words == "bad_expression":  # what matches nothing is no mistake of its own
        assert snapshot.outcome in ("ok", words)
    else:
        assert snapshot.outcome == "bad_expression"
        assert words in snapshot.notes[0]


@pytest.mark.parametrize("expression", ["no_such_metric", "vector(0) / 0", "1 / 0", "sum(no_such_metric)"])
def test_value_that_a_real_prometheus_lacks_is_missing(scraped: Scraped, expression: str) -> None:
    snapshot = scraped.ask({FAILED: expression, WINDOW: "scalar(vector(4))"})
    assert (snapshot.outcome, snapshot.metrics, snapshot.missing) == ("ok", {WINDOW: 4}, (FAILED,))


def test_real_prometheus_old_sample_is_stale(scraped: Scraped) -> None:
    scraped.until(lambda each: each.metrics == {WINDOW: 14}, {WINDOW: "sum(pushed)"}, max_age_s=290)
    snapshot = scraped.ask({WINDOW: "sum(pushed)"}, max_age_s=60)
    assert (snapshot.outcome, snapshot.missing) == ("stale_body", (WINDOW,))


def test_server_that_is_not_prometheus_is_unusable(scraped: Scraped) -> None:
    assert about(scraped.mock.url, {FAILED: "x"}).ask(1, "other", False, SystemClock())[0].outcome == "http_404"


def test_target_with_prometheus_is_sampled_from_it(scraped: Scraped, tmp_path: Path) -> None:
    scraped.until(lambda each: each.metrics == {PUBLISHED: 3}, {PUBLISHED: "sum(stormgate_mirror_published_total)"})
    scraped.until(lambda each: each.outcome == "bad_expression", {PUBLISHED: "theirs_total"})
    said = snapshot_of(scraped, tmp_path, '"mirror.published_total" = "sum(stormgate_mirror_published_total)"')
    assert said.code == 0, said
    answer = json.loads(said.out)
    assert [each["source"] for each in answer["snapshots"]] == ["metrics", "control", "prometheus"]
    assert [each["metrics"]["mirror.published_total"] for each in answer["snapshots"][::2]] == [3, 3]
    bad = snapshot_of(scraped, tmp_path, '"mirror.published_total" = "theirs_total"')
    assert bad.code == 2, bad
    assert json.loads(bad.out)["snapshots"][2]["outcome"] == "bad_expression"


def snapshot_of(scraped: Scraped, folder: Path, expressions: str) -> Said:
    targets = folder / "theirs.toml"
    targets.write_text(
        f'[targets.theirs]\nkind = "mock"\nruntime_url = "{scraped.mock.url}"\ncontrol_url = "{scraped.mock.url}"\n'
        'admin_token_env = "THEIR_ADMIN"\n'
        f'[targets.theirs.prometheus]\nurl = "{scraped.url}"\n[targets.theirs.prometheus.expressions]\n{expressions}\n'
    )
    arguments = ("snapshot", "--target", "theirs", "--targets", targets, "--out", folder / "out", "--json")
    return stormgate(*arguments, THEIR_ADMIN="mock-admin")


def test_metric_that_is_no_longer_scraped_becomes_missing(scraped: Scraped) -> None:
    """The last test: it takes their page away."""
    gone = {PUBLISHED: "sum(theirs_total)"}
    scraped.until(lambda each: each.ok, gone)
    scraped.shut()
    snapshot = scraped.until(lambda each: not each.ok, gone)
    assert (snapshot.outcome, snapshot.missing) == ("no_metrics", (PUBLISHED,))
