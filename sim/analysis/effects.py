"""Whether each fault took effect, on the clients that it concerns and on enough of them.

| fault | its effect |
|---|---|
| cuts and closes | the clients that it names lost a connection in its window |
| `restart_clients`, `forget_tokens` | the record names each client that it hit |
| `close_connections`, and faults of the whole service | the clients that were live when it began were disconnected |
| `stall_links` | the clients that it names received nothing |
| `stop_reading` | the same, on the connections that they had: a client that lost its own reads on the next one |
| `slow_links` | what the clients that it names received was that late |
| `refuse_connects` | no connect of the clients that it names succeeded |
| `half_open_links` | the clients whose connection it halved lost it |
| switches of the server | the server counted what it did, and clients saw at least half of it where each effect shows |
| `shrink_window`, `recreate_log` | nobody got the deleted events afterwards |
| a hook | clients saw its sign, and not as often before |

The exit code of a hook proves nothing, and neither does what other clients saw.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.analysis import corrupted
from sim.analysis.disconnects import Disconnects
from sim.analysis.reconnects import NOTICE_S
from sim.protocols.adapter import StaleSign
from sim.protocols.events import DisconnectReason, Outcome
from sim.record.history import FaultTimes, Floats, History, Ints, Rows
from sim.record.observations import Kind
from sim.record.published import first_sent_t, published_events

HIT_SHARE = 0.9  # [ours] share of the clients that a fault must affect
_SLOW_ENOUGH = 0.9  # share of the injected delay: what took at least this long was delayed by the fault
_CUTS = ("drop_sockets", "rolling_deploy", "close_connections", "reset_links")
_OF_THE_SERVICE = ("expire_tokens", "kill_runtime", "stop_delivery")
_RECORDED = {
    "restart_clients": (Kind.RESTARTED, "killed"),
    "forget_tokens": (Kind.TOKEN_FORGOTTEN, "took the tokens of"),
    "revoke_sessions": (Kind.SESSION_REVOKED, "revoked the sessions of"),
}
_ON_LINKS = ("slow_links", "stall_links", "half_open_links", "stop_reading")  # each affected connection is counted
# How clients observe a fault that a hook injects, and the text if they do not. Other kinds show as disconnects.
SHOWS_AS = {
    "slow_mint": (Kind.TOKEN_MINTED, "no token took so long"),
    "mint_outage": (Kind.TOKEN_REFUSED, "no token was refused"),
    "revoke_sessions": (Kind.DISCONNECTED, "no client was disconnected"),
    "slow_publishes": (Kind.PUBLISHED, "no publish took so long"),
    "fail_publishes": (Kind.PUBLISH_TRIED, "no publish was refused"),
    "skip_deliveries": (Kind.GAP, "no client missed an event"),
    "duplicate_deliveries": (Kind.DUPLICATE_DROPPED, "no client got an event twice"),
    "reorder_deliveries": (Kind.GAP, "no client got an event before its turn"),
    "delay_deliveries": (Kind.GAP, "no client got an event before its turn"),
    "jumble_deliveries": (Kind.HASH_MISMATCH, "no client got an event with a wrong hash"),
    "malform_frames": (Kind.MALFORMED, "no client got a malformed frame"),
    "shrink_window": (Kind.STALE, "no client got a stale answer"),
    "shrink_replay_budget": (Kind.STALE, "no client got a stale answer"),
    "recreate_log": (Kind.STALE, "no position started over, and no client got a stale answer"),
}
# Faults of which each effect shows to a client for certain, and the share of the counted effects that must show: some may be
# under way when a connection or the run ends. Events that are skipped in a row show once, and so do the streams of a subscribe.
_SHOWN_SHARES = {
    **dict.fromkeys(("slow_mint", "mint_outage", "slow_publishes", "fail_publishes"), 0.5),
    **dict.fromkeys(("skip_deliveries", "shrink_replay_budget"), 0.0),
}
# Faults that concern each request of a kind, and the rows that tell what became of it. Once a hook's fault shows, it goes on.
_OF_EACH = {
    "slow_publishes": (Kind.PUBLISHED,),
    "slow_mint": (Kind.TOKEN_MINTED,),
    "mint_outage": (Kind.TOKEN_MINTED, Kind.TOKEN_REFUSED),
}
_HOLDS_SHARE = 0.5  # [ours] of those requests; a hook may end it a little earlier
_LATER = ("shrink_window", "recreate_log")  # a client notices them when it returns, even after they were reverted


@dataclass(frozen=True)
class Effects:
    """The effects of the faults of one run."""

    history: History
    ends: Disconnects

    def missing(self, index: int) -> str:
        """Return why a fault was not injected, had too little effect or was not reverted, in words; empty otherwise."""
        history = self.history
        fault = next((each for each in history.faults if each.index == index), None)
        if fault is None:
            return "was not injected"
        if not self._counted(index) >= 1:
            return "had no observed effect"
        if not bool((history.of(Kind.FAULT_REVERTED).attempt == index).any()):
            return "was not reverted"
        if (tally := history.header.tally) is not None:
            hit = next((each.clients for each in tally.recoveries if each.index == index), 0)
            is_cut = self._kind(index) in (*_CUTS, *_OF_THE_SERVICE)
            return _too_few("disconnected", hit, self._wanted(index) or history.header.clients) if is_cut else ""
        return self._missed(fault, self._kind(index))

    def _missed(self, fault: FaultTimes, kind: str) -> str:
        if self.ends.is_hooked(fault):
            return self._missed_by_hook(fault, kind)
        if kind == "close_connections":  # upgrades of clients that were not live were refused instead
            return self._missed_live(fault)
        if kind in _CUTS:
            hit = min(len(self.ends.cut_by(fault)), int(self._counted(fault.index)))
            return _too_few("disconnected", hit, self._wanted(fault.index))
        if kind in _OF_THE_SERVICE:
            return self._missed_live(fault)
        if kind in _RECORDED:
            row_kind, verb = _RECORDED[kind]
            hit = len(np.unique(self._during(self.history.fleet(row_kind), fault).client))
            return _too_few(verb, min(hit, int(self._counted(fault.index))), self._wanted(fault.index))
        if kind in _ON_LINKS and (few := _too_few("affected", int(self._counted(fault.index)), self._wanted(fault.index))):
            return few
        if kind == "half_open_links":
            return _too_few("disconnected", len(self.ends.cut_by(fault)), int(self._counted(fault.index)))
        if kind in _SHOWN_SHARES:
            return self._unseen(fault, kind)
        return self._still_read(fault, kind) if kind in _LATER else self._missed_on_links(fault, kind)

    # --- switches of the server ---------------------------------------------------------------------

    def _unseen(self, fault: FaultTimes, kind: str) -> str:
        """Whether clients saw at least the share that they must see of what the service counted."""
        able = self.history.header.capabilities
        is_silent = kind == "shrink_replay_budget" and able.get("stale") == StaleSign.SILENT
        if is_silent or (kind == "skip_deliveries" and self.history.positions != "dense"):
            return ""
        signs, delay_s = self._signs(kind, fault.index), self._parameter_ms(fault, "delay_ms") / 1000
        seen = int(((signs >= fault.start_t) & (signs <= fault.end_t + NOTICE_S + delay_s)).sum())
        counted = int(self._counted(fault.index))
        is_enough = seen >= max(1.0, _SHOWN_SHARES[kind] * counted)
        return "" if is_enough else f"counted {counted} effects, but clients saw {seen} of them"

    def _still_read(self, fault: FaultTimes, kind: str) -> str:
        """Whether a new reader, or the service over HTTP, still returned events that the fault deleted."""
        history, published = self.history, published_events(self.history)
        kept = int(str(history.parameters(fault.index).get("keep_events", 0)))
        if kind == "shrink_window" and corrupted.named_streams(history, fault) is None:
            return ""  # on shared streams, it is not known which were trimmed
        before = published.place_acknowledged(published.stream, np.full(len(published), fault.start_t))
        is_deleted = (published.place <= before - kept) & corrupted.may_concern(history, fault, published.stream)
        found = published.find(history.auditor_rows(Kind.APPLIED).and_then(history.of(Kind.READ_BACK)))
        still = int(is_deleted[np.unique(found[found >= 0])].sum())
        return f"left {still} events there that it said it deleted" if still else ""

    def _parameter_ms(self, fault: FaultTimes, name: str) -> float:
        return float(str(self.history.parameters(fault.index).get(name, 0.0)))

    # --- what the record says of a fault ------------------------------------------------------------

    def _kind(self, index: int) -> str:
        return str(self.history.parameters(index).get("kind"))

    def _wanted(self, index: int) -> int:
        """How many clients a fault names."""
        return int(str(self.history.parameters(index).get("clients", self.history.header.clients)))

    def _counted(self, index: int) -> float:
        """How often the fault took effect, by those who injected it."""
        observed = self.history.of(Kind.FAULT_OBSERVED)
        return float(np.nan_to_num(observed.value[observed.attempt == index]).max(initial=0.0))

    def _during(self, rows: Rows, fault: FaultTimes, notice_s: float = NOTICE_S) -> Rows:
        """The rows of the fault's own clients in its window."""
        inside = (rows.t >= fault.start_t) & (rows.t <= fault.end_t + notice_s)
        return rows.take(inside & self.ends.is_named(fault, rows))

    # --- clients and their links --------------------------------------------------------------------

    def _missed_live(self, fault: FaultTimes) -> str:
        """Whether the clients that were live when the fault began were disconnected; without clients, publishes fail."""
        if not self.history.header.has_socket:
            tries = self._during(self.history.of(Kind.PUBLISH_TRIED), fault)
            is_down = self.history.detail_is(tries, [Outcome.UNKNOWN, Outcome.REFUSED]).any()
            return "" if is_down else "was injected by a hook, but no publish failed"
        live = self._live_at(fault)
        hit = len(np.intersect1d(live, self.ends.cut_by(fault)))
        if self._kind(fault.index) in ("expire_tokens", "close_connections") and not self.ends.is_hooked(fault):
            hit = min(hit, int(self._counted(fault.index)))
        return _too_few("disconnected", hit, len(live))

    def _live_at(self, fault: FaultTimes) -> Ints:
        """The fault's clients that were live just before it."""
        rows = self.history.fleet(Kind.SUBSCRIBED, Kind.DISCONNECTED)
        rows = rows.take((rows.t < fault.start_t) & self.ends.is_named(fault, rows))
        live = np.zeros(self.history.header.clients, np.bool_)
        live[rows.client] = rows.is_kind(Kind.SUBSCRIBED)  # the last row of a client wins
        return np.flatnonzero(live)

    def _missed_on_links(self, fault: FaultTimes, kind: str) -> str:
        parameters = self.history.parameters(fault.index)
        reaches_clients = parameters.get("direction", "both") in ("both", "to_client")
        if kind == "refuse_connects":
            done = self._during(self.history.fleet(Kind.CONNECT_DONE), fault, notice_s=0.0)
            through = int((done.t - done.value / 1000 > fault.start_t).sum())
            return f"let {through} connects pass" if through else ""
        if kind in ("stall_links", "stop_reading") and reaches_clients:
            rows = self.history.fleet(Kind.RECEIVED, Kind.APPLIED)
            rows = self._during(rows.take(rows.t > fault.start_t + NOTICE_S), fault, notice_s=0.0)
            until_t = self._first_end_t(fault)[rows.client] if kind == "stop_reading" else fault.end_t
            still = len(np.unique(rows.client[rows.t < np.minimum(until_t, fault.end_t)]))
            return _too_few("silenced", self._wanted(fault.index) - still, self._wanted(fault.index))
        if kind == "slow_links" and reaches_clients and float(str(parameters.get("latency_ms", 0.0))):
            return self._missed_delay(fault, float(str(parameters["latency_ms"])))
        return "was felt by none of its clients" if kind == "cut_after_bytes" and not len(self.ends.cut_by(fault)) else ""

    def _first_end_t(self, fault: FaultTimes) -> Floats:
        """When each client first lost a connection that the fault had silenced; infinite if it did not."""
        ends = self.history.fleet(Kind.DISCONNECTED)
        ends = ends.take(ends.t > fault.start_t + NOTICE_S)
        first_t = np.full(self.history.header.clients, np.inf)
        np.minimum.at(first_t, ends.client, ends.t)
        return first_t

    def _missed_delay(self, fault: FaultTimes, delay_ms: float) -> str:
        """Whether events that were sent and applied during the fault took at least the injected delay."""
        rows = self._during(self.history.fleet(Kind.APPLIED), fault, notice_s=0.0)
        rows = rows.take(rows.marker >= 0)
        sent_t = first_sent_t(self.history, rows.stream, rows.marker, np.full(len(rows), np.nan))
        rows, sent_t = rows.take(sent_t > fault.start_t), sent_t[sent_t > fault.start_t]
        quick = np.unique(rows.client[(rows.t - sent_t) * 1000 < _SLOW_ENOUGH * delay_ms])
        return _too_few("delayed what was sent to", len(np.unique(rows.client)) - len(quick), len(np.unique(rows.client)))

    # --- hooks --------------------------------------------------------------------------------------

    def _missed_by_hook(self, fault: FaultTimes, kind: str) -> str:
        """Why the clients' observations do not confirm a hook's fault; empty if they do. It may hit other clients."""
        if kind in (*_CUTS, *_OF_THE_SERVICE):
            if kind in _OF_THE_SERVICE or not self.history.header.has_socket:
                return self._missed_live(fault)
            return _too_few("disconnected", len(self.ends.cut_by(fault)), self._wanted(fault.index))
        if kind not in SHOWS_AS:
            return "was injected by a hook, and clients cannot observe whether it took effect"
        if kind == "recreate_log" and self.history.deleted_by_fault().any():
            return ""
        _, what = SHOWS_AS[kind]
        signs = self._signs(kind, fault.index)
        until_t = np.inf if kind in _LATER else fault.end_t + NOTICE_S
        during = int(((signs >= fault.start_t) & (signs <= until_t)).sum())
        if not during:
            return f"was injected by a hook, but {what}"
        before_s = self.history.first_fault_t - self._first_live_t
        before, lasted_s = (
            int((signs < self.history.first_fault_t).sum()),
            min(until_t, self.history.duration_s) - fault.start_t,
        )
        if before and before * lasted_s >= during * before_s:
            return f"was injected by a hook, but clients saw its signs as often before: {before} times in {before_s:.1f} s"
        return self._stopped(fault, kind) if kind in _OF_EACH else ""

    def _stopped(self, fault: FaultTimes, kind: str) -> str:
        """Whether a hook's fault concerned too few of the requests that began between its first sign and its end."""
        shown, all_t = self._begun(self._sign_rows(kind, fault.index)), self._begun(self.history.of(*_OF_EACH[kind]))
        shown = shown[(shown >= fault.start_t - NOTICE_S) & (shown <= fault.end_t)]
        if len(shown) == 0:  # it showed by a request from before, or that began as it ended
            return ""
        n = int(((all_t >= shown.min()) & (all_t <= fault.end_t)).sum())
        return "" if len(shown) >= _HOLDS_SHARE * n else f"showed in {len(shown)} of {n} requests only: it did not last"

    @staticmethod
    def _begun(rows: Rows) -> Floats:
        """When each request was due."""
        began: Floats = rows.t - np.nan_to_num(rows.value) / 1000
        return began

    def _signs(self, kind: str, index: int) -> Floats:
        """The times of the observations that show this kind of fault."""
        return self._sign_rows(kind, index).t

    def _sign_rows(self, kind: str, index: int) -> Rows:
        rows = self.history.of(SHOWS_AS[kind][0])
        rows = rows.take(~self.history.detail_is(rows, [DisconnectReason.TOKEN_REFRESH_DUE]))
        if kind == "fail_publishes":
            is_hooked = self.history.parameters(index).get("by") == "hook"  # others may lack an answer for another reason
            rows = rows.take(self.history.detail_is(rows, [Outcome.REFUSED, *([] if is_hooked else [Outcome.UNKNOWN])]))
        if kind.startswith("slow_") and "delay_ms" in (parameters := self.history.parameters(index)):
            rows = rows.take(rows.value >= _SLOW_ENOUGH * float(str(parameters["delay_ms"])))
        return rows

    @cached_property
    def _first_live_t(self) -> float:
        live_t = self.history.first_live_t
        return float(live_t.min(initial=np.inf)) if np.isfinite(live_t).any() else 0.0


def _too_few(verb: str, hit: int, wanted: int) -> str:
    return "" if hit >= HIT_SHARE * wanted else f"{verb} {hit} of {wanted} clients"
