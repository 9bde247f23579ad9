"""Whose each lost connection was: the client's own, a fault's, the server's, or nobody knows.

A fault explains a disconnect only inside its window and its scope: its clients, and for most kinds one disconnect each. The
window ends `NOTICE_S` after the fault was reverted. What a hook does on a live target may hit any client and may begin late,
so its scope is all of them, until the recovery phase. A server that closes other clients, or the same ones again, or later, is
not excused. An unknown owner is no excuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.analysis.endings import parts_of
from sim.analysis.reconnects import NOTICE_S
from sim.drill.fault_bases import ClientFault
from sim.drill.fault_schedule import PlannedFault
from sim.protocols.events import DisconnectReason, EndedBy
from sim.record.history import FaultTimes, History, Ints, Mask, Rows
from sim.record.observations import Kind

_FIRST_CLOSE_CODE = 1000  # lower numbers are HTTP statuses: each request may be refused
_EVICTED_S = 5.0  # [ours] a client that reads again gets the queued events first, then its eviction
_MANY = np.iinfo(np.int64).max
_ANYONE = (*EndedBy, "")  # the empty text: the record does not say who ended it
_NOT_SAID = ""


class Owner(IntEnum):
    """Who caused a disconnect."""

    CLIENT = 0  # its own decision, such as a token that must be renewed
    FAULT = 1  # of the drill
    SERVER = 2  # it said so, by a code or an answer, and no fault explains it
    UNKNOWN = 3  # nobody said anything, and no fault explains it


@dataclass(frozen=True)
class _Claim:
    """What one kind of fault explains."""

    times: int = 1  # disconnects of each client, or of each of its streams
    by: tuple[str, ...] = _ANYONE  # see `EndedBy`
    notice_s: float = NOTICE_S  # time after the end of the fault in which clients still notice it


_BY_OTHERS = (EndedBy.SERVER, EndedBy.NETWORK, EndedBy.CLIENT, _NOT_SAID)
_OWN_DOUBTS = _Claim(times=_MANY, by=(EndedBy.CLIENT,))  # the client missed events, and starts again
# By kind of fault. A kind that is missing ends no connection. `reset_links` and `close_connections` depend on their parameters.
_CLAIMS: Mapping[str, tuple[_Claim, ...]] = {
    "drop_sockets": (_Claim(by=(EndedBy.FAULT, _NOT_SAID)),),
    "restart_clients": (_Claim(by=(EndedBy.FAULT, _NOT_SAID)), _OWN_DOUBTS),
    "rolling_deploy": (_Claim(by=_BY_OTHERS),),
    "close_connections": (_Claim(by=_BY_OTHERS),),
    "skew_clocks": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "stop_reading": (_Claim(times=_MANY, by=_BY_OTHERS, notice_s=_EVICTED_S),),
    "slow_links": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "stall_links": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "half_open_links": (_Claim(by=_BY_OTHERS),),
    "reset_links": (_Claim(by=_BY_OTHERS),),
    "refuse_connects": (_Claim(times=_MANY, by=(EndedBy.NETWORK, _NOT_SAID)),),
    "cut_after_bytes": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "slow_close": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "expire_tokens": (_Claim(by=_BY_OTHERS),),
    "revoke_sessions": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "stop_delivery": (_Claim(times=_MANY, by=_BY_OTHERS),),
    "recreate_log": (_Claim(by=_BY_OTHERS, notice_s=np.inf), _OWN_DOUBTS),  # a quiet stream shows it late
    "kill_runtime": (_Claim(times=_MANY, by=_BY_OTHERS),),
    **dict.fromkeys(("skip_deliveries", "jumble_deliveries", "reorder_deliveries", "delay_deliveries"), (_OWN_DOUBTS,)),
    # In some protocols, a client ends the connection on which a frame was malformed, with the code of that.
    "malform_frames": (_Claim(times=_MANY, by=(EndedBy.CLIENT, EndedBy.SERVER)),),
    **dict.fromkeys(("shrink_window", "shrink_replay_budget"), (_OWN_DOUBTS,)),
}
_BY_HOOK = (_Claim(times=_MANY, by=_BY_OTHERS),)
_BY_TOKENS = ("mint_outage", "slow_mint", "skew_control", "rotate_keys")  # faults through which a valid token ends unrenewed
_TOKEN_REASONS = (DisconnectReason.UNAUTHORIZED,)


@dataclass(frozen=True)
class Disconnects:
    """The fleet's disconnects in the order of their recording, and whose each one was.

    `planned` has the fault schedule: which clients each fault concerns. A fault that is missing there concerns all of them.
    """

    history: History
    planned: Mapping[int, PlannedFault] = field(default_factory=dict)

    @cached_property
    def _pairs(self) -> tuple[Rows, list[str]]:
        """The disconnects, and per disconnect who ended the connection, with its code; empty if the record does not say it."""
        both = self.history.fleet(Kind.DISCONNECTED, Kind.ENDED)
        both = both.take(np.argsort(both.client, kind="stable"))
        is_cut = both.is_kind(Kind.DISCONNECTED)
        place = np.flatnonzero(is_cut)
        after = np.minimum(place + 1, len(both) - 1)
        is_said = (
            (after > place) & ~is_cut[after] & (both.client[after] == both.client[place]) & (both.t[after] == both.t[place])
        )
        said = [
            ":".join(parts_of(self.history.details[int(both.detail[row])], int(both.attempt[row]))[:2]) if is_known else ""
            for row, is_known in zip(after.tolist(), is_said.tolist(), strict=True)
        ]
        rows = both.take(place)
        order = np.argsort(rows.number, kind="stable")
        return rows.take(order), [said[number] for number in order.tolist()]

    @property
    def rows(self) -> Rows:
        """The disconnects."""
        return self._pairs[0]

    @property
    def said(self) -> list[str]:
        """Who ended each connection, and the code, joined by a colon; empty if the record does not say it."""
        return self._pairs[1]

    @cached_property
    def fault(self) -> Ints:
        """Per disconnect, the index of the fault that explains it; -1: none does."""
        rows, found = self.rows, np.full(len(self.rows), -1, np.int64)
        for fault in self.history.faults:
            for claim in self._claims(fault):
                where = np.flatnonzero((found < 0) & self._matches(fault, claim))
                found[where[_turn(self.history.pair(rows)[where]) < claim.times]] = fault.index
        return found

    @cached_property
    def _by(self) -> NDArray[np.str_]:
        """Per disconnect, who ended the connection; empty if the record does not say it."""
        return np.array([text.partition(":")[0] for text in self.said], "U8")

    def _matches(self, fault: FaultTimes, claim: _Claim) -> Mask:
        """Which disconnects lie in the fault's window and scope, and ended as it ends them."""
        rows = self.rows
        found = ~self._is_own & np.isin(self._by, claim.by) & self.is_named(fault, rows)
        found &= (rows.t >= fault.start_t) & (rows.t <= self._end_t(fault) + claim.notice_s)
        if fault.kind in _BY_TOKENS and not self.is_hooked(fault):
            found &= self.history.detail_is(rows, _TOKEN_REASONS)
        return found

    def _end_t(self, fault: FaultTimes) -> float:
        """When a fault ended. What a hook asks for may begin after its command has ended, at the latest before recovery."""
        return max(fault.end_t, self.history.phases.get("recovery", np.inf)) if self.is_hooked(fault) else fault.end_t

    def cut_by(self, fault: FaultTimes) -> Ints:
        """The clients that a fault can have disconnected, by its window, its scope and the way the connections ended."""
        found = np.zeros(len(self.rows), np.bool_)
        for claim in self._claims(fault):
            found |= self._matches(fault, claim)
        return np.unique(self.rows.client[found])

    def _claims(self, fault: FaultTimes) -> tuple[_Claim, ...]:
        parameters = self.history.parameters(fault.index)
        if self.is_hooked(fault):
            return _BY_HOOK
        if fault.kind == "reset_links":
            return (_Claim(times=int(str(parameters.get("times", 1))), by=_BY_OTHERS),)
        refuses = any(int(str(code)) < _FIRST_CLOSE_CODE for code in parameters.get("codes", ()) or ())  # type: ignore[attr-defined]
        if fault.kind == "close_connections" and (refuses or float(str(parameters.get("after_ms", 0.0)))):
            return (_Claim(times=_MANY, by=_BY_OTHERS),)
        return _BY_HOOK if fault.kind in _BY_TOKENS else _CLAIMS.get(fault.kind, ())

    def is_hooked(self, fault: FaultTimes) -> bool:
        """Whether a hook of the target injects this fault."""
        return self.history.parameters(fault.index).get("by") == "hook"

    def is_named(self, fault: FaultTimes, rows: Rows) -> Mask:
        """Which rows are of a client that the fault concerns."""
        planned = self.planned.get(fault.index)
        is_known = planned is not None and planned.kind == fault.kind and isinstance(planned.fault, ClientFault)
        if planned is None or not is_known or self.is_hooked(fault):
            return np.ones(len(rows), np.bool_)
        return np.isin(rows.client, planned.clients)

    @cached_property
    def _is_own(self) -> Mask:
        """Which disconnects the client decided on its own, whatever the service does."""
        return self.history.detail_is(self.rows, [DisconnectReason.TOKEN_REFRESH_DUE])

    @cached_property
    def owner(self) -> Ints:
        """Per disconnect, the code of its `Owner`."""
        is_servers = np.array([text.startswith(f"{EndedBy.SERVER}:") for text in self.said], np.bool_)
        found = np.where(is_servers, Owner.SERVER, Owner.UNKNOWN)
        return np.where(self._is_own, Owner.CLIENT, np.where(self.fault >= 0, Owner.FAULT, found))

    @property
    def unexcused(self) -> Mask:
        """Which disconnects neither the client decided nor a fault explains."""
        return np.isin(self.owner, (Owner.SERVER, Owner.UNKNOWN))

    def of_fault(self, index: int) -> Rows:
        """The disconnects that a fault explains."""
        return self.rows.take(self.fault == index)


def _turn(pairs: Ints) -> Ints:
    """Per row, how many rows of the same pair come before it."""
    order = np.argsort(pairs, kind="stable")
    first = np.append(True, np.diff(pairs[order]) != 0)[: len(order)]
    starts = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0)) if len(order) else order
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - starts
    return turn
