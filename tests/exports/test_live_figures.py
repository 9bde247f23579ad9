"""Figures that are added up while a drill runs agree with the judged ones, in whatever pieces the record came."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from drills.exports import figures as live_figures
from drills.exports.figures import MAX_CODES, Figures, Histogram, Tracker
from drills.runs import recorded_runs
from sim.analysis import endings, reconnects, samples
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.parquet import Recorded
from tests.commands import sets, stormgate_here
from tests.storms import SHORT, SMALL

# A storm; clients that apply events again after their process died; a fault that ends with the run; ends of single streams.
DRILLS = ("reconnect_storm", "checkpoint_damage", "clock_skew", "session_revocation")


@dataclass(frozen=True)
class Recording:
    """One recorded run, and its table in order of time."""

    history: History
    table: pa.Table

    def tracked(self, seconds: float) -> Tracker:
        """Take the record in pieces of so many seconds."""
        tracker, t = Tracker(self.history.header), self.table.column("t").to_numpy()
        edges = np.searchsorted(t, np.arange(0.0, t[-1] + seconds, seconds)).tolist()
        for begin, end in zip(edges, [*edges[1:], len(t)], strict=True):
            tracker.take(self.table.slice(begin, end - begin))
        return tracker


@pytest.fixture(scope="module", params=DRILLS)
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("figures")
    overrides = sets(*SMALL, *SHORT[request.param])
    stormgate_here("drill", "run", request.param, "--engine", "virtual", "--out", out, *overrides)
    (folder,) = [path for path in out.iterdir() if (path / "drills").is_dir()]
    (run,) = recorded_runs.runs_in(Path(folder))
    table = Recorded(run.folder).table().combine_chunks()
    order = np.argsort(table.column("t").to_numpy(), kind="stable")
    return Recording(run.history, table.take(pa.array(order)))


@pytest.mark.parametrize("seconds", [0.3, 1000.0])
def test_live_figures_agree_with_the_judged_ones(recording: Recording, seconds: float) -> None:
    history, found = recording.history, recording.tracked(seconds).figures
    latency_s = samples.publish_to_apply_ms(history, Ledger(history)) / 1000.0
    again = np.concatenate([np.zeros(0), *(episode.live_s for episode in reconnects.episodes(history))])
    assert found.latency_s.n == len(latency_s) > 0
    assert found.latency_s.sum == pytest.approx(latency_s.sum())
    assert found.recovery_s.n == int(np.isfinite(again).sum())
    assert found.recovery_s.sum == pytest.approx(again[np.isfinite(again)].sum())
    assert found.recovering == int((~np.isfinite(again)).sum())
    ends: Counter[tuple[str, str]] = Counter()
    for each in endings.endings(history):
        ends[each.by, each.code] += each.count
    assert found.endings == ends
    assert found.disconnects == history.detail_counts(history.fleet(Kind.DISCONNECTED))
    assert found.counts["events_applied"] == len(history.fleet(Kind.APPLIED))
    assert (found.phase, found.live, +found.faults) == ("end", history.header.clients, Counter())


def test_no_histogram_ever_shrinks(recording: Recording) -> None:
    """A counter that goes down would be a restart to Prometheus."""
    tracker, t, before = Tracker(recording.history.header), recording.table.column("t").to_numpy(), (0, 0)
    for begin, end in zip(edges := np.searchsorted(t, np.arange(0.0, t[-1] + 0.5, 0.5)).tolist(), edges[1:], strict=False):
        tracker.take(recording.table.slice(begin, end - begin))
        now = tracker.figures.recovery_s.n, tracker.figures.latency_s.n
        assert now >= before
        assert now[0] >= before[0]
        assert now[1] >= before[1]
        before = now


@pytest.mark.parametrize("recording", ["checkpoint_damage"], indirect=True)
def test_restarted_clients_count_an_event_once(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = recording.tracked(1.0).figures.latency_s.n
    monkeypatch.setattr(live_figures, "_may_restart", lambda header: False)
    assert recording.tracked(1.0).figures.latency_s.n > expected, "the recording has no event that was applied twice"


def test_bucket_includes_its_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(np.array([0.0, 1.0, 1.5, 2.0, 2.5]))
    assert (histogram.counts.tolist(), histogram.n, histogram.sum) == ([2, 2, 1], 5, 7.0)


def test_codes_that_a_server_invents_are_counted_together() -> None:
    found = Figures()
    for number in range(3 * MAX_CODES):
        live_figures._add(found.endings, ("server", f"{number}"), 1, ("server", "other"))
    assert found.endings.total() == 3 * MAX_CODES
    assert len(found.endings) == MAX_CODES + 1
    assert found.endings["server", "other"] == 2 * MAX_CODES


def test_second_run_of_a_drill_adds_to_the_first() -> None:
    first, second = Figures(live=3, phase="end"), Figures(live=5, phase="steady")
    for each in (first, second):
        each.latency_s.add(np.array([0.1]))
        each.counts["events_applied"] += 7
    first.merge(second)
    assert (first.latency_s.n, first.counts["events_applied"], first.live, first.phase) == (2, 14, 5, "steady")
