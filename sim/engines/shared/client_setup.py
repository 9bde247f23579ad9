"""Rules about clients that all engines share: their streams, their settings, and when a client counts as behind."""

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from sim.client.actions import ClientSettings, Token
from sim.client.cursor import damage, restore, stored
from sim.client.negative.tokens import RevokedToken
from sim.client.session import Session
from sim.client.transitions import CONNECTED
from sim.drill.fault_kinds import RestartClients
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill
from sim.protocols.adapter import Connection
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.adapter import SpacetimeConnection
from sim.protocols.spacetime.negative import SpacetimeForms
from sim.protocols.spacetime.streams import stream_id
from sim.record.observations import NAN, Row
from sim.record.run_header import RunHeader

RENEWAL_S = 1.0  # [ours] a client that renews for longer counts as disconnected
CODEX_EVENT = "codex.worker.progress"
RUN_EVENT = "run.progress"


def topics_of(client: int, run_topics: Sequence[str], other_topics: Sequence[str], count: int) -> list[str]:
    """Client n reads run streams n, n+1, …; every client reads all other streams."""
    own = [run_topics[(client + k) % len(run_topics)] for k in range(count)]
    return [*own, *other_topics]


def client_settings(drill: Drill, seed: int) -> ClientSettings:
    """The settings that all clients of a run share."""
    runtime = drill.runtime
    return ClientSettings(
        seed=seed,
        compatibility=Compatibility(
            "stormgate", drill.fleet.client_build, runtime.protocol_version, schema_version=runtime.schema_version
        ),
        replay_batch_size=runtime.replay_batch_size,
        token_ttl_s=drill.fleet.token_ttl_s or None,
        service=runtime,
        forms=SpacetimeForms(),
        stream_id=stream_id,
    )


def new_connection(socket_url: str) -> Connection:
    """The adapter of a session's next connection; `socket_url` is `ws://host:port/path`."""
    return SpacetimeConnection(socket_url)


def is_there(session: Session, now: float) -> bool:
    """Live, or briefly away to renew its token. In a large fleet, some client always is."""
    return session.is_live or now <= session.renewing_since + RENEWAL_S


def unready_reason(live: int, clients: int, *, is_publishing: bool) -> str:
    """Why the steady state does not hold; empty if it does."""
    if live < clients:
        return f"{live} of {clients} clients live"
    return "" if is_publishing else "no event acknowledged"


def behind(session: Session, heads: Mapping[str, int], now: float) -> list[str]:
    """The topics in which a client lacks an acknowledged event."""
    topics = session.replica.topics
    if not is_there(session, now) or (session.is_live and not session.is_caught_up):
        return list(topics)
    return [topic for topic in topics if session.replica.cursors[topic].lacks(heads[topic])]


def conclusion(session: Session, heads: Mapping[str, int], now: float) -> list[Row]:
    """The rows to record for a client at the end: that it settled, or what it still waits for and why."""
    left = behind(session, heads, now)
    rows: list[Row] = [] if left else [("settled", "", -1, 0, NAN, "")]
    for topic in left:
        cursor = session.replica.cursors[topic]
        at = -1 if cursor.watermark is None else cursor.watermark
        rows.append(("still_pending", cursor.stream, at, 0, float(heads[topic]), session.why_pending()))
    return rows


def lag_events(session: Session, heads: Mapping[str, int]) -> float | None:
    """How many events a client's worst stream lags behind the acknowledged head; None before it has a position."""
    lags = [lag for c in session.replica.cursors.values() if (lag := c.lag(heads[c.topic])) is not None]
    return float(max(*lags, 0)) if lags else None


def new_header(
    drill: Drill, faults: Sequence[PlannedFault], *, run_id: str, engine: str, clock: str, seed: int, libraries: Sequence[str]
) -> RunHeader:
    """The header of a run that has not begun yet. The target is the embedded mock until the caller changes it."""
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
        versions={**versions, "python": platform.python_version()},
        plan=[fault.describe() for fault in faults],
    )


def restart(session: Session, fault: RestartClients) -> tuple[Session, list[Row]]:
    """The next session of a client whose process dies now with damaged checkpoints, and the rows to record."""
    rows: list[Row] = [("disconnected", "", -1, 0, NAN, "process_died")] if session.state in CONNECTED else []
    left: dict[str, str | None] = {}
    for cursor in session.replica.cursors.values():
        text = None if cursor.checkpoint is None else stored(cursor.checkpoint)
        left[cursor.topic] = damage(text, fault.checkpoint, fault.events)
        seq, value = restore(left[cursor.topic]), NAN if cursor.checkpoint is None else float(cursor.checkpoint)
        rows.append(("restarted", cursor.stream, -1 if seq is None else seq, 0, value, fault.checkpoint))
    return next_life(session, left), rows


def next_life(session: Session, stored_checkpoints: Mapping[str, str | None]) -> Session:
    """The next session of a client whose process died. Only its stored checkpoints are left."""
    careless = "reads_torn_checkpoints" in session.policy.defects
    found = {topic: restore(text, careless) for topic, text in stored_checkpoints.items()}
    checkpoints = {topic: seq for topic, seq in found.items() if seq is not None}
    again = type(session)(session.client, session.replica.topics, session.policy, session.settings, checkpoints)
    again.retries.disconnects = session.retries.disconnects  # random draws use this count, so no two lives draw the same values
    return again


def revoked_with(session: Session, is_concerned: bool) -> bool:
    """Whether a revocation fault revokes this session: a concerned client's, or that of a `RevokedToken` client."""
    return session.token is not None and (is_concerned or isinstance(session, RevokedToken))


def forget_token(session: Session, *, sign_in: bool = False) -> None:
    """Make the client's next connect use a new token; with `sign_in`, the token of a new session."""
    session.must_mint = True
    session.sign_ins += sign_in


def unix_s(moment: str) -> float:
    """An RFC 3339 time in unix seconds; NaN if it is invalid."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return math.nan


def by_own_clock(token: Token, session: Session, ahead_s: float) -> Token:
    """The token as read by a client whose clock is `ahead_s` ahead. Only the defect `trusts_clock` makes a difference."""
    return token.by_clock(ahead_s) if "trusts_clock" in session.policy.defects else token


def clock_ahead_s(client: int, by_s: float) -> float:
    """How far a skewed client's clock is ahead, in seconds: `by_s` for even numbers, `-by_s` for odd ones."""
    return by_s if client % 2 == 0 else -by_s
