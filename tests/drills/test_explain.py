"""`stormgate drill explain` and `drill events`: the first events of each failure, who is blamed, and the rows behind them."""

import json
from pathlib import Path

import msgspec
import pytest

from drills.cli.main import run_words
from drills.judging import explanations, gates
from drills.judging.checks.base import Case
from drills.judging.explanations import Event, Explanation
from drills.judging.row_query import RowQuery, as_values, matching
from sim.analysis.invariants.registry import INVARIANTS
from sim.base.errors import UsageError
from sim.record.observations import Kind
from tests.drills.asking import THRESHOLDS
from tests.histories import STREAM, Story, good_storm, storm_drill

CLIENTS = 20
CHECKS = ("delivery.dropped_deliveries", "ux.integrity")


def explained(story: Story, *checks: str) -> dict[str, Explanation]:
    drill = storm_drill(CLIENTS, checks or CHECKS)
    verdict = gates.judge(drill, story.history(), THRESHOLDS, "observations.parquet")
    return {each.name: each for each in explanations.explain(Case(drill, story.history()), verdict)}


def first(story: Story, name: str) -> Event:
    return explained(story)[name].events[0]


def storm() -> Story:
    return good_storm(CLIENTS).marked()


def test_every_invariant_has_somebody_to_blame():
    assert set(explanations.blame()["invariants"]) == set(INVARIANTS)


def test_loss_tells_the_event_s_life_and_the_victim_s_connection():
    lost = storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 7 and row.marker == 100)
    event = first(lost, "silent_loss")
    assert (event.client, event.stream, event.position, event.marker) == (7, STREAM, 100, 100)
    assert event.seen == "never received"
    assert event.blamed == "server"
    told = "\n".join(event.story)
    assert "9.000 s: acknowledged" in told
    assert "the first of 19 of 20" in told
    assert "client 7 subscribed" in told
    assert event.query == f"--client 7 --stream {STREAM} --around 100"


@pytest.mark.parametrize(
    ("kind", "blamed"),
    [(Kind.DUPLICATE_DROPPED, "client"), (Kind.HASH_MISMATCH, "client or server"), (Kind.WITHHELD, "fault skip_deliveries")],
)
def test_loss_blames_who_had_the_event_last(kind: Kind, blamed: str):
    lost = storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 7 and row.marker == 100)
    assert first(lost.tell(9.1, kind, 7, STREAM, 100, marker=100), "delivery.dropped_deliveries").blamed == blamed


def test_copy_behind_a_gap_is_the_servers_and_the_story_has_it():
    lost = storm().without(lambda row: row.kind is Kind.APPLIED and row.client == 7 and row.marker == 100)
    event = first(lost.tell(9.1, Kind.GAP, 7, STREAM, 100, marker=100, value=98.0, detail="live"), "silent_loss")
    assert (event.blamed, event.seen) == ("server", "received behind a gap only")
    assert "9.100 s: client 7 gap (live), value 98" in event.story


def test_event_that_nobody_has_was_applied_by_no_client():
    lost = storm().without(lambda row: row.kind is Kind.APPLIED and row.marker == 100)
    found = explained(lost)["silent_loss"]
    assert [event.client for event in found.events] == [0, 1, 2, 3, 4]
    assert found.reason.startswith("20 times; the first: ")
    assert found.events[0].story[:3] == ("8.998 s: published", "9.000 s: acknowledged", "applied by no client")


def test_story_has_the_connection_just_before_and_after():
    story = storm()
    for t in (40.0, 41.0, 42.0, 43.0, 44.0, 45.0):
        story.tell(t, Kind.DISCONNECTED, 3, detail="network").tell(t + 0.5, Kind.SUBSCRIBED, 3, value=10.0)
    (event,) = [each for each in explained(story)["drill.undisturbed"].events if each.t == 42.0]
    assert [line.partition(":")[0] for line in event.story] == [
        "41.000 s",
        "41.500 s",
        "42.000 s",
        "42.500 s",
        "43.000 s",
        "43.500 s",
    ]
    assert event.query == "--client 3 --since 41.000 --until 43.000"


def test_connection_that_the_client_gave_up_says_why():
    story = storm().tell(40.0, Kind.DISCONNECTED, 3, detail="network").tell(40.0, Kind.ENDED, 3, detail="client:silence:retry")
    event = first(story, "drill.undisturbed")
    assert "gave the connection up" in event.why
    assert "(the record says: client:silence)" in event.why


def test_the_worst_of_measured_values_come_first():
    story = storm().changed(lambda row: row.kind is Kind.REPLAY_COMPLETED, value=9000.0)
    story = story.changed(lambda row: row.kind is Kind.REPLAY_COMPLETED and row.client == 4, value=9001.0)
    found = explained(story, *CHECKS, "replay.bootstrap_ms")["replay.bootstrap_ms"]
    assert {event.client for event in found.events[:2]} == {4}
    assert found.events[0].seen == "replay completed, value 9001"
    assert (len(found.events), found.count) == (explanations.MAX_EVENTS, 2 * CLIENTS)


def test_check_that_no_single_event_decides_has_none():
    found = explained(storm().without(lambda row: row.detail == "recovery"))["drill.phases"]
    assert (found.state, found.count, found.events) == ("error", -1, ())


def test_lost_connection_names_its_owner():
    story = storm().tell(40.0, Kind.DISCONNECTED, 3, detail="network").tell(40.0, Kind.ENDED, 3, detail="server:1000:retry")
    event = first(story, "drill.undisturbed")
    assert (event.client, event.blamed) == (3, "server")
    assert "server:1000" in event.why
    assert any("disconnected (network), by the fault drop_sockets #0" in line for line in event.story)


def test_five_events_are_shown_in_order_of_time_and_all_are_counted():
    story = storm()
    for client in range(8):
        story.tell(48.0 - client, Kind.DISCONNECTED, client, detail="network")
    found = explained(story)["drill.undisturbed"]
    assert [event.client for event in found.events] == [7, 6, 5, 4, 3]
    assert found.count == 8
    assert found.query == "--kind disconnected"


def test_healthy_run_has_nothing_to_explain():
    assert set(explained(storm())) <= {"ux.integrity"}, "a small fleet has too few samples"


# --- rows -------------------------------------------------------------------------------------------


def rows(query: RowQuery) -> list[dict[str, object]]:
    history = storm().history()
    return list(as_values(history, matching(history, query), 1000))


def test_rows_are_chosen_by_client_stream_position_kind_and_time():
    found = rows(RowQuery(client=7, stream="run.1", around=100, kinds=("applied",)))
    assert [row["position"] for row in found] == list(range(95, 106))
    assert {row["client"] for row in found} == {7}
    assert rows(RowQuery(kinds=("phase",), since_s=20.0, until_s=25.0)) == [
        {"t": 20.0, "kind": "phase", "detail": "fault"},
        {"t": 25.0, "kind": "phase", "detail": "recovery"},
    ]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (RowQuery(kinds=("aplied",)), "--kind aplied: there is no such kind"),
        (RowQuery(client=77), "--client 77: has no rows. The fleet has clients 0 to 19"),
        (RowQuery(around=5), "--around needs --stream"),
        (RowQuery(stream="rum"), f"--stream rum: there is no such stream. There are: {STREAM}"),
    ],
)
def test_mistake_in_a_query_says_what_there_is(query: RowQuery, message: str):
    with pytest.raises(UsageError, match=message):
        rows(query)


def test_commands_read_a_drill_s_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    drill, folder = storm_drill(CLIENTS, CHECKS), tmp_path / "run" / "drills" / "storm"
    folder.mkdir(parents=True)
    (folder / "drill.json").write_bytes(msgspec.json.encode(drill, order="deterministic"))
    storm().tell(40.0, Kind.DISCONNECTED, 3, detail="network").write(folder, drill)
    assert run_words(["drill", "explain", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "drill.undisturbed: fail" in told
    assert "options   --client 3" in told
    assert run_words(["drill", "explain", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert "drill.undisturbed" in {each["name"] for each in found}
    assert run_words(["drill", "events", str(folder), "--client", "3", "--kind", "disconnected"]) == 0
    told = capsys.readouterr().out
    assert "storm: 2 rows" in told
    assert "40.000  disconnected" in told
    assert run_words(["drill", "events", str(tmp_path)]) == 3
    assert "no drill was recorded here" in capsys.readouterr().err
