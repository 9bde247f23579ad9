"""Which clients and events each misbehaviour affects, at the boundaries of its share: a draw below it is affected."""

import math
from collections.abc import Callable

import msgspec
import pytest

from sim.protocols.events import Hash, Item, Position
from sim.protocols.payloads import payload_hash
from sim.server import misbehaviours
from sim.server.misbehaviours import DEFECT_CLIENTS, DEFECT_EVENTS, WAITING_EVENTS, disfigure
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import REPLAY_BUDGET_EXCEEDED, RETENTION_FLOOR_BREACH, Window

Draws = Callable[..., None]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    """Sets what is drawn for each purpose, 1.0 for others."""

    def are(**by_purpose: float) -> None:
        monkeypatch.setattr(misbehaviours, "draw", lambda seed, purpose, *key: by_purpose.get(purpose, 1.0))

    return are


def switches(*defects: str, **fields: object) -> Switches:
    return Switches(defects=set(defects), **fields)  # type: ignore[arg-type]


# Of each misbehaviour: what draws below these shares it needs, and whether it needs a live event.
SKIPS = [
    ({"skip_delivery"}, {}, {"skip": DEFECT_CLIENTS, "skip_event": DEFECT_EVENTS}, False),
    ({"unanswered_to_some"}, {}, {"unanswered": DEFECT_EVENTS, "unanswered_to": DEFECT_CLIENTS}, False),
    ({"announce_before_commit"}, {}, {"announce": DEFECT_EVENTS}, True),
    (set(), {"skip_live_clients": 0.5, "skip_live_events": 0.2}, {"skip_live": 0.5, "skip_live_event": 0.2}, True),
]


@pytest.mark.parametrize(("defects", "fields", "shares", "only_live"), SKIPS)
def test_event_is_skipped_for_the_share_of_clients_and_events(
    draws: Draws, defects: set[str], fields: dict[str, float], shares: dict[str, float], only_live: bool
):
    chosen, below = switches(*defects, **fields), {purpose: share - 0.001 for purpose, share in shares.items()}
    draws(**below)
    assert misbehaviours.is_skipped(chosen, 1, 2, live=True)
    assert misbehaviours.is_skipped(chosen, 1, 2, live=False) is not only_live
    assert not misbehaviours.is_skipped(switches(), 1, 2, live=True)
    assert misbehaviours.may_skip(chosen, 1)
    assert not misbehaviours.treats_alike(chosen)
    for purpose, share in shares.items():
        draws(**{**below, purpose: share})
        assert not misbehaviours.is_skipped(chosen, 1, 2, live=True), purpose


def test_a_client_that_no_draw_selects_loses_nothing(draws: Draws):
    draws()
    assert not misbehaviours.may_skip(switches("skip_delivery", skip_live_clients=0.5), 1)
    assert not misbehaviours.may_skip(switches(), 1)
    assert misbehaviours.may_skip(switches(skip_live_clients=1.1), 1)
    assert misbehaviours.treats_alike(switches("duplicate_delivery", "wrong_payload_hash"))
    assert not misbehaviours.treats_alike(switches("two_versions"))


@pytest.mark.parametrize(
    ("defect", "purpose", "share", "is_hit"),
    [
        ("unanswered_to_some", "unanswered", DEFECT_EVENTS, lambda chosen: misbehaviours.is_unanswered(chosen, 1)),
        ("wait_for_company", "wait", WAITING_EVENTS, lambda chosen: misbehaviours.waits(chosen, "t", 1)),
        ("cross_topic_leak", "leak", DEFECT_EVENTS, lambda chosen: misbehaviours.leaks(chosen, 1)),
        ("two_versions", "version", DEFECT_CLIENTS, lambda chosen: misbehaviours.has_own_version(chosen, 1)),
    ],
)
def test_choice_of_a_defect(draws: Draws, defect: str, purpose: str, share: float, is_hit: Callable[[Switches], bool]):
    draws(**{purpose: share - 0.001})
    assert is_hit(switches(defect))
    assert not is_hit(switches())
    draws(**{purpose: share})
    assert not is_hit(switches(defect))


def test_shares_are_large_enough_for_a_drill():
    assert (DEFECT_CLIENTS, DEFECT_EVENTS, WAITING_EVENTS) == (0.25, 0.05, 0.9)


def test_position_at_which_a_replay_starts():
    found = {name: misbehaviours.first_position(switches(name), 7, 3) for name in ("ignore_cursor", "replay_off_by_one")}
    assert found == {"ignore_cursor": 2, "replay_off_by_one": 8}
    assert misbehaviours.first_position(switches(), 7, 3) == 7


def test_stale_reasons_of_a_defective_runtime():
    window = Window(11, 110)
    both = (RETENTION_FLOOR_BREACH, REPLAY_BUDGET_EXCEEDED)
    assert misbehaviours.stale_reasons(switches(), 9, window, 100) == both
    assert misbehaviours.stale_reasons(switches("wrong_stale_reason"), 20, window, 50) == (RETENTION_FLOOR_BREACH,)
    assert misbehaviours.stale_reasons(switches("wrong_stale_reason"), 100, window, 50) == ()
    early = [misbehaviours.stale_reasons(switches("stale_too_early"), after, window, 109) for after in (99, 100)]
    assert early == [(REPLAY_BUDGET_EXCEEDED,), ()]


def test_silence_after_which_a_client_is_disconnected():
    settings = RuntimeSettings(heartbeat_interval_s=10.0, client_timeout_s=40.0)
    found = [
        misbehaviours.client_timeout_s(switches(*each), settings)
        for each in ((), ("drop_late_heartbeats",), ("keep_silent_clients",))
    ]
    assert found == [40.0, 12.0, math.inf]


def items(*seqs: int) -> list[Item]:
    payloads = {seq: b'{"payload":{"n":%d}}' % seq for seq in seqs}
    return [Item(Position(seq), msgspec.Raw(payloads[seq]), payload_hash(payloads[seq]), Hash.OK) for seq in seqs]


def sent(*defects: str, replay: bool = False, events: list[Item] | None = None) -> list[tuple[int, bytes, bool, Hash]]:
    """Position, payload and check of each event that is sent, and whether its hash is that of its payload."""
    found = disfigure(switches(*defects), 1, "t", items(1, 2, 3) if events is None else events, replay, payload_hash)
    return [
        (misbehaviours.seq_of(it), bytes(it.payload), it.payload_hash == payload_hash(bytes(it.payload)), it.check)
        for it in found
    ]


ONE, TWO, THREE = (b'{"payload":{"n":%d}}' % seq for seq in (1, 2, 3))
HEALTHY = [(1, ONE, True, Hash.OK), (2, TWO, True, Hash.OK), (3, THREE, True, Hash.OK)]


@pytest.mark.parametrize(
    ("defect", "purpose", "share", "found"),
    [
        ("wrong_payload_hash", "hash", DEFECT_EVENTS, [(n, p, False, Hash.BAD) for n, p, *_ in HEALTHY]),
        ("duplicate_delivery", "duplicate", 0.2, [each for each in HEALTHY for _ in range(2)]),
        ("repeat_payloads", "repeat", 0.2, [HEALTHY[0], (2, ONE, True, Hash.OK), (3, TWO, True, Hash.OK)]),
    ],
)
def test_events_that_a_draw_selects_are_disfigured(
    draws: Draws, defect: str, purpose: str, share: float, found: list[tuple[int, bytes, bool, Hash]]
):
    draws(**{purpose: share - 0.001})
    assert sent(defect) == found
    assert sent() == HEALTHY
    draws(**{purpose: share})
    assert sent(defect) == HEALTHY


@pytest.mark.parametrize(
    ("defect", "purpose", "share"), [("alter_payloads", "alter", DEFECT_EVENTS), ("alter_copies", "copy", 0.2)]
)
def test_altered_payload_has_its_own_hash(draws: Draws, defect: str, purpose: str, share: float):
    altered = [(seq, b'{"payload":{"altered":true,"n":%d}}' % seq, True, Hash.OK) for seq in (1, 2, 3)]
    draws(**{purpose: share - 0.001})
    is_copy = defect == "alter_copies"
    assert sent(defect) == ([each for pair in zip(HEALTHY, altered, strict=True) for each in pair] if is_copy else altered)
    draws(**{purpose: share})
    assert sent(defect) == HEALTHY


def test_own_version_of_a_client_has_its_own_hash(draws: Draws):
    draws(version=DEFECT_EVENTS - 0.001)
    assert sent("two_versions") == [(seq, b'{"seq":%d,"version":2}' % seq, True, Hash.OK) for seq in (1, 2, 3)]
    draws(version=DEFECT_EVENTS)
    assert sent("two_versions") == HEALTHY
    draws(version=DEFECT_CLIENTS)
    assert sent("two_versions") == HEALTHY


def test_first_two_events_change_places_or_payloads(draws: Draws):
    draws()
    assert sent("reorder_replay", replay=True) == [HEALTHY[1], HEALTHY[0], HEALTHY[2]]
    assert sent("reorder_replay", replay=False) == HEALTHY
    assert sent("reorder_replay", replay=True, events=items(1)) == HEALTHY[:1]
    assert sent("swap_payloads") == [(1, TWO, True, Hash.OK), (2, ONE, True, Hash.OK), HEALTHY[2]]
    assert sent("swap_payloads", events=items(1, 2)) == [(1, TWO, True, Hash.OK), (2, ONE, True, Hash.OK)]
    assert sent("swap_payloads", events=items(1)) == HEALTHY[:1]
