"""Every kind of fault that an engine or a hook claims to have injected: it did nothing, too little, or to other clients."""

from typing import get_args

import msgspec
import pytest
from msgspec.structs import replace

from drills.judging.checks.base import Case
from drills.judging.checks.verdicts import State
from sim.drill.fault_bases import Fault
from sim.drill.fault_kinds import AnyFault
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.record.observations import Kind
from tests.drills.asking import ask
from tests.histories import STREAM, Story, good_storm, storm_drill

CLIENTS = 20
LASTS_S = 4.0
PARAMETERS: dict[str, object] = {"at_s": 0.0, "share": 0.5, "for_s": LASTS_S, "latency_ms": 300.0, "gone": "client"}
PARAMETERS |= {"after_bytes": 100, "delay_ms": 200.0, "codes": [1012], "waves": 1, "wave_s": 1.0, "by_s": 60.0}
PARAMETERS |= {"checkpoint": "kept", "concurrency": 1, "ahead_s": 60.0, "status": 503, "clients_share": 0.5}
PARAMETERS |= {"events_share": 0.5, "keep_events": 5, "events": 5, "down_s": LASTS_S}
KINDS = {kind.__struct_config__.tag: kind for kind in get_args(AnyFault)}
BY_OTHER_CHECKS = {  # what shows it instead, if an engine of ours claims it
    **dict.fromkeys(
        ("duplicate_deliveries", "jumble_deliveries", "malform_frames", "reorder_deliveries", "delay_deliveries"),
        "drill.faults_noticed",
    ),
    "rotate_keys": "drill.key_rotation",
    "concurrent_appends": "",  # stormgate's own publisher does it
    "lose_publish_answers": "",
    "skew_clocks": "",  # of clients, whose own clocks nobody else sees
    "skew_control": "",  # a token that is not yet valid may become so before it is used
    "slow_close": "",  # delays only what another fault ends
}


def claimed(kind: str, by_hook: bool = False) -> tuple[Story, Case]:
    """A run in which nothing was wrong, and this fault is said to have taken effect twenty times from 20 s to 24 s."""
    fields = {name: value for name, value in PARAMETERS.items() if name in KINDS[kind].__struct_fields__}
    fault: Fault = msgspec.convert({"kind": kind, **fields}, KINDS[kind])
    story = good_storm(CLIENTS).marked()
    story = story.without(
        lambda row: row.kind.value.startswith("fault_") or row.kind in (Kind.DISCONNECTED, Kind.PUBLISH_TRIED)
    )
    for number in range(1, 331):
        sent = {"value": 2.0, "detail": "acknowledged", "marker": number}
        story.tell(2.0 + number * 0.07, Kind.PUBLISH_TRIED, -1, STREAM, number, **sent)
    case = Case(replace(storm_drill(CLIENTS), faults=(fault,)), story.history())
    plan = [{**each.describe(), **({"by": "hook"} if by_hook else {})} for each in case.planned.values()]
    story.header = {**story.header, "capabilities": msgspec.to_builtins(CAPABILITIES), "plan": plan}
    for index in case.planned:
        story.tell(20.0, Kind.FAULT_INJECTED, attempt=index, detail=kind)
        story.tell(20.0 + LASTS_S, Kind.FAULT_OBSERVED, attempt=index, detail=kind, value=float(CLIENTS))
        story.tell(20.0 + LASTS_S, Kind.FAULT_REVERTED, attempt=index, detail=kind)
    return story, case


def judged(story: Story, case: Case, name: str = "drill.faults_observed") -> State:
    story.rows.sort(key=lambda row: row.t)
    return ask(name, story, case.drill).state


@pytest.mark.parametrize("kind", KINDS)
def test_hook_that_does_nothing_is_an_error(kind: str):
    assert judged(*claimed(kind, by_hook=True)) is State.ERROR


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BY_OTHER_CHECKS])
def test_engine_that_does_nothing_is_an_error(kind: str):
    assert judged(*claimed(kind)) is State.ERROR


@pytest.mark.parametrize(("kind", "check"), [item for item in BY_OTHER_CHECKS.items() if item[1]])
def test_engine_that_does_nothing_fails_a_check_of_its_kind(kind: str, check: str):
    story, case = claimed(kind)
    if kind == "rotate_keys":
        story.tell(20.0, Kind.KEYS_ROTATED, detail="k2").tell(23.0, Kind.TOKEN_MINTED, 3, value=4.0, detail="k1")
    assert judged(story, case, check) is State.FAIL


@pytest.mark.parametrize("kind", KINDS)
def test_fault_that_does_not_end_is_an_error(kind: str):
    story, case = claimed(kind)
    story = story.without(lambda row: row.kind is Kind.FAULT_REVERTED)
    assert "was not reverted" in ask("drill.faults_observed", story, case.drill).reason


# --- clients ----------------------------------------------------------------------------------------------

SHOWN_BY = {  # what is told of a client that the fault hit
    "drop_sockets": (Kind.DISCONNECTED, "fault:network:retry"),
    "reset_links": (Kind.DISCONNECTED, "network:network:retry"),
    "half_open_links": (Kind.DISCONNECTED, "client:network:retry"),
    "rolling_deploy": (Kind.DISCONNECTED, "server:1000:retry"),
    "close_connections": (Kind.DISCONNECTED, "server:1012:retry"),
    "restart_clients": (Kind.RESTARTED, ""),
    "forget_tokens": (Kind.TOKEN_FORGOTTEN, ""),
    "revoke_sessions": (Kind.SESSION_REVOKED, ""),
}


def hit(kind: str, *clients: int) -> State:
    """The verdict where the fault shows on these clients."""
    story, case = claimed(kind)
    story = story.changed(lambda row: row.kind is Kind.FAULT_OBSERVED, value=float(len(case.planned[0].clients)))
    shown, end = SHOWN_BY[kind]
    for client in clients:
        story.tell(20.1, shown, client, detail="network" if end else "")
        story.tell(20.1, Kind.ENDED, client, detail=end) if end else None
    return judged(story, case)


@pytest.mark.parametrize("kind", SHOWN_BY)
def test_fault_is_believed_if_it_hit_its_clients_and_not_half_of_them_or_others(kind: str):
    named = claimed(kind)[1].planned[0].clients
    assert hit(kind, *named) is State.PASS
    assert hit(kind, *named[: len(named) // 2]) is State.ERROR
    assert hit(kind, *(client for client in range(CLIENTS) if client not in named)) is State.ERROR


@pytest.mark.parametrize("kind", ["stop_reading", "stall_links"])
def test_client_that_still_reads_was_not_silenced(kind: str):
    story, case = claimed(kind)
    named = case.planned[0].clients
    for silenced, expected in ((named, State.PASS), (named[:5], State.ERROR)):
        quiet = story.without(lambda row, silenced=silenced: row.client in silenced and 20.0 < row.t < 24.0)
        assert judged(quiet, case) is expected


# --- switches of the server -------------------------------------------------------------------------------

SEEN = {  # what one effect shows to its client
    "slow_mint": (Kind.TOKEN_MINTED, "", 200.0),
    "mint_outage": (Kind.TOKEN_REFUSED, "unavailable", 5.0),
    "slow_publishes": (Kind.PUBLISHED, "", 200.0),
    "fail_publishes": (Kind.PUBLISH_TRIED, "refused", 5.0),
}


@pytest.mark.parametrize("kind", SEEN)
def test_half_of_what_the_server_counted_must_show(kind: str):
    for count, expected in ((CLIENTS // 2, State.PASS), (CLIENTS // 2 - 1, State.ERROR)):
        story, case = claimed(kind)
        for number in range(count):
            shown, detail, value = SEEN[kind]
            story.tell(21.0, shown, 3, STREAM, 400 + number, value=value, detail=detail)
        assert judged(story, case) is expected


def test_one_gap_and_one_stale_answer_show_many_effects():
    story, case = claimed("skip_deliveries")
    assert judged(story.tell(21.0, Kind.GAP, 3, STREAM, 280, value=270.0, detail="live"), case) is State.PASS
    story, case = claimed("shrink_replay_budget")
    assert judged(story.tell(21.0, Kind.STALE, 3, STREAM, 3, value=50.0), case) is State.PASS


def test_publish_that_was_stored_but_refused_counts_as_one_without_an_answer():
    story, case = claimed("fail_publishes")
    for number in range(CLIENTS):
        story.tell(21.0, Kind.PUBLISH_TRIED, 3, STREAM, 400 + number, value=5.0, detail="unknown")
    assert judged(story, case) is State.PASS


def test_budget_of_a_server_that_says_nothing_of_staleness_need_not_show():
    story, case = claimed("shrink_replay_budget")
    story.header["capabilities"]["stale"] = "silent"
    assert judged(story, case) is State.PASS


@pytest.mark.parametrize("kind", ["shrink_window", "recreate_log"])
def test_what_was_deleted_must_be_gone(kind: str):
    story, case = claimed(kind)
    head = max(row.seq for row in story.rows if row.kind is Kind.PUBLISHED and row.t < 20.0)
    low = head - 5 if kind == "shrink_window" else head
    auditors = case.history.header.auditor

    def above(floor: int) -> Story:
        """The auditor gets what is above the floor."""
        kept = story.without(lambda row: row.client == auditors and row.kind is Kind.APPLIED and row.seq <= floor)
        return kept.changed(lambda row: row.client == auditors and row.kind is Kind.REBOOTSTRAPPED, seq=floor)

    assert judged(above(low), case) is State.PASS
    assert judged(above(low - 1), case) is State.ERROR
    if kind == "shrink_window":
        story.header["own_streams"] = ["runtime.run.9.events", STREAM]  # another one was trimmed
        assert judged(story, case) is State.PASS
