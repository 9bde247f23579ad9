"""Rules about clients that all engines share: their streams, their settings, and when a client is behind."""

import math
import platform
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from sim.base.errors import TargetError
from sim.base.randomness import draw_bits
from sim.client.actions import ClientSettings, Token
from sim.client.checkpoints import damage, restore, stored
from sim.client.cursor import Cursor, number_of
from sim.client.marks import Acknowledged
from sim.client.negative.registry import why_unasked
from sim.client.negative.tokens import RevokedToken
from sim.client.notices import ending
from sim.client.session import Session
from sim.client.transitions import CONNECTED
from sim.drill.fault_kinds import RestartClients
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.engines.shared.endpoints import Endpoints
from sim.machine.monitor import this_machine
from sim.protocols import registry
from sim.protocols.events import RETRY, EndedBy, Position
from sim.protocols.intents import Compatibility
from sim.record.observations import NAN, Row
from sim.record.run_header import RunHeader, StreamLimits

RENEWAL_S = 1.0  # [ours] a client that renews for longer counts as disconnected


def topics_of(client: int, run_topics: Sequence[str], other_topics: Sequence[str], count: int) -> list[str]:
    """Return a client's topics: at most `count` run topics from number `client` on, and all other topics."""
    own = [run_topics[(client + k) % len(run_topics)] for k in range(min(count, len(run_topics)))]
    return [*own, *other_topics]


def client_settings(drill: Drill, seed: int, marker_run: str = "", protocol_name: str = registry.DEFAULT) -> ClientSettings:
    """Return the settings that all clients of a run share. `marker_run` is the header's."""
    runtime, protocol = drill.runtime, registry.get(protocol_name)
    return ClientSettings(
        seed=seed,
        compatibility=Compatibility(
            "stormgate", drill.fleet.client_build, runtime.protocol_version, schema_version=runtime.schema_version
        ),
        replay_batch_size=runtime.replay_batch_size,
        token_ttl_s=drill.fleet.token_ttl_s or None,
        service=runtime,
        capabilities=protocol.capabilities,
        forms=protocol.negative_forms,
        protocol=protocol.name,
        stream_id=protocol.stream_id,
        marker_run=marker_run,
    )


def target_settings(drill: Drill, seed: int, marker_run: str, endpoints: Endpoints) -> ClientSettings:
    """Return the settings that all clients of a run on a target share, with what its description says.

    Make them once for a run: what equal messages do to clients is computed once for all clients with the same settings.
    """
    # The drill's settings of the service apply to the mock only; any other target has its own.
    met = drill if endpoints.is_mock else msgspec.structs.replace(drill, runtime=endpoints.service)
    settings = client_settings(met, seed, marker_run, endpoints.protocol)
    options = endpoints.protocol_options
    able = registry.get(endpoints.protocol).able(options)
    return replace(settings, capabilities=able, payload_pointer=endpoints.payload_pointer, protocol_options=options)


def negative_clients(drill: Drill, header: RunHeader, endpoints: Endpoints | None) -> tuple[str, ...]:
    """Return the negative clients of a run; records in its header those that cannot ask their question, and why.

    `endpoints`: of the target; None: a simulated service.
    """
    protocol, named = registry.get(header.protocol), drill.expect.negative_clients
    habits = protocol.server.profile.streams if protocol.server else None
    reads_tokens = habits is None or habits.reads_tokens
    able = {
        "has_forms": protocol.negative_forms is not None,
        "has_tokens": reads_tokens if endpoints is None else endpoints.forms.token.source != "none",
        "states_builds": protocol.capabilities.states_builds,
    }
    found = {name: why_unasked(name, **able) for name in named}
    header.unasked = {name: why for name, why in found.items() if why}
    return tuple(name for name in named if not found[name])


def is_there(session: Session, now: float) -> bool:
    """Return whether a client is live, or started to renew its token at most `RENEWAL_S` ago.

    In a large fleet, there is always a client that renews its token.
    """
    return session.is_live or now <= session.renewing_since + RENEWAL_S


def unready_reason(live: int, clients: int, *, is_publishing: bool) -> str:
    """Return why the steady state does not hold; empty if it holds."""
    if live < clients:
        return f"{live} of {clients} clients live"
    return "" if is_publishing else "no event acknowledged"


def behind(session: Session, heads: Mapping[str, Acknowledged], now: float) -> list[str]:
    """Return the topics in which a client lacks an acknowledged event; all topics if it is not live and caught up."""
    topics = session.replica.topics
    if not is_there(session, now) or (session.is_live and not session.is_caught_up):
        return list(topics)
    return [topic for topic in topics if _lacks(session, topic, heads[topic])]


def _lacks(session: Session, topic: str, head: Acknowledged) -> bool:
    """Whether a client lacks an acknowledged event since its start that it did not declare lost, or is at no known position."""
    cursor = session.replica.cursors[topic]
    if cursor.is_unconfirmed(head.position):
        return True
    if cursor.marks.high:
        return cursor.marks.lacked(head) > 0
    if head.position and cursor.lacks(head.position):
        return True
    # It has no event since its start: only one that was sent after it was live is surely missing.
    return not head.position and head.number > 0 and (head.sent_at > session.live_since or not session.is_live)


def conclusion(session: Session, heads: Mapping[str, Acknowledged], now: float) -> list[Row]:
    """Return the rows to record for a client at the end: that it settled, or which streams are pending and why."""
    left = behind(session, heads, now)
    rows: list[Row] = [] if left else [("settled", "", -1, 0, NAN, "", -1)]
    for topic in left:
        cursor, head = session.replica.cursors[topic], heads[topic]
        at, marker = cursor.shown(cursor.watermark), cursor.marks.high or -1
        value = float(head.position or head.number)
        why = "unconfirmed" if cursor.is_unconfirmed(head.position) else session.why_pending()
        rows.append(("still_pending", cursor.stream, at, 0, value, why, marker))
    return rows


def lag_events(session: Session, heads: Mapping[str, Acknowledged]) -> float | None:
    """Return how many acknowledged events a client lacks in the stream where it lacks most; None if it has no event yet."""
    worst = None
    for cursor in session.replica.cursors.values():
        lag = _lag(cursor, heads[cursor.topic])
        if lag is not None and (worst is None or lag > worst):
            worst = lag
    return None if worst is None else float(max(worst, 0))


def _lag(cursor: Cursor, head: Acknowledged) -> int | None:
    if cursor.marks.high:
        return cursor.marks.lacked(head)
    return cursor.lag(head.position) if head.position or not head.number else None


def run_marker(clock: str, seed: int) -> str:
    """Return the `run` of a run's markers: random on a wall clock, made from the seed on a virtual one."""
    return f"{draw_bits(seed, 'marker', 0, 0):012x}"[-12:] if clock == "virtual" else secrets.token_hex(6)


def new_header(
    drill: Drill,
    faults: Sequence[PlannedFault],
    *,
    run_id: str,
    engine: str,
    clock: str,
    seed: int,
    libraries: Sequence[str],
    protocol: str = registry.DEFAULT,
    protocol_options: Mapping[str, object] | None = None,
) -> RunHeader:
    """Return the header of a run that has not started. The target is the embedded mock until the caller changes it."""
    spoken = registry.get(protocol)
    versions = {name: version(name) for name in ("stormgate", *libraries)}
    return RunHeader(
        run_id=run_id,
        drill=drill.name,
        drill_sha256=drill.digest(),
        engine=engine,
        target="embedded mock",
        target_kind="mock",
        policy=drill.fleet.policy,
        seed=seed,
        clients=drill.fleet.clients,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        clock=clock,
        marker_run=run_marker(clock, seed),
        protocol=protocol,
        capabilities=msgspec.to_builtins(spoken.able(protocol_options or {})),
        malformed_kinds=list(spoken.negative_forms.kinds) if spoken.negative_forms else [],
        versions={**versions, "python": platform.python_version()},
        machine=this_machine(),
        plan=[fault.describe() for fault in faults],
    )


def describe_streams(header: RunHeader, topics: Iterable[str]) -> None:
    """State in the header what the simulated service of the protocol promises of these topics."""
    protocol = registry.get(header.protocol)
    if protocol.server is not None and protocol.server.profile.streams is None:
        class_of = protocol.server.profile.topics.topic_class
        limits = {topic: class_of(topic) for topic in topics}
        header.streams = {
            protocol.stream_id(topic): StreamLimits(each.replay_budget_events, each.snapshot_every_s is not None)
            for topic, each in limits.items()
        }


def restart(session: Session, fault: RestartClients) -> tuple[Session, list[Row]]:
    """Kill a client's process and damage its checkpoints; return its next session and the rows to record."""
    rows: list[Row] = []
    if session.state in CONNECTED:
        rows += [("disconnected", "", -1, 0, NAN, "process_died", -1), ending(EndedBy.FAULT, "process_died", RETRY)]
    left: dict[str, str | None] = {}
    if session.resumable is not None:
        left[""] = damage(stored(Position(session.resumable)), fault.checkpoint, fault.events)
    for cursor in session.replica.cursors.values():
        text = None if cursor.stored is None else stored(cursor.stored)
        left[cursor.topic] = damage(text, fault.checkpoint, fault.events)
        before = number_of(cursor.stored)
        seq, value = number_of(restore(left[cursor.topic])), NAN if before == -1 else float(before)
        rows.append(("restarted", cursor.stream, seq, 0, value, fault.checkpoint, -1))
    again = next_life(session, left)
    for topic, cursor in again.replica.cursors.items():
        cursor.proven = number_of(session.replica.cursors[topic].stored)
    return again, rows


def next_life(session: Session, stored_checkpoints: Mapping[str, str | None]) -> Session:
    """Return the next session of a client whose process died. It has only its stored checkpoints."""
    careless = "reads_torn_checkpoints" in session.policy.defects
    found = {topic: restore(text, careless) for topic, text in stored_checkpoints.items()}
    checkpoints = {topic: position for topic, position in found.items() if position is not None}
    again = type(session)(session.client, session.replica.topics, session.policy, session.settings, checkpoints)
    again.retries.disconnects = session.retries.disconnects  # so that two sessions of a client never draw the same values
    return again


def revoked_with(session: Session, is_concerned: bool) -> bool:
    """Return whether a revocation fault revokes this session: of an affected client, or of a `RevokedToken` client."""
    return session.token is not None and (is_concerned or isinstance(session, RevokedToken))


def require_own_sessions(concerned: Sequence[Session], clients: Sequence[Session]) -> None:
    """Raise `TargetError` unless each concerned client has a session of its own, which can be revoked by its id."""
    nameless = sum(not each.token.session_id for each in concerned if each.token)
    if nameless:
        raise TargetError(
            f"{nameless} of {len(concerned)} sessions cannot be revoked, because nothing states their ids. Set 'session_id' in "
            "[token], or a value of that name in [[sign_in]]."
        )
    ids = Counter(each.token.session_id for each in clients if each.token)
    shared = next((id_ for each in concerned if each.token and ids[id_ := each.token.session_id] > 1), "")
    if shared:
        raise TargetError(
            f"{ids[shared]} clients share one session, so it cannot be revoked for some of them. Describe with [[sign_in]] how "
            "each client gets its own."
        )


def forget_token(session: Session, *, sign_in: bool = False) -> None:
    """Make the client's next connect use a new token; with `sign_in`, a token of a new session."""
    session.must_mint = True
    session.sign_ins += sign_in


def unix_s(moment: str) -> float:
    """Convert an RFC 3339 time to Unix seconds; NaN if it is invalid."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return math.nan


def by_own_clock(token: Token, session: Session, ahead_s: float) -> Token:
    """Return the token as a client with a clock `ahead_s` ahead reads it: unchanged without the defect `trusts_clock`."""
    return token.by_clock(ahead_s) if "trusts_clock" in session.policy.defects else token


def clock_ahead_s(client: int, by_s: float) -> float:
    """Return how far a skewed client's clock is ahead, in seconds: `by_s` for even client numbers, `-by_s` for odd ones."""
    return by_s if client % 2 == 0 else -by_s
