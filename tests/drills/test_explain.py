"""`stormgate drill explain` and `drill events`: the first events of each failure, who is blamed, and the rows behind them."""

import json
import tomllib
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
from tests.drills.test_every_answer import DRILL, troubled
from tests.histories import GATED, STREAM, Story, good_storm, storm_drill

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


def test_row_has_the_columns_that_it_uses():
    story = Story(2).tell(1.23456789, Kind.APPLIED, 0, "a.b", 0, marker=0, detail="h")
    story.tell(2.0, Kind.BACKOFF, 1, attempt=2, value=0.0).tell(3.0, Kind.PHASE, detail="end").tell(4.0, Kind.GAP, 0, "a.c", 7)
    history = story.history()
    found = [
        {"t": 1.234568, "kind": "applied", "client": 0, "position": 0, "marker": 0, "stream": "a.b", "detail": "h"},
        {"t": 2.0, "kind": "backoff", "client": 1, "attempt": 2, "value": 0.0},
        {"t": 3.0, "kind": "phase", "detail": "end"},
        {"t": 4.0, "kind": "gap", "client": 0, "position": 7, "stream": "a.c"},
    ]
    for limit in (0, 1, 3, 4, 9):
        assert list(as_values(history, matching(history, RowQuery()), limit)) == found[:limit]
    for query, places in (
        (RowQuery(since_s=2.0, until_s=3.0), (1, 2)),
        (RowQuery(since_s=3.01), (3,)),
        (RowQuery(until_s=1.9), (0,)),
        (RowQuery(stream="a.c"), (3,)),
        (RowQuery(stream=".b"), (0,)),
        (RowQuery(stream="a.b", around=5), (0,)),
        (RowQuery(stream="a.b", around=6), ()),
        (RowQuery(stream="a.c", around=2), (3,)),
        (RowQuery(stream="a.c", around=12), (3,)),
        (RowQuery(stream="a.c", around=13), ()),
        (RowQuery(kinds=("gap", "phase")), (2, 3)),
        (RowQuery(client=1), (1,)),
        (RowQuery(client=0, kinds=("gap",)), (3,)),
    ):
        assert list(as_values(history, matching(history, query), 9)) == [found[place] for place in places], query


def test_positions_around_the_first_are_no_rows_without_a_position():
    history = Story(1).tell(1.0, Kind.APPLIED, 0, "a", marker=1).tell(1.0, Kind.APPLIED, 0, "a", 3).history()
    assert matching(history, RowQuery(stream="a", around=2)).seq.tolist() == [3]


def test_name_of_several_streams_is_ambiguous_unless_it_is_whole():
    story = Story(1)
    for number in range(12):
        story.tell(1.0, Kind.APPLIED, 0, f"s{number:02}", 1)
    history = story.tell(1.0, Kind.APPLIED, 0, "s", 2).history()
    assert matching(history, RowQuery(stream="s")).seq.tolist() == [2]
    with pytest.raises(UsageError, match=r"^--stream s0: 10 streams contain it\. There are: s00, s01, .*s09\.$"):
        matching(history, RowQuery(stream="s0"))
    with pytest.raises(UsageError, match=r"^--stream x: there is no such stream\. There are: s, s00, .*s08\.$"):
        matching(history, RowQuery(stream="x"))
    with pytest.raises(UsageError, match=r"There are: none\.$"):
        matching(Story(1).tell(1.0, Kind.SUBSCRIBED, 0).history(), RowQuery(stream="x"))


# --- a troubled drill, explained as a whole -----------------------------------------------------------

EXPLAINED = tomllib.loads(Path(__file__).with_name("explained.toml").read_text())


def in_lines(found: Explanation) -> list[str]:
    """State, number of rows and query; of each event its time, place, what was seen, who is blamed, query, lines of story."""
    lines = [f"{found.state}, {found.count}: {found.query}"]
    for event in found.events:
        place = ", ".join(explanations.where(event))
        lines.append(f"{event.t:.3f} s, {place}: {event.seen}; {event.blamed}; {event.query}; {len(event.story)}")
    return lines


def test_troubled_drill_is_explained():
    drill = storm_drill(4, GATED, stale_reasons=DRILL.expect.stale_reasons, negative_clients=DRILL.expect.negative_clients)
    history = troubled().marked().history()
    verdict = gates.judge(drill, history, THRESHOLDS, "observations.parquet")
    found = {each.name: in_lines(each) for each in explanations.explain(Case(drill, history), verdict)}
    assert found == EXPLAINED


def test_connection_in_a_story_says_who_ended_it():
    lost = storm().tell(40.0, Kind.DISCONNECTED, 3, detail="network").tell(41.0, Kind.DISCONNECTED, 3, detail="network")
    lost.tell(40.0, Kind.ENDED, 3, detail="server:1012:retry", attempt=1012)
    (event,) = [each for each in explained(lost)["drill.undisturbed"].events if each.t == 40.0]
    assert event.why == "it closed the connection, and no fault explains that (the record says: server:1012)"
    assert event.story[-2:] == (
        "40.000 s: client 3 disconnected (network), by the server",
        "41.000 s: client 3 disconnected (network), by the server or network",
    )


def test_events_that_the_log_lost_come_in_the_order_of_their_acknowledgement():
    lost = (300, 7, 200)
    story = storm().without(lambda row: row.kind is Kind.APPLIED and row.marker in lost)
    found = explained(story)["acknowledged_lost"]
    assert [(event.client, event.position, event.blamed) for event in found.events] == [
        (-1, seq, "server") for seq in sorted(lost)
    ]
    assert found.events[0].story[2] == "applied by no client"
    assert found.events[0].query == f"--stream {STREAM} --around 7"


@pytest.mark.parametrize("name", ["log_recreated", "retried_terminal", "ignored_hint", "reconnected_too_fast"])
def test_invariants_of_more_than_single_rows_show_some(name: str):
    story = storm()
    if name == "log_recreated":
        story.publish(1, t=40.0, marker=900).tell(40.1, Kind.APPLIED, 3, STREAM, 1, marker=900)
    else:
        said = "server:4500:terminal" if name == "retried_terminal" else "server:1013:wait"
        story.tell(40.0, Kind.DISCONNECTED, 3, detail="network")
        story.tell(40.0, Kind.ENDED, 3, detail=said, value=9000.0 if name == "ignored_hint" else float("nan"))
        story.tell(40.0, Kind.BACKOFF, 3, attempt=1, value=9000.0).tell(41.0, Kind.CONNECT_ATTEMPTED, 3, attempt=1)
    found = explained(story)[name]
    assert [(event.client, event.t) for event in found.events] == [(3, 40.1 if name == "log_recreated" else 41.0)]
