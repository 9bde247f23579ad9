"""How a runtime misdelivers when its switches say so: which client, which event, and what comes out instead.

Every choice is a function of (seed, purpose, client, seq), so a run's faults are the same each time.
"""

import math
from collections.abc import Sequence

import msgspec

from sim.base.randomness import draw
from sim.protocols.events import Hash, Item
from sim.protocols.payloads import canonical_json, payload_hash
from sim.server import stream_log
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import RETENTION_FLOOR_BREACH, Entry, Window

# [ours] How often a defect acts: often enough for any drill to meet it, seldom enough for a fleet to get going.
DEFECT_CLIENTS = 0.25
DEFECT_EVENTS = 0.05
LATE_HEARTBEAT = 1.2  # intervals without a word from a client
WRONG_HASH = "sha256:" + "0" * 64


def is_skipped(switches: Switches, client_key: int, seq: int, live: bool) -> bool:
    """Whether this client is never to get this event (defect), or not on its live tail (fault)."""
    if "skip_delivery" in switches.defects and _hits(switches, "skip", client_key, seq, DEFECT_CLIENTS, DEFECT_EVENTS):
        return True
    shares = (switches.skip_live_clients, switches.skip_live_events)
    return live and shares[0] > 0 and _hits(switches, "skip_live", client_key, seq, *shares)


def treats_alike(switches: Switches) -> bool:
    """Whether no client at all loses events, or is handed other payloads than the rest: the cheapest question."""
    return not (switches.defects & {"skip_delivery", "two_versions"} or switches.skip_live_clients > 0)


def may_skip(switches: Switches, client_key: int) -> bool:
    """Whether this client is one that loses events at all: the cheap question, asked first."""
    if "skip_delivery" in switches.defects and draw(switches.seed, "skip", client_key) < DEFECT_CLIENTS:
        return True
    share = switches.skip_live_clients
    return share > 0 and draw(switches.seed, "skip_live", client_key) < share


def _hits(switches: Switches, purpose: str, client_key: int, seq: int, clients: float, events: float) -> bool:
    if draw(switches.seed, purpose, client_key) >= clients:
        return False
    return draw(switches.seed, purpose + "_event", client_key, seq) < events


def leaks(switches: Switches, seq: int) -> bool:
    """Whether this event also goes to someone who never asked for it."""
    return "cross_topic_leak" in switches.defects and draw(switches.seed, "leak", 0, seq) < DEFECT_EVENTS


def first_position(switches: Switches, after: int, oldest: int) -> int:
    """Where a replay from the cursor `after` begins: the last seq that is *not* sent."""
    if "ignore_cursor" in switches.defects:
        return oldest - 1
    if "replay_off_by_one" in switches.defects:
        return after + 1
    return after


def stale_reasons(switches: Switches, after: int, window: Window | None, budget_events: int) -> tuple[str, ...]:
    """Why a cursor cannot resume, as this runtime has it; empty: it can."""
    if "stale_too_early" in switches.defects:
        budget_events //= 10
    reasons = stream_log.stale_reasons(after, window, budget_events)
    if reasons and "wrong_stale_reason" in switches.defects:
        return (RETENTION_FLOOR_BREACH,)
    return reasons


def client_timeout_s(switches: Switches, settings: RuntimeSettings) -> float:
    """How long a client may be silent before it is dropped."""
    if "keep_silent_clients" in switches.defects:
        return math.inf
    if "drop_late_heartbeats" in switches.defects:
        return LATE_HEARTBEAT * settings.heartbeat_interval_s
    return settings.client_timeout_s


def has_own_version(switches: Switches, client_key: int) -> bool:
    """Whether this client is handed other payloads than the rest."""
    return "two_versions" in switches.defects and draw(switches.seed, "version", client_key) < DEFECT_CLIENTS


def _own_version(switches: Switches, stream: str, item: Item) -> Item:
    if _event(switches, "version", stream, item) >= DEFECT_EVENTS:
        return item
    payload = canonical_json({"version": 2, "seq": seq_of(item)})
    return msgspec.structs.replace(item, payload=msgspec.Raw(payload), payload_hash=payload_hash(payload))


def disfigure(switches: Switches, client_key: int, stream: str, items: Sequence[Item], replay: bool) -> tuple[Item, ...]:
    """Events as a defective runtime would send them; the healthy runtime never calls this."""
    out: list[Item] = []
    if has_own_version(switches, client_key):
        items = [_own_version(switches, stream, item) for item in items]
    for item in items:
        wrong = "wrong_payload_hash" in switches.defects and _event(switches, "hash", stream, item) < DEFECT_EVENTS
        sent = with_wrong_hash(item) if wrong else item
        out.append(sent)
        if "duplicate_delivery" in switches.defects and _event(switches, "duplicate", stream, item) < 4 * DEFECT_EVENTS:
            out.append(sent)
    if replay and "reorder_replay" in switches.defects and len(out) > 1:
        out[0], out[1] = out[1], out[0]
    return tuple(out)


def _event(switches: Switches, purpose: str, stream: str, item: Item) -> float:
    return draw(switches.seed, purpose, len(stream), seq_of(item))


def seq_of(item: Item) -> int:
    """An event's sequence number, which is its position here."""
    assert item.position is not None
    return int(item.position.offset)


def with_wrong_hash(item: Item) -> Item:
    """The same event under a hash that is not its payload's."""
    return msgspec.structs.replace(item, payload_hash=WRONG_HASH, check=Hash.BAD)


def keep_unskipped(switches: Switches, client_key: int, entries: list[Entry], live: bool) -> list[Entry]:
    """The entries this client is to get."""
    return [entry for entry in entries if not is_skipped(switches, client_key, entry.seq, live)]
