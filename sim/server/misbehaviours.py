"""Misbehaviours that a runtime's switches turn on: which clients and events they affect, and what is sent instead.

Every choice is a function of (seed, purpose, client, seq), so the same seed gives the same misbehaviour.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from sim.base.randomness import draw
from sim.protocols.events import Hash, Item
from sim.protocols.payloads import canonical_json
from sim.server import stream_log
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import RETENTION_FLOOR_BREACH, Entry, Window

# [ours] Shares that a defect affects: large enough for any drill to detect, small enough for a fleet to become live.
DEFECT_CLIENTS = 0.25
DEFECT_EVENTS = 0.05
WAITING_EVENTS = 0.9  # so many that the last one of a topic is among them
LIES = frozenset({"swap_payloads", "repeat_payloads", "alter_payloads"})  # positions and hashes are right, payloads are not
LATE_HEARTBEAT = 1.2  # heartbeat intervals of silence from a client


def is_skipped(switches: Switches, client_key: int, seq: int, live: bool) -> bool:
    """Whether this client never gets this event (defect), or not on its live tail (fault)."""
    if "skip_delivery" in switches.defects and _hits(switches, "skip", client_key, seq, DEFECT_CLIENTS, DEFECT_EVENTS):
        return True
    if is_unanswered(switches, seq) and draw(switches.seed, "unanswered_to", client_key) < DEFECT_CLIENTS:
        return True
    if live and "announce_before_commit" in switches.defects and draw(switches.seed, "announce", 0, seq) < DEFECT_EVENTS:
        return True
    shares = (switches.skip_live_clients, switches.skip_live_events)
    return live and shares[0] > 0 and _hits(switches, "skip_live", client_key, seq, *shares)


def is_unanswered(switches: Switches, seq: int) -> bool:
    """Whether no publish of this event is ever answered with success, although it is in the log."""
    return "unanswered_to_some" in switches.defects and draw(switches.seed, "unanswered", 0, seq) < DEFECT_EVENTS


def treats_alike(switches: Switches) -> bool:
    """Whether no client loses events or gets other payloads than the rest. This is the cheapest check."""
    uneven = {"skip_delivery", "two_versions", "announce_before_commit", "unanswered_to_some"}
    return not (switches.defects & uneven or switches.skip_live_clients > 0)


def may_skip(switches: Switches, client_key: int) -> bool:
    """Whether this client may lose events: a cheap check before `is_skipped`."""
    if "skip_delivery" in switches.defects and draw(switches.seed, "skip", client_key) < DEFECT_CLIENTS:
        return True
    if switches.defects & {"announce_before_commit", "unanswered_to_some"}:
        return True
    share = switches.skip_live_clients
    return share > 0 and draw(switches.seed, "skip_live", client_key) < share


def _hits(switches: Switches, purpose: str, client_key: int, seq: int, clients: float, events: float) -> bool:
    if draw(switches.seed, purpose, client_key) >= clients:
        return False
    return draw(switches.seed, purpose + "_event", client_key, seq) < events


def waits(switches: Switches, topic: str, seq: int) -> bool:
    """Whether this event is not delivered live until the next event of its topic, or another client, comes."""
    return "wait_for_company" in switches.defects and draw(switches.seed, "wait", len(topic), seq) < WAITING_EVENTS


def leaks(switches: Switches, seq: int) -> bool:
    """Whether this event is also sent to a client that did not subscribe to it."""
    return "cross_topic_leak" in switches.defects and draw(switches.seed, "leak", 0, seq) < DEFECT_EVENTS


def first_position(switches: Switches, after: int, oldest: int) -> int:
    """Return the position at which a replay from the cursor `after` starts: the last seq that is *not* sent."""
    if "ignore_cursor" in switches.defects:
        return oldest - 1
    if "replay_off_by_one" in switches.defects:
        return after + 1
    return after


def stale_reasons(switches: Switches, after: int, window: Window | None, budget_events: int) -> tuple[str, ...]:
    """Return why this runtime does not resume a cursor; empty: it does."""
    if "stale_too_early" in switches.defects:
        budget_events //= 10
    reasons = stream_log.stale_reasons(after, window, budget_events)
    if reasons and "wrong_stale_reason" in switches.defects:
        return (RETENTION_FLOOR_BREACH,)
    return reasons


def client_timeout_s(switches: Switches, settings: RuntimeSettings) -> float:
    """Return the silence, in seconds, after which a client is disconnected."""
    if "keep_silent_clients" in switches.defects:
        return math.inf
    if "drop_late_heartbeats" in switches.defects:
        return LATE_HEARTBEAT * settings.heartbeat_interval_s
    return settings.client_timeout_s


def has_own_version(switches: Switches, client_key: int) -> bool:
    """Whether this client gets other payloads than the rest."""
    return "two_versions" in switches.defects and draw(switches.seed, "version", client_key) < DEFECT_CLIENTS


def _own_version(switches: Switches, stream: str, item: Item, hash_of: Callable[[bytes], str]) -> Item:
    if _event(switches, "version", stream, item) >= DEFECT_EVENTS:
        return item
    payload = canonical_json({"version": 2, "seq": seq_of(item)})
    return msgspec.structs.replace(item, payload=msgspec.Raw(payload), payload_hash=hash_of(payload))


def disfigure(
    switches: Switches, client_key: int, stream: str, items: Sequence[Item], replay: bool, hash_of: Callable[[bytes], str]
) -> tuple[Item, ...]:
    """Return events as a defective runtime sends them; a healthy runtime never calls this. `hash_of` hashes a payload."""
    out: list[Item] = []
    if has_own_version(switches, client_key):
        items = [_own_version(switches, stream, item, hash_of) for item in items]
    if switches.defects & LIES:
        items = _as_lies(switches, stream, items, hash_of)
    for item in items:
        wrong = "wrong_payload_hash" in switches.defects and _event(switches, "hash", stream, item) < DEFECT_EVENTS
        sent = with_wrong_hash(item, hash_of) if wrong else item
        out.append(sent)
        if "duplicate_delivery" in switches.defects and _event(switches, "duplicate", stream, item) < 4 * DEFECT_EVENTS:
            out.append(sent)
        if "alter_copies" in switches.defects and _event(switches, "copy", stream, item) < 4 * DEFECT_EVENTS:
            out.append(_altered(item, hash_of))
    if replay and "reorder_replay" in switches.defects and len(out) > 1:
        out[0], out[1] = out[1], out[0]
    return tuple(out)


def _as_lies(switches: Switches, stream: str, items: Sequence[Item], hash_of: Callable[[bytes], str]) -> list[Item]:
    """Return events under their positions, but with other payloads, each under its right hash."""
    out = list(items)
    for number, item in enumerate(items):
        if "repeat_payloads" in switches.defects and number and _event(switches, "repeat", stream, item) < 4 * DEFECT_EVENTS:
            out[number] = _with_payload(item, items[number - 1].payload, hash_of)
        if "alter_payloads" in switches.defects and _event(switches, "alter", stream, item) < DEFECT_EVENTS:
            out[number] = _altered(item, hash_of)
    if "swap_payloads" in switches.defects and len(items) > 1:
        out[:2] = _with_payload(items[0], items[1].payload, hash_of), _with_payload(items[1], items[0].payload, hash_of)
    return out


def _altered(item: Item, hash_of: Callable[[bytes], str]) -> Item:
    content = msgspec.json.decode(item.payload)
    if isinstance(content, dict) and isinstance(content.get("payload"), dict):
        content["payload"]["altered"] = True
    return _with_payload(item, msgspec.Raw(canonical_json(content)), hash_of)


def _with_payload(item: Item, payload: msgspec.Raw, hash_of: Callable[[bytes], str]) -> Item:
    return msgspec.structs.replace(item, payload=payload, payload_hash=hash_of(bytes(payload)))


def _event(switches: Switches, purpose: str, stream: str, item: Item) -> float:
    return draw(switches.seed, purpose, len(stream), seq_of(item))


def seq_of(item: Item) -> int:
    """Return an event's sequence number, which is its position in this service."""
    assert item.position is not None
    return int(item.position.offset)


def with_wrong_hash(item: Item, hash_of: Callable[[bytes], str]) -> Item:
    """Return the event with a hash that does not match its payload."""
    return msgspec.structs.replace(item, payload_hash=hash_of(b"another payload"), check=Hash.BAD)


def keep_unskipped(switches: Switches, client_key: int, entries: list[Entry], live: bool) -> list[Entry]:
    """Return the entries that this client gets."""
    return [entry for entry in entries if not is_skipped(switches, client_key, entry.seq, live)]
