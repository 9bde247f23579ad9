"""Jumbled messages: hash mismatches and malformed frames, beside those that a fault of the plan made on purpose.

A fault excuses no more of them than it made, at its clients, while it lasted. Everything else is the runtime's own doing.
"""

import numpy as np

from sim.record.history import History, Mask, Rows
from sim.record.observations import Kind
from sim.server.disorder import client_key, concerns, concerns_event
from sim.server.tokens import device_id

# [ours] So long after a fault has ended, a frame that it spoilt may still be under way.
_UNDER_WAY_S = 2.0
_MADE_BY = {Kind.HASH_MISMATCH: "jumble_deliveries", Kind.MALFORMED: "malform_frames"}


def unannounced(history: History, kind: Kind) -> Rows:
    """The rows of `kind` (hash mismatches, or malformed frames) that no fault of the plan explains."""
    rows = history.of(kind)
    excused = np.zeros(len(rows), np.bool_)
    for index, (begun_t, ended_t) in history.fault_times(_MADE_BY[kind]).items():
        inside = (rows.t >= begun_t) & (rows.t <= ended_t + _UNDER_WAY_S)
        inside &= _concerned(history, rows, index, _MADE_BY[kind])
        excused[np.flatnonzero(inside)[: acted(history).get(index, 0)]] = True
    return rows.take(~excused)


def acted(history: History) -> dict[int, int]:
    """How often each fault of the plan was seen to act, by its index."""
    observed = history.of(Kind.FAULT_OBSERVED)
    return dict(zip(observed.attempt.tolist(), np.nan_to_num(observed.value).astype(int).tolist(), strict=True))


def _concerned(history: History, rows: Rows, index: int, kind: str) -> Mask:
    """Where a row is of a client that the fault concerns, as the runtime drew it."""
    plan = history.header.plan
    share = float(str(plan[index].get("clients_share", 0.0))) if index < len(plan) else 0.0
    clients = [client for client in np.unique(rows.client).tolist() if client >= 0]
    hit = [client for client in clients if concerns(history.header.seed, kind, client_key(device_id(client)), share)]
    mask: Mask = np.isin(rows.client, hit)
    return mask & _of_its_events(history, rows, index, kind)


def _of_its_events(history: History, rows: Rows, index: int, kind: str) -> Mask:
    """Where a row is of an event that the fault concerns; what is no frame at all does not say of which it is."""
    plan, seed = history.header.plan, history.header.seed
    share = float(str(plan[index].get("events_share", 0.0))) if index < len(plan) else 0.0
    keys = {client: client_key(device_id(client)) for client in np.unique(rows.client).tolist()}
    pairs = zip(rows.client.tolist(), rows.seq.tolist(), strict=True)
    mine = [seq < 0 or concerns_event(seed, kind, keys[client], seq, share) for client, seq in pairs]
    return np.array(mine, np.bool_)
