"""How a runtime misdelivers when its switches say so: which client, which event, and what comes out instead.

Every choice is a function of (seed, purpose, client, seq), so a run's faults are the same each time.
"""

import math
from collections.abc import Sequence

import msgspec

from sim.base.randomness import draw
from sim.protocols.spacetime.frames import Update
from sim.server import continuity
from sim.server.continuity import RETENTION_FLOOR_BREACH, Window
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import Entry, canonical_json, payload_hash

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
    reasons = continuity.stale_reasons(after, window, budget_events)
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


def _own_version(switches: Switches, update: Update) -> Update:
    if _event(switches, "version", update) >= DEFECT_EVENTS:
        return update
    payload = canonical_json({"version": 2, "seq": update.watermark})
    return msgspec.structs.replace(update, payload=msgspec.Raw(payload), payload_hash=payload_hash(payload))


def disfigure(switches: Switches, client_key: int, updates: Sequence[Update], replay: bool) -> tuple[Update, ...]:
    """Updates as a defective runtime would send them; the healthy runtime never calls this."""
    out: list[Update] = []
    if has_own_version(switches, client_key):
        updates = [_own_version(switches, update) for update in updates]
    for update in updates:
        wrong = "wrong_payload_hash" in switches.defects and _event(switches, "hash", update) < DEFECT_EVENTS
        sent = with_hash(update, WRONG_HASH) if wrong else update
        out.append(sent)
        if "duplicate_delivery" in switches.defects and _event(switches, "duplicate", update) < 4 * DEFECT_EVENTS:
            out.append(sent)
    if replay and "reorder_replay" in switches.defects and len(out) > 1:
        out[0], out[1] = out[1], out[0]
    return tuple(out)


def _event(switches: Switches, purpose: str, update: Update) -> float:
    return draw(switches.seed, purpose, len(update.topic), update.watermark)


def with_hash(update: Update, payload_hash: str) -> Update:
    """The same update under another hash."""
    return Update(update.topic, update.payload, payload_hash, update.watermark, update.doc_key, update.doc_version)


def keep_unskipped(switches: Switches, client_key: int, entries: list[Entry], live: bool) -> list[Entry]:
    """The entries this client is to get."""
    return [entry for entry in entries if not is_skipped(switches, client_key, entry.seq, live)]
