"""The arrays of a run before it starts, made from a drill, a system model and a seed."""

import math

import numpy as np

from sim.client import backoff, policies
from sim.client.backoff import Backoff
from sim.client.policies import Policy
from sim.drill.model import Drill
from sim.drill.system_model import Server, SystemModel
from sim.engines.fleet.kernel import disconnecting, world
from sim.engines.fleet.kernel.randomness import key_of
from sim.engines.fleet.kernel.world import ARRIVAL, CHUNK, CLIENT, MORE, PLACE, SERVICE, Array, World
from sim.engines.shared import client_setup
from sim.engines.shared.publishing import streams_of
from sim.protocols import registry
from sim.record import stations

topic_class = registry.server_forms(registry.DEFAULT).profile.topics.topic_class
_BEAT_S = 0.005  # seconds; the heartbeats of each such step are served together
_BIN_S, _MAX_BINS = 0.001, 400_000  # of the series; a long run has wider bins
_MAX_BUCKETS = 2**23
_CACHE_LINE = 64  # bytes
_LONGEST_LINE = 2**21
_BUCKETS_A_CLIENT = 8
_LONGEST_WAIT_S = 9.0  # for a frame; a client stops waiting for a reply after ten


def make_world(drill: Drill, model: SystemModel, seed: int, horizon_s: float, episodes: int) -> World:
    """Make a world in which no client has arrived and nothing is published."""
    clients = drill.fleet.clients
    policy, settings = policies.get(drill.fleet.policy), client_setup.client_settings(drill, seed)
    buckets = min(max(clients * _BUCKETS_A_CLIENT, 1024), _MAX_BUCKETS)
    bins = min(math.ceil(horizon_s / _BIN_S), _MAX_BINS) + 1
    level_s = stations.fine_s(horizon_s)
    beats = max(round(drill.runtime.heartbeat_interval_s / _BEAT_S), 1)
    is_away = any(getattr(fault, "offline_s", 0.0) > 0 for fault in drill.faults)
    topics = topics_of(drill)
    server = model.server
    service = _service(drill, model, seed, horizon_s, horizon_s / buckets, horizon_s / (bins - 1), policy)
    service["level_s"] = level_s
    arrays: dict[str, Array] = {
        "clients": _aligned(clients),
        "more": np.zeros(clients, MORE),
        "buckets": np.full(buckets + 1, -1, np.int32),
        "chunks": np.zeros((clients, CHUNK), np.int32),
        "heap_at": np.zeros(clients + 1),
        "heap_client": np.zeros(clients + 1, np.int32),
        "published": np.zeros((len(topics), 0)),
        "heads": np.zeros(len(topics), np.int64),
        "order": np.zeros(0),
        "order_stream": np.zeros(0, np.int32),
        "readers": np.zeros(drill.load.run_streams, np.int64),
        "queued": np.zeros(drill.load.run_streams),
        "announced_to": np.zeros(drill.load.run_streams, np.int64),
        "line": np.zeros(1 << (min(2 * clients, _LONGEST_LINE) + _LONGEST_LINE // 16).bit_length(), PLACE),
        "floors": np.zeros(len(topics), np.int64),
        "budgets": np.array([_budget(drill, topic) for topic in topics], np.int64),
        "handshakers": np.zeros(server.handshake_workers),
        "inside": np.zeros(_ring(clients, settings.reply_timeout_s, server.accept_backlog, server.handshake_ms, horizon_s)),
        **_accept_queue(clients, server, horizon_s / settings.reply_timeout_s + 2),
        "minters": np.zeros(model.control.mint_workers),
        "holders": np.zeros(1),
        "beats": np.zeros(beats, np.int32),
        "series": np.zeros((len(world.SERIES), bins), np.int32),
        "levels": np.zeros((16, math.ceil(horizon_s / level_s) + 1)),
        "sizes": np.zeros((3, world.OCTAVE_BINS * world.OCTAVES), np.int64),
        "herd": np.zeros((world.HERD_ATTEMPTS, world.STEP_BINS * world.MAX_STEPS), np.int32),
        "lives": np.zeros((2, world.LIFE_BINS), np.int64),
        "live_t": np.full((episodes, clients), -1.0),
        "tries": np.zeros((episodes, clients), np.int16),
        "episodes": np.zeros((episodes, 2)),
        "offline": np.zeros(clients if is_away else 1),
        "reasons": np.zeros(len(world.REASONS), np.int64),
        "steps_ms": _formula(policy.backoff)[3],
    }
    return World(service, arrays)


def _aligned(clients: int) -> Array:
    """Return client records, each aligned to one line of the processor's cache."""
    raw = np.zeros(clients * CLIENT.itemsize + _CACHE_LINE, np.uint8)
    begin = -raw.ctypes.data % _CACHE_LINE
    return raw[begin : begin + clients * CLIENT.itemsize].view(CLIENT)


def topics_of(drill: Drill) -> list[str]:
    """Return all topics that are published to, in the order of their stream numbers."""
    runs = [f"r{number + 1}" for number in range(drill.load.run_streams)]
    return [stream.topic for stream in streams_of(runs, drill.load.worker_events)]


def refresh_after_s(drill: Drill) -> float:
    """Return the age, in seconds, at which the control service wants a token to be renewed."""
    runtime = drill.runtime
    ttl_s = drill.fleet.token_ttl_s or runtime.token_ttl_s
    return float(max(ttl_s - runtime.token_refresh_margin_s, 1))


def _budget(drill: Drill, topic: str) -> int:
    return drill.runtime.replay_budget_events or topic_class(topic).replay_budget_events


def _ring(clients: int, reply_timeout_s: float, backlog: int, handshake_ms: float, horizon_s: float) -> int:
    """Return the number of places for handshakes under way; 0 if the backlog can never be full."""
    most = clients * (horizon_s / reply_timeout_s + 2)  # an abandoned one may still be under way
    return 0 if handshake_ms == 0 or backlog >= most else backlog + clients + 1


def _accept_queue(clients: int, server: Server, attempts: float) -> dict[str, Array]:
    """Create the accept queue of one loop, for the backlog and clients on their way, and the heap of moments to give up."""
    if not server.one_loop:
        return {"accept_queue": np.zeros(0, ARRIVAL), "give_up_at": np.zeros(0), "give_up_client": np.zeros(0, np.int32)}
    places = math.ceil(min(server.accept_backlog, clients * attempts)) + clients + 1
    waits = 2 * clients
    return {
        "accept_queue": np.zeros(places, ARRIVAL),
        "give_up_at": np.zeros(waits),
        "give_up_client": np.zeros(waits, np.int32),
    }


def _formula(delays: Backoff) -> tuple[int, float, float, Array]:
    """Return a backoff policy's formula, its two numbers in milliseconds, and its list of delays."""
    none = np.zeros(1)
    match delays:
        case backoff.FullJitter():
            return disconnecting.FULL, delays.base_ms, delays.cap_ms, none
        case backoff.EqualJitter():
            return disconnecting.EQUAL, delays.base_ms, delays.cap_ms, none
        case backoff.DecorrelatedJitter():
            return disconnecting.DECORRELATED, delays.base_ms, delays.cap_ms, none
        case backoff.Exponential():
            return disconnecting.PLAIN, delays.base_ms, delays.cap_ms, none
        case backoff.CentrifugeJitter():
            return disconnecting.CENTRIFUGE, delays.base_ms, delays.cap_ms, none
        case backoff.Steps():
            return disconnecting.LISTED, 0.0, 0.0, np.array([*delays.steps_ms, delays.then_ms])
        case backoff.Uniform():
            return disconnecting.UNIFORM, delays.base_ms, delays.spread_ms, none
        case _:
            raise TypeError(f"a backoff of a formula that is not compiled: {delays.name}")


def _service(
    drill: Drill, model: SystemModel, seed: int, horizon_s: float, width_s: float, bin_s: float, policy: Policy
) -> Array:
    service, runtime, server, control = np.zeros(1, SERVICE), drill.runtime, model.server, model.control
    settings = client_setup.client_settings(drill, seed)
    formula, base_ms, cap_ms, _ = _formula(policy.backoff)
    per_client = drill.load.events_per_s / drill.streams * (drill.fleet.topics_per_client + drill.load.worker_events)
    values: dict[str, float] = {
        "buckets_a_s": 1 / width_s,
        "horizon_s": horizon_s,
        "bin_s": bin_s,
        "one_loop": server.one_loop,
        "handshake_s": server.handshake_ms / 1000,
        "batch_s": server.delivery_batch_ms / 1000,
        "event_s": server.delivery_event_ms / 1000,
        "mint_s": control.mint_ms / 1000,
        "mint_gap_s": 1 / control.mints_per_s if control.mints_per_s else 0.0,
        "syn_retry_s": model.syn_retry_s,
        "beat_s": runtime.heartbeat_interval_s / max(round(runtime.heartbeat_interval_s / _BEAT_S), 1),
        "reply_timeout_s": settings.reply_timeout_s,
        "live_period_s": policy.live_period_s,
        "refresh_after_s": refresh_after_s(drill),
        "base_ms": base_ms,
        "cap_ms": cap_ms,
        "refresh_delay_ms": -1.0 if policy.refresh_delay_ms is None else policy.refresh_delay_ms,
        "max_behind_s": min(runtime.outbound_queue_events / per_client, _LONGEST_WAIT_S),  # any longer, and its queue overflows
        "arrival_gap_s": drill.fleet.arrival_s / drill.fleet.clients,
        "free_chunk": -1,
        "backlog": server.accept_backlog,
        "window": runtime.window_events,
        "batch_size": min(runtime.replay_batch_size, settings.replay_batch_size),
        "topics": drill.fleet.topics_per_client + drill.load.worker_events,
        "run_streams": drill.load.run_streams,
        "drained_topics": runtime.topics_per_drain,
        "worker_events": drill.load.worker_events,
        "backoff": formula,
        "doublings": getattr(policy.backoff, "max_doublings", 31),
        "resets": policy.resets_when_live,
        "snapshots": policy.takes_snapshots,
        "honours_offline": any(getattr(fault, "offline_s", 0.0) > 0 for fault in drill.faults),
        "is_up": 1,
        "median_s": model.network.median_ms / 1000,
        "sigma": model.network.sigma,
        "longest_ms": -1.0,
    }
    keys = {f"{purpose}_key": key_of(seed, purpose) for purpose in ("backoff", "delay_u", "delay_v")}
    never = dict.fromkeys(("next_pub", "next_give_up", "first_fault_t", "overloaded_at"), math.inf)
    for name, value in {**values, **never, **keys}.items():
        service[name] = value
    return service
