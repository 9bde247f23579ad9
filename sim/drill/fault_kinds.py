"""The kinds of faults that a drill file can name, each with its parameters.

This module says what a fault does; `sim.drill.schedule` says when and to whom; each engine says how.
All durations are seconds, and `at_s` counts from the beginning of the fault phase.
"""

from typing import Literal

import msgspec

from sim.client.checkpoints import Damage
from sim.server.settings import Count, CountOrZero, LiveFault, NotNegative, Positive, Share

SwitchValue = float | int | bool | str | LiveFault


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all faults."""

    at_s: NotNegative

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return str(self.__struct_config__.tag)

    @property
    def duration_key(self) -> str:
        """The parameter that says how long it lasts; empty for what is done at once."""
        return next((name for name in ("for_s", "down_s", "offline_s") if name in self.__struct_fields__), "")

    @property
    def parts(self) -> int:
        """As how many faults it is planned."""
        return 1

    @property
    def lasts_s(self) -> float:
        """How long it acts until it is taken back."""
        return float(getattr(self, self.duration_key)) if self.duration_key else 0.0


class ClientFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the faults that concern a share of the fleet's clients, drawn by seed."""

    share: Share = 1.0


class SwitchFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the faults that are switches of the runtime: on for `for_s`, then off again.

    The runtime counts under the fault's kind how often it acted (`Counters.acted`), which is how it is seen to act.
    """

    for_s: Positive

    def switches(self) -> dict[str, SwitchValue]:
        """What it changes in `Switches`."""
        raise NotImplementedError


# --- clients and their sockets ----------------------------------------------------------------------


class DropSockets(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="drop_sockets"):
    """Cut the connections of a share of the clients at once; for `offline_s` their network stays away.

    A storm in waves is one fault a wave, alike in `share` and `waves`: nobody is in two waves, and together they are the share.
    """

    offline_s: NotNegative = 0.0
    wave: Count = 1  # which one this is, from 1
    waves: Count = 1  # disjoint parts that the share is cut in


class RollingDeploy(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rolling_deploy"):
    """The runtime closes the sockets of a share of the clients, wave by wave, as instances that are replaced one by one do.

    Every `wave_s` a wave; nobody is in two of them, and no event is lost. Each wave is a fault of its own in a run's plan.
    """

    waves: Count
    wave_s: Positive

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
        """Up to its last wave."""
        return (self.waves - 1) * self.wave_s


class SkewClocks(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skew_clocks"):
    """The clocks of a share of the clients are off by `by_s`: every other one's is ahead, the others' are behind."""

    by_s: Positive
    for_s: Positive


class RestartClients(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="restart_clients"):
    """The processes of a share of the clients die at once and begin again `down_s` later, with nothing but their checkpoints.

    These are `kept` as they were; `old`, from `events` events before; `lost`; `torn`, only partly written; or of the `future`,
    `events` events too high, which must be above the head.
    """

    checkpoint: Damage
    events: Count = 50
    down_s: NotNegative = 0.0


class StopReading(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stop_reading"):
    """Clients stop reading their sockets, as one whose process hangs or is suspended; what they send still goes out.

    Once the buffers between are full the runtime's own queue fills. To the runtime it is what `stall_links` to the client
    is; but the client does it, so it needs no proxy and works where none can be.
    """

    for_s: Positive


# --- the network between clients and runtime --------------------------------------------------------

Direction = Literal["both", "to_client", "to_runtime"]


class LinkFault(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the faults of the network, each of some clients' links. Only sync sockets are concerned, never HTTP.

    A link is a client's way to the runtime, whichever connection it has at the time: all of its connections are alike
    concerned, those open already and those opened meanwhile, unless a kind says otherwise.
    """


class SlowLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_links"):
    """Bytes take `latency_ms` and up to `jitter_ms` longer each way, and no more than `kib_per_s` pass (0: no limit).

    Their order stays, as in TCP: jitter of one packet holds up those behind it.
    """

    for_s: Positive
    latency_ms: NotNegative = 0.0
    jitter_ms: NotNegative = 0.0
    kib_per_s: NotNegative = 0.0
    direction: Direction = "both"


class StallLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stall_links"):
    """No byte passes and nothing is closed, as in a partition; all of it passes when it is over."""

    for_s: Positive
    direction: Direction = "both"


class HalfOpenLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="half_open_links"):
    """Each open connection loses one side, which closes it, and the other side hears nothing of it.

    What the side left behind sends is lost; who is still left in such a connection after `for_s` gets a reset. New
    connections are whole.
    """

    for_s: Positive
    gone: Literal["client", "runtime"]


class ResetLinks(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reset_links"):
    """Open connections are reset under both sides, `times` times, `every_s` apart: a network that flaps."""

    times: Count = 1
    every_s: Positive = 1.0

    @property
    def duration_key(self) -> str:
        """See `Fault`."""
        return "times"

    @property
    def lasts_s(self) -> float:
        """From the first reset to the last."""
        return (self.times - 1) * self.every_s


class RefuseConnects(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refuse_connects"):
    """New connections are reset before a byte has passed; open ones go on."""

    for_s: Positive


class CutAfterBytes(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cut_after_bytes"):
    """Each connection is reset once `after_bytes` have passed in one direction since the fault began, in mid-frame or not.

    In simulation frames count by the length of their JSON, and the one that would pass the limit does not arrive.
    """

    for_s: Positive
    after_bytes: Count
    direction: Direction = "both"


class SlowClose(LinkFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_close"):
    """The news that a connection was closed takes `delay_ms` longer to reach the other side; bytes take no longer."""

    for_s: Positive
    delay_ms: Positive
    direction: Direction = "both"


# --- tokens -----------------------------------------------------------------------------------------


class ExpireTokens(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="expire_tokens"):
    """Every token issued so far expires at once: live sockets are told `reauth_required`, old tokens are refused."""


class SlowMint(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_mint"):
    """The control service takes `delay_ms` for a token, `concurrency` of them at once."""

    delay_ms: Positive
    concurrency: Count

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_delay_ms": self.delay_ms, "mint_concurrency": self.concurrency}


class MintOutage(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mint_outage"):
    """The control service mints no tokens (503)."""

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_outage": True}


class ForgetTokens(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="forget_tokens"):
    """A share of the clients no longer has its token, and needs a new one for its next connect."""


class RevokeSessions(ClientFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="revoke_sessions"):
    """The sessions of a share of the clients, and of probes that ask about it, are revoked; `for_s` later they sign in anew.

    Until then none of them may be let in; from then on all must come back, as everyone else.
    """

    for_s: Positive


class RotateKeys(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rotate_keys"):
    """Tokens are signed with a new key; `for_s` later, what the old one signed no longer verifies."""

    for_s: Positive


class SkewControl(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skew_control"):
    """The control service's clock is `ahead_s` ahead of the runtime's: what it mints meanwhile is not valid yet."""

    ahead_s: Positive

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"mint_ahead_s": self.ahead_s}


# --- publishing -------------------------------------------------------------------------------------


class FailPublishes(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fail_publishes"):
    """A share of the publishes is refused with an HTTP status; with `taken`, the event is in the log all the same."""

    status: Literal[413, 429, 500, 503]
    share: Share
    retry_after_ms: CountOrZero = 0  # that the refusal asks for; 0: it asks for none
    taken: bool = False

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {
            "publish_fail_status": self.status,
            "publish_fail_share": self.share,
            "publish_fail_retry_after_ms": self.retry_after_ms,
            "publish_fail_taken": self.taken,
        }


class SlowPublishes(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="slow_publishes"):
    """Each publish takes `delay_ms` longer."""

    delay_ms: Positive

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"publish_delay_ms": self.delay_ms}


# --- delivery ---------------------------------------------------------------------------------------


class StopDelivery(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stop_delivery"):
    """Sockets are closed and refused (503), while HTTP is served: commands and publishes go on."""

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"delivery_down": True}


class SkipDeliveries(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="skip_deliveries"):
    """The runtime leaves some live events out for some clients; a replay still has them."""

    clients_share: Share
    events_share: Share

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"skip_live_clients": self.clients_share, "skip_live_events": self.events_share}


class LiveDeliveryFault(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the faults by which some live events go wrong for some clients; a replay still has them as they are.

    Its kind is its switch's name.
    """

    clients_share: Share
    events_share: Share

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {self.kind: LiveFault(self.clients_share, self.events_share)}


class DuplicateDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="duplicate_deliveries"):
    """Live events are sent twice, which the contract allows."""


class JumbleDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="jumble_deliveries"):
    """Live events come with a payload that is not their hash's."""


class MalformFrames(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="malform_frames"):
    """Instead of the frame that a live event is in, something comes that is none."""


class ReorderDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reorder_deliveries"):
    """Live events come after the one that follows them."""


class DelayDeliveries(LiveDeliveryFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="delay_deliveries"):
    """Live events come `delay_ms` late, after those that follow them meanwhile."""

    delay_ms: Positive

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {self.kind: LiveFault(self.clients_share, self.events_share, self.delay_ms)}


class ShrinkWindow(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shrink_window"):
    """The runtime forgets all but the newest `keep_events` of the first `streams` run streams, and of the worker events'."""

    keep_events: CountOrZero
    streams: Count = 1
    worker_events: bool = False


class ShrinkReplayBudget(SwitchFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shrink_replay_budget"):
    """The runtime replays at most `events` to a returning client."""

    events: Count

    def switches(self) -> dict[str, SwitchValue]:
        """See `SwitchFault`."""
        return {"shrunk_budget_events": self.events}


# --- the runtime's process --------------------------------------------------------------------------


class KillRuntime(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kill_runtime"):
    """The runtime's process is killed with SIGKILL and started again on the same log `down_s` later."""

    down_s: NotNegative


AnyFault = (
    DropSockets
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
    | ShrinkReplayBudget
    | KillRuntime
)
