"""The kinds of faults that a drill file can name, each with its parameters.

This module defines what a fault does, `sim.drill.fault_schedule` when and to which clients, and each engine how.
All durations are in seconds. `at_s` counts from the start of the fault phase.
"""

from typing import Annotated, Literal

import msgspec

from sim.client.checkpoints import Damage
from sim.drill.fault_bases import ClientFault, Fault, SwitchFault, SwitchValue
from sim.server.settings import Count, CountOrZero, LiveFault, NotNegative, Positive, Share

_CLOSE_CODES = (range(1000, 1004), range(1005, 1015), range(3000, 5000))  # RFC 6455, 7.4, and IANA's registry
_REFUSALS = range(400, 600)
EndCode = Annotated[int, msgspec.Meta(ge=400, le=4999)]


def is_end_code(code: int) -> bool:
    """Return whether a server may close with this code, or refuse an upgrade with this status."""
    return code in _REFUSALS or any(code in codes for codes in _CLOSE_CODES)


# --- clients and their sockets ----------------------------------------------------------------------


class DropSockets(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="drop_sockets"):
    """Cut the connections of a share of the clients at once.

    For a storm in waves, write one fault for each wave, with the same `share` and `waves`. No client is in two waves.
    """

    offline_s: NotNegative = 0.0  # time without network after the cut
    wave: Count = 1  # number of this wave, from 1
    waves: Count = 1  # number of waves that the share is divided into


class RollingDeploy(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rolling_deploy"):
    """The server closes the sockets of a share of the clients in waves, as when instances are replaced one by one.

    No client is in two waves, and no event is lost. Each wave is a separate entry in the fault schedule.
    """

    waves: Count  # number of waves
    wave_s: Positive  # time between two waves

    @property
    def duration_key(self) -> str:
        """See `Fault`."""
        return "wave_s"

    @property
    def parts(self) -> int:
        """See `Fault`."""
        return self.waves

    @property
    def lasts_s(self) -> float:
        """Time from the first wave to the last, in seconds."""
        return (self.waves - 1) * self.wave_s


class CloseConnections(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="close_connections"):
    """The server closes the connections of a share of the clients, or refuses their upgrades, each with one of `codes`.

    Codes from 1000 are WebSocket close codes: 1005 is a close frame without a code, 1006 no close frame at all. Codes below
    1000 are HTTP statuses: the open connection is cut, and upgrades are refused with this status for `for_s`. With
    `after_ms`, new connections are accepted, and then closed with the same code, for `for_s`.
    """

    codes: Annotated[tuple[EndCode, ...], msgspec.Meta(min_length=1)]  # each client gets one of them
    for_s: Positive  # duration, for new connections
    after_ms: NotNegative = 0.0  # time from accepting a new connection to closing it; 0: only open connections are closed
    retry_after_ms: CountOrZero = 0  # hint that comes with the close or the refusal; 0: none

    def __post_init__(self) -> None:
        unknown = [code for code in self.codes if not is_end_code(code)]
        if unknown:
            raise ValueError(f"{unknown[0]} is neither a close code that a server may send nor a status that refuses")

    def code_of(self, place: int) -> int:
        """Return the code of an affected client, by its place among them."""
        return self.codes[place % len(self.codes)]


class SkewClocks(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skew_clocks"):
    """The clocks of a share of the clients are wrong by `by_s`: ahead for every second client, behind for the rest."""

    by_s: Positive  # error of the clocks
    for_s: Positive  # duration


class RestartClients(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="restart_clients"):
    """The processes of a share of the clients are killed at once, and restart with their stored checkpoints.

    A checkpoint is `kept` unchanged, `old` (`events` events back), `lost`, `torn` (partly written), or in the `future`
    (`events` events too high and above the head).
    """

    checkpoint: Damage  # condition of the stored checkpoints
    events: Count = 50  # error of an `old` or `future` checkpoint, in events
    down_s: NotNegative = 0.0  # time until the processes restart


class StopReading(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stop_reading"):
    """Clients stop reading their sockets, like a process that hangs. They still send.

    When the buffers are full, the server's own queue grows. For the server this looks like `stall_links` with direction
    `to_client`, but it needs no proxy.
    """

    for_s: Positive  # duration


# --- the network between clients and runtime --------------------------------------------------------

Direction = Literal["both", "to_client", "to_runtime"]


class LinkFault(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of network faults on the links of some clients. They affect sync sockets only, never HTTP.

    A link is the network path between one client and the server; it outlasts single connections. A fault affects open and
    new connections, unless its kind says otherwise.
    """


class SlowLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_links"):
    """Data takes longer, and its rate is limited to `kib_per_s`. Its order stays the same, as in TCP."""

    for_s: Positive  # duration
    latency_ms: NotNegative = 0.0  # added in each affected direction
    jitter_ms: NotNegative = 0.0  # longest random delay added to the latency
    kib_per_s: NotNegative = 0.0  # limit of the rate; 0: no limit
    direction: Direction = "both"  # directions that are affected


class StallLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stall_links"):
    """No data passes and no connection is closed, as in a partition. The waiting data passes when the fault ends."""

    for_s: Positive  # duration
    direction: Direction = "both"  # directions that are affected


class HalfOpenLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="half_open_links"):
    """One side of each open connection closes it, and the other side does not notice.

    What the other side sends is lost. If it is still connected after `for_s`, it gets a reset. New connections work.
    """

    for_s: Positive  # duration
    gone: Literal["client", "runtime"]  # side that closes the connection


class ResetLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reset_links"):
    """Open connections are reset on both sides, `times` times, as in a network that flaps."""

    times: Count = 1  # number of resets
    every_s: Positive = 1.0  # time between two resets

    @property
    def duration_key(self) -> str:
        """See `Fault`."""
        return "times"

    @property
    def lasts_s(self) -> float:
        """Time from the first reset to the last, in seconds."""
        return (self.times - 1) * self.every_s


class RefuseConnects(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refuse_connects"):
    """New connections are reset before any byte passes. Open connections continue."""

    for_s: Positive  # duration


class CutAfterBytes(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cut_after_bytes"):
    """Each connection is reset after `after_bytes` bytes in one direction, even within a frame.

    In simulation the size of a frame is the length of its JSON. The frame that would exceed the limit does not arrive.
    """

    for_s: Positive  # duration
    after_bytes: Count  # counted from the start of the fault
    direction: Direction = "both"  # directions that are affected


class SlowClose(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_close"):
    """The close of a connection reaches the other side late. Data is not delayed."""

    for_s: Positive  # duration
    delay_ms: Positive  # delay of the close
    direction: Direction = "both"  # directions that are affected


# --- tokens -----------------------------------------------------------------------------------------


class ExpireTokens(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="expire_tokens"):
    """All issued tokens expire at once. Live sockets receive `reauth_required`, and old tokens are refused."""


class SlowMint(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_mint"):
    """The control service takes longer to mint a token."""

    delay_ms: Positive  # time for one token
    concurrency: Count  # tokens minted at the same time

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_delay_ms": self.delay_ms, "mint_concurrency": self.concurrency}


class MintOutage(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mint_outage"):
    """The control service mints no tokens (503)."""

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_outage": True}


class ForgetTokens(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="forget_tokens"):
    """A share of the clients loses its tokens. Each of these clients needs a new one for the next connect."""


class RevokeSessions(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="revoke_sessions"):
    """The sessions of a share of the clients, and of negative clients, are revoked. After `for_s` they sign in again.

    Until then the server must refuse all of them. After that all must be live again, like every other client.
    """

    for_s: Positive  # duration


class RotateKeys(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rotate_keys"):
    """Tokens are signed with a new key. After `for_s`, tokens signed with the old key are refused."""

    for_s: Positive  # time for which the old key is still accepted


class SkewControl(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skew_control"):
    """The clock of the control service is ahead of the runtime's clock, so new tokens are not yet valid."""

    ahead_s: Positive  # difference between the clocks

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_ahead_s": self.ahead_s}


# --- publishing -------------------------------------------------------------------------------------


class ConcurrentAppends(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="concurrent_appends"):
    """Events become due in groups on one stream, so that their appends overlap. The rate stays the same.

    stormgate's own publisher does it, so it works on any target. The next group goes to the next stream. A drill with
    it is not run where `load.in_flight_per_stream` is 1.
    """

    at_once: Annotated[int, msgspec.Meta(ge=2, le=100)] = 8  # [ours] events in one group
    for_s: Positive  # duration


class LosePublishAnswers(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lose_publish_answers"):
    """The answer to the first try of some publishes is lost after the server has acknowledged the event.

    stormgate's own publisher drops the answer, so it works on any target. It sends the event again, with the same key.
    """

    share: Share  # share of the acknowledged events whose first answer is lost
    for_s: Positive  # duration


class FailPublishes(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fail_publishes"):
    """A share of the publishes is refused with an HTTP status."""

    status: Literal[413, 429, 500, 503]  # HTTP status of the refusal
    share: Share  # share of the publishes that are refused
    retry_after_ms: CountOrZero = 0  # delay that the refusal asks for; 0: none
    taken: bool = False  # the server stores the event although it answers with a refusal

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {
            "publish_fail_status": self.status,
            "publish_fail_share": self.share,
            "publish_fail_retry_after_ms": self.retry_after_ms,
            "publish_fail_taken": self.taken,
        }


class SlowPublishes(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_publishes"):
    """Each publish takes longer."""

    delay_ms: Positive  # added to each publish

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"publish_delay_ms": self.delay_ms}


# --- delivery ---------------------------------------------------------------------------------------


class StopDelivery(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stop_delivery"):
    """Open sockets are closed and new ones refused (503). HTTP still works: commands and publishes continue."""

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"delivery_down": True}


class SkipDeliveries(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skip_deliveries"):
    """Some live events do not reach some clients. A replay still has them.

    The mock skips them, or a hook. On any other target, stormgate withholds them between its adapter and the client.
    Where positions do not show a missing event, the drill is inconclusive: `drill.loss_unnoticeable`.
    """

    clients_share: Share  # share of the clients that are affected
    events_share: Share  # share of the events that are skipped

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"skip_live_clients": self.clients_share, "skip_live_events": self.events_share}


class LiveDeliveryFault(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of faults that damage some live events for some clients. A replay has them unchanged.

    The kind of the fault is also the name of its switch.
    """

    clients_share: Share  # share of the clients that are affected
    events_share: Share  # share of the events that are affected

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {self.kind: LiveFault(self.clients_share, self.events_share)}


class DuplicateDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="duplicate_deliveries"):
    """Live events are sent twice, which the protocol allows."""


class JumbleDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="jumble_deliveries"):
    """Live events arrive with a payload that does not match their hash."""


class MalformFrames(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="malform_frames"):
    """A malformed frame arrives in place of the frame with a live event."""


class ReorderDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reorder_deliveries"):
    """Live events arrive after the next event."""


class DelayDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="delay_deliveries"):
    """Live events arrive late, after the events that follow them."""

    delay_ms: Positive  # delay of each affected event

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {self.kind: LiveFault(self.clients_share, self.events_share, self.delay_ms)}


class ShrinkWindow(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shrink_window"):
    """The server deletes all but the newest `keep_events` events of some streams."""

    keep_events: CountOrZero  # number of events to keep in each stream
    streams: Count = 1  # number of run streams, from the first
    worker_events: bool = False  # also delete from the stream of worker events


class RecreateLog(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="recreate_log"):
    """The logs of all streams of the drill are deleted and created again, and their positions start over.

    The server closes the connections that follow them. If the protocol has epochs, the epoch changes. Older events are gone.
    """


class ShrinkReplayBudget(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shrink_replay_budget"):
    """The server replays at most `events` events to a client that reconnects."""

    events: Count  # replay budget while the fault lasts

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"shrunk_budget_events": self.events}


# --- the runtime's process --------------------------------------------------------------------------


class KillRuntime(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kill_runtime"):
    """The server's process is killed (SIGKILL), and restarts on the same log after `down_s`."""

    down_s: NotNegative  # time until the process restarts


AnyFault = (
    DropSockets
    | CloseConnections
    | SkewClocks
    | RestartClients
    | StopReading
    | SlowLinks
    | StallLinks
    | HalfOpenLinks
    | ResetLinks
    | RefuseConnects
    | CutAfterBytes
    | SlowClose
    | RollingDeploy
    | ExpireTokens
    | SlowMint
    | MintOutage
    | ForgetTokens
    | RevokeSessions
    | RotateKeys
    | SkewControl
    | ConcurrentAppends
    | LosePublishAnswers
    | FailPublishes
    | SlowPublishes
    | StopDelivery
    | SkipDeliveries
    | DuplicateDeliveries
    | JumbleDeliveries
    | MalformFrames
    | ReorderDeliveries
    | DelayDeliveries
    | ShrinkWindow
    | RecreateLog
    | ShrinkReplayBudget
    | KillRuntime
)
