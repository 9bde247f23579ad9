"""Corrupted messages: hash mismatches and malformed frames that no fault explains.

A fault explains as many as it made, for the clients and events that it affects, while it lasted. A hook explains all, while it
lasted: it chooses its own clients and events, and nobody counts them.
"""

import numpy as np

from sim.record.history import FaultTimes, History, Ints, Mask, Rows
from sim.record.observations import Kind
from sim.server.delivery.disorder import client_key, concerns, concerns_event
from sim.server.tokens import device_id

_IN_FLIGHT_S = 2.0  # [ours] a corrupted frame may still be in flight this long after the fault
_FAULT_OF = {Kind.HASH_MISMATCH: "jumble_deliveries", Kind.MALFORMED: "malform_frames", Kind.ALTERED: "jumble_deliveries"}

_PURPOSES = {"skip_deliveries": "skip_live"}  # the name under which the service draws the clients, where it is not the kind


def unexplained(history: History, kind: Kind) -> Rows:
    """The rows of `kind` (`HASH_MISMATCH`, `ALTERED` or `MALFORMED`) that no fault explains."""
    rows = history.of(kind)
    explained = np.zeros(len(rows), np.bool_)
    for index, (start_t, end_t) in history.fault_times(_FAULT_OF[kind]).items():
        inside = (rows.t >= start_t) & (rows.t <= end_t + _IN_FLIGHT_S)
        if history.parameters(index).get("by") == "hook":
            explained |= inside
            continue
        inside &= _is_affected(history, rows, index, _FAULT_OF[kind])
        explained[np.flatnonzero(inside)[: effects(history).get(index, 0)]] = True
    return rows.take(~explained)


def effects(history: History) -> dict[int, int]:
    """Number of observed effects of each fault, by its index."""
    observed = history.of(Kind.FAULT_OBSERVED)
    return dict(zip(observed.attempt.tolist(), np.nan_to_num(observed.value).astype(int).tolist(), strict=True))


def may_affect(history: History, fault: FaultTimes, clients: Ints) -> Mask:
    """Which of these clients a fault of delivery may affect: all, if a hook injects it or the header does not say its share."""
    parameters = history.parameters(fault.index)
    if parameters.get("by") == "hook" or "clients_share" not in parameters:
        return np.ones(len(clients), np.bool_)
    share, purpose = float(str(parameters["clients_share"])), _PURPOSES.get(fault.kind, fault.kind)
    affected = [
        client
        for client in np.unique(clients).tolist()
        if client >= 0 and concerns(history.header.seed, purpose, client_key(device_id(client)), share)
    ]
    return np.isin(clients, affected)


def named_streams(history: History, fault: FaultTimes) -> set[str] | None:
    """The streams that a fault names; None: all of them, or it is not known which."""
    parameters, own = history.parameters(fault.index), history.header.own_streams
    if fault.kind != "shrink_window" or parameters.get("by") == "hook" or "streams" not in parameters or not own:
        return None
    others = {name for base, name in enumerate(history.streams) if history.base_stream[base] == base} - {*own}
    return {*own[: int(str(parameters["streams"]))], *(others if parameters.get("worker_events") else ())}


def may_concern(history: History, fault: FaultTimes, streams: Ints) -> Mask:
    """Which of these streams a fault of the log may concern: all, if it does not name any."""
    named = named_streams(history, fault)
    codes = [code for code in range(len(history.streams)) if named is None or history.base_name(code) in named]
    return np.isin(streams, codes)


def _is_affected(history: History, rows: Rows, index: int, kind: str) -> Mask:
    """Which rows belong to a client and an event that the fault affects. A row without a seq may belong to any event."""
    plan, seed = history.header.plan, history.header.seed
    fault = plan[index] if index < len(plan) else {}
    clients_share, events_share = (float(str(fault.get(key, 0.0))) for key in ("clients_share", "events_share"))
    keys = {client: client_key(device_id(client)) for client in np.unique(rows.client).tolist()}
    affected = {client for client, key in keys.items() if client >= 0 and concerns(seed, kind, key, clients_share)}
    pairs = zip(rows.client.tolist(), rows.seq.tolist(), strict=True)
    return np.array(
        [
            client in affected and (seq < 0 or concerns_event(seed, kind, keys[client], seq, events_share))
            for client, seq in pairs
        ],
        np.bool_,
    )
