"""Whose each lost connection was: the client's own, a fault's, the server's, or nobody knows.

A fault explains a disconnect only inside its window and its scope, and only if the connection ended as the fault ends it: its
clients, for most kinds one disconnect each, with its code. The window ends `NOTICE_S` after the fault was reverted. What a hook
does on a live target may hit any client and may begin late: its scope is all of them, and until the recovery phase it may close
each as often as the target states. A server that closes other clients, or the same ones again, or later, or with another code,
is not excused. An unknown owner is no excuse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.analysis import corrupted
from sim.analysis.endings import parts_of
from sim.analysis.reconnects import NOTICE_S
from sim.drill.fault_bases import ClientFault
from sim.drill.fault_kinds import CloseConnections
from sim.drill.fault_schedule import PlannedFault
from sim.drill.target_rules import ENDS_EACH
from sim.protocols import endings
from sim.protocols.events import DisconnectReason, EndedBy
from sim.record.history import FaultTimes, Floats, History, Ints, Mask, Rows
from sim.record.observations import Kind

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


class _How(Enum):
    """How a connection ended, as far as a fault decides that."""

    ANYHOW = "anyhow"
    SILENCE = "silence"  # one side heard nothing, or nothing was read
    DOUBT = "doubt"  # the client missed events, and starts again
    TOKEN = "token"  # it was no longer valid
    STALE = "stale"  # the position was of another log
    ORDERED = "ordered"  # with the code that the fault orders
    MALFORMED = "malformed"  # with the code of a malformed frame that the fault made
    REFUSED = "refused"  # it was not yet live, and came with a session that was revoked


@dataclass(frozen=True)
class _Claim:
    """What one kind of fault explains."""

    times: int = 1  # disconnects of each client
    by: tuple[str, ...] = _ANYONE  # see `EndedBy`
    how: _How = _How.ANYHOW
    notice_s: float = NOTICE_S  # time after the end of the fault in which clients still notice it
    until_recovery: bool = False  # what a hook asks for may begin after its command has ended, at the latest before recovery


_BY_OTHERS = (EndedBy.SERVER, EndedBy.NETWORK, EndedBy.CLIENT, _NOT_SAID)
_BY_NETWORK = (EndedBy.NETWORK, _NOT_SAID)
_SILENCE = _Claim(times=_MANY, by=_BY_OTHERS, how=_How.SILENCE)
_OWN_DOUBTS = _Claim(times=_MANY, by=(EndedBy.CLIENT,), how=_How.DOUBT)
_TOKEN = _Claim(times=_MANY, by=_BY_OTHERS, how=_How.TOKEN)
_OUTAGE_TIMES = 2  # [ours] an outage ends a client's connection, and one more that came while the service stopped or started
# By kind of fault. A kind that is missing ends no connection. Those of `_claims` depend on their parameters.
_CLAIMS: Mapping[str, tuple[_Claim, ...]] = {
    "drop_sockets": (_Claim(by=(EndedBy.FAULT, _NOT_SAID)),),
    "restart_clients": (_Claim(by=(EndedBy.FAULT, _NOT_SAID)), _OWN_DOUBTS),
    "rolling_deploy": (_Claim(by=_BY_OTHERS),),
    "close_connections": (_Claim(times=_MANY, by=(EndedBy.SERVER, *_BY_NETWORK), how=_How.ORDERED),),
    "skew_clocks": (_TOKEN,),
    "stop_reading": (
        _Claim(by=(EndedBy.SERVER, *_BY_NETWORK), how=_How.SILENCE, notice_s=_EVICTED_S),
        _Claim(times=_MANY, by=(EndedBy.CLIENT,), notice_s=_EVICTED_S),
    ),
    "slow_links": (_SILENCE,),
    "stall_links": (_SILENCE,),
    "half_open_links": (_Claim(by=_BY_OTHERS, how=_How.SILENCE),),
    "cut_after_bytes": (_Claim(times=_MANY, by=(*_BY_NETWORK, EndedBy.CLIENT)),),
    "expire_tokens": (_Claim(by=_BY_OTHERS),),
    "revoke_sessions": (_Claim(times=_MANY, by=_BY_OTHERS, how=_How.REFUSED), _Claim(by=_BY_OTHERS)),
    "stop_delivery": (_Claim(times=_OUTAGE_TIMES, by=_BY_OTHERS),),
    "recreate_log": (
        _Claim(by=_BY_OTHERS),
        _Claim(by=_BY_OTHERS, how=_How.STALE, notice_s=np.inf),  # a quiet stream shows it late
        _OWN_DOUBTS,
    ),
    "kill_runtime": (_Claim(times=_OUTAGE_TIMES, by=(*_BY_NETWORK, EndedBy.CLIENT)),),
    **dict.fromkeys(("skip_deliveries", "jumble_deliveries", "reorder_deliveries", "delay_deliveries"), (_OWN_DOUBTS,)),
    # In some protocols, a client ends the connection on which a frame was malformed, with the code of that.
    "malform_frames": (_Claim(times=_MANY, by=(EndedBy.CLIENT, EndedBy.SERVER), how=_How.MALFORMED), _OWN_DOUBTS),
    **dict.fromkeys(("shrink_window", "shrink_replay_budget"), (_OWN_DOUBTS,)),
    # Faults through which a valid token ends unrenewed.
    **dict.fromkeys(("mint_outage", "slow_mint", "skew_control", "rotate_keys"), (_TOKEN,)),
}
_TOKEN_REASONS = (DisconnectReason.UNAUTHORIZED,)
_DOUBTS = (DisconnectReason.UNKNOWN, DisconnectReason.STALE_CURSOR, DisconnectReason.STREAM_CLOSED)


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
                where = where[_turn(self.history.pair(rows)[where]) < claim.times]
                if claim.how is _How.ORDERED:  # at most as many as it made
                    where = where[: corrupted.effects(self.history).get(fault.index, 0)]
                found[where] = fault.index
        return found

    @cached_property
    def _by(self) -> NDArray[np.str_]:
        """Per disconnect, who ended the connection; empty if the record does not say it."""
        return np.array([text.partition(":")[0] for text in self.said], "U8")

    @cached_property
    def _codes(self) -> list[str]:
        """Per disconnect, the code of the end; empty if the record does not say it."""
        return [text.partition(":")[2] for text in self.said]

    def _matches(self, fault: FaultTimes, claim: _Claim) -> Mask:
        """Which disconnects lie in the fault's window and scope, and ended as it ends them."""
        rows = self.rows
        found = ~self._is_own & np.isin(self._by, claim.by) & self.is_named(fault, rows)
        found &= (rows.t >= fault.start_t) & (rows.t <= self._end_t(fault, claim) + claim.notice_s + self._late_s(fault))
        ways: Mapping[_How, Callable[[], Mask]] = {
            _How.SILENCE: lambda: self.may_come_of_silence | self.is_of_token,
            _How.DOUBT: lambda: self.history.detail_is(rows, _DOUBTS),
            _How.TOKEN: lambda: self.is_of_token,
            _How.STALE: lambda: (self._by == EndedBy.CLIENT) | self.history.detail_is(rows, [DisconnectReason.STALE_CURSOR]),
            _How.ORDERED: lambda: self._is_ordered(fault),
            _How.MALFORMED: lambda: self._is_of_malformed_frame,
            _How.REFUSED: lambda: self._is_of_revoked_session,
        }
        return found & ways[claim.how]() if claim.how in ways else found

    def _end_t(self, fault: FaultTimes, claim: _Claim) -> float:
        """When a fault ended, as far as a claim counts."""
        return max(fault.end_t, self.history.phases.get("recovery", np.inf)) if claim.until_recovery else fault.end_t

    def _late_s(self, fault: FaultTimes) -> float:
        """By how much `slow_close` may delay the ends that a fault makes."""
        slow = [each for each in self.history.faults if each.kind == "slow_close"]
        during = [each.index for each in slow if each.start_t <= fault.end_t and each.end_t >= fault.start_t]
        return max((float(str(self.history.parameters(index).get("delay_ms", 0.0))) / 1000 for index in during), default=0.0)

    @cached_property
    def may_come_of_silence(self) -> Mask:
        """Which connections may have ended because one side heard nothing for too long, or read too slowly.

        A server that states another code than those that its protocol has for this ended them for another reason.
        """
        known = self.history.header.capabilities.get("silence_codes")
        is_servers = self._by == EndedBy.SERVER
        if not isinstance(known, list | tuple):  # the protocol does not state them
            return np.ones(len(self.rows), np.bool_)
        return np.array(~is_servers | np.isin(np.array(self._codes, np.str_), np.array(known, np.str_)), np.bool_)

    @property
    def is_of_token(self) -> Mask:
        """Which connections the server ended because it did not take the client's token any more."""
        return self.history.detail_is(self.rows, _TOKEN_REASONS)

    @cached_property
    def token_age_s(self) -> Floats:
        """Per disconnect, for how long its client had had its token, in seconds; infinite for a client that minted none."""
        return self.rows.t - _last_t_of_client(self.history.fleet(Kind.TOKEN_MINTED), self.rows)

    @cached_property
    def _is_of_malformed_frame(self) -> Mask:
        """Which connections ended at a malformed frame that a fault explains, with its code."""
        frames, details = self.history.fleet(Kind.MALFORMED), self.history.details
        bad = set(corrupted.unexplained(self.history, Kind.MALFORMED).number.tolist())
        shown = zip(frames.client.tolist(), frames.t.tolist(), frames.detail.tolist(), frames.number.tolist(), strict=True)
        made = {(client, t, details[code]) for client, t, code, number in shown if number not in bad}
        ends = zip(self.rows.client.tolist(), self.rows.t.tolist(), self._codes, strict=True)
        return np.array([end in made for end in ends], np.bool_)

    @cached_property
    def _is_of_revoked_session(self) -> Mask:
        """Which connections ended before their client was live, and were asked for with a session that was revoked."""
        rows, fleet, minted = self.rows, self.history.fleet, self.history.fleet(Kind.TOKEN_MINTED)
        asked = minted.having(t=minted.t - np.nan_to_num(minted.value) / 1000)  # a token asked for before is of that session
        revoked_t, signed_t = (_last_t_of_client(fleet(kind), rows) for kind in (Kind.SESSION_REVOKED, Kind.SIGNED_IN))
        is_live = _last_t_of_client(fleet(Kind.SUBSCRIBED), rows) > _last_t_of_client(rows, rows)
        is_old = (signed_t < revoked_t) | (_last_t_of_client(asked, rows) <= signed_t)
        return ~is_live & np.isfinite(revoked_t) & is_old

    def _is_ordered(self, fault: FaultTimes) -> Mask:
        """Which connections ended with the code that `close_connections` orders for their client, and when it ends them.

        Open connections end once. With `after_ms`, each new one ends so long after it was accepted. A status refuses each
        request, where clients have a connection per stream.
        """
        rows, has_requests = self.rows, not self._has_one_connection
        is_stated, is_silent = self._with_ordered_code(fault)
        is_code = is_stated | is_silent
        inside = np.flatnonzero((rows.t >= fault.start_t) & self.is_named(fault, rows) & is_code)
        found = np.zeros(len(rows), np.bool_)
        found[inside[_turn(rows.client[inside]) == 0]] = True
        found |= is_stated & has_requests
        if after_s := float(str(self.history.parameters(fault.index).get("after_ms", 0.0))) / 1000:
            tried, done = self.history.fleet(Kind.CONNECT_ATTEMPTED), self.history.fleet(Kind.CONNECT_DONE)
            tried_t, done_t = (_last_t_of_client(each, rows) for each in (tried, done))
            found |= has_requests | ((rows.t - tried_t >= after_s) & (rows.t - done_t <= after_s + NOTICE_S))
        return found & is_code

    def _with_ordered_code(self, fault: FaultTimes) -> tuple[Mask, Mask]:
        """Which connections a server ended with the code ordered for their client, and which a code without words did."""
        codes: object = self.history.parameters(fault.index).get("codes")
        any_of = {str(code) for code in codes} if isinstance(codes, list | tuple) else set()
        planned, own = self.planned.get(fault.index), dict[int, set[str]]()
        if planned is not None and isinstance(planned.fault, CloseConnections):
            own = {client: {str(planned.fault.code_of(place))} for place, client in enumerate(sorted(planned.clients))}
        is_stated, is_silent = np.zeros(len(self.rows), np.bool_), self._by == _NOT_SAID
        for row, (client, by, code) in enumerate(zip(self.rows.client.tolist(), self._by.tolist(), self._codes, strict=True)):
            ordered, said = own.get(client, any_of), code.partition(" ")[0]
            is_cut = any(int(each) < endings.FIRST_CLOSE_CODE or int(each) == endings.NO_CLOSE_FRAME for each in ordered)
            is_word = not said.isdecimal() and (not is_cut or not self._has_one_connection)  # in place of a close code
            is_stated[row] = by == EndedBy.SERVER and (said in ordered or is_word)
            is_silent[row] |= by == EndedBy.NETWORK and is_cut
        return is_stated, is_silent

    @property
    def _has_one_connection(self) -> bool:
        return bool(self.history.header.capabilities.get("is_one_connection", True))

    def cut_by(self, fault: FaultTimes) -> Ints:
        """The clients that a fault can have disconnected, by its window, its scope and the way the connections ended."""
        found = np.zeros(len(self.rows), np.bool_)
        for claim in self._claims(fault):
            found |= self._matches(fault, claim)
        return np.unique(self.rows.client[found])

    def _claims(self, fault: FaultTimes) -> tuple[_Claim, ...]:
        if self.is_hooked(fault):
            times = int(str(self.history.parameters(fault.index).get("ends_each", ENDS_EACH)))
            late = (replace(claim, until_recovery=True) for claim in self._own_claims(fault) if claim.times == _MANY)
            return (*late, _Claim(times=times, by=_BY_OTHERS, until_recovery=True))
        return self._own_claims(fault)

    def _own_claims(self, fault: FaultTimes) -> tuple[_Claim, ...]:
        """What a fault explains that stormgate injects itself."""
        if fault.kind == "reset_links":
            times = int(str(self.history.parameters(fault.index).get("times", 1)))
            return (_Claim(times=times, by=_BY_NETWORK), _OWN_DOUBTS)
        if fault.kind == "refuse_connects" and not self._has_one_connection:  # each request is a connect
            return (_Claim(times=_MANY, by=_BY_NETWORK),)
        return _CLAIMS.get(fault.kind, ())

    def is_hooked(self, fault: FaultTimes) -> bool:
        """Whether a hook of the target injects this fault."""
        return self.history.parameters(fault.index).get("by") == "hook"

    def is_named(self, fault: FaultTimes, rows: Rows) -> Mask:
        """Which rows are of a client that the fault concerns."""
        if self.is_hooked(fault):
            return np.ones(len(rows), np.bool_)
        planned = self.planned.get(fault.index)
        if planned is not None and planned.kind == fault.kind and isinstance(planned.fault, ClientFault):
            return np.isin(rows.client, planned.clients)
        return corrupted.may_affect(self.history, fault, rows.client) & self._reads_named_stream(fault, rows)

    def _reads_named_stream(self, fault: FaultTimes, rows: Rows) -> Mask:
        """Which rows are of a client that reads a stream that the fault names; or all, if nobody says what it reads."""
        named, subscriptions = corrupted.named_streams(self.history, fault), self.history.header.subscriptions
        if named is None:
            return np.ones(len(rows), np.bool_)
        readers = [int(client) for client, streams in subscriptions.items() if named.intersection(streams)]
        return np.isin(rows.client, readers) | np.isin(rows.client, [*map(int, subscriptions)], invert=True)

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


def _last_t_of_client(earlier: Rows, rows: Rows) -> Floats:
    """Per row, the time of the last of `earlier` of its client before it; minus infinity without one."""
    earlier = earlier.take(np.lexsort((earlier.t, earlier.client)))
    found = np.full(len(rows), -np.inf)
    for place, (client, t) in enumerate(zip(rows.client.tolist(), rows.t.tolist(), strict=True)):
        begin, end = np.searchsorted(earlier.client, [client, client + 1])
        at = begin + int(np.searchsorted(earlier.t[begin:end], t))
        found[place] = earlier.t[at - 1] if at > begin else -np.inf
    return found
