"""A drill: one TOML file that every engine runs.

    [fleet]     who connects            [load]      what is published      [phases]  how long each phase lasts
    [[faults]]  what breaks, and when   [runtime]   settings of the mock   [expect]  what else must be observed

Keys that end in `_s` are seconds. A fault's `at_s` counts from the start of the fault phase.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from sim.base.config import read_toml, set_key, to_struct
from sim.base.errors import UsageError
from sim.drill.fault_bases import ClientFault
from sim.drill.fault_kinds import AnyFault, DropSockets, ShrinkWindow, SlowLinks
from sim.server.settings import Count, CountOrZero, NotNegative, Positive, RuntimeSettings, ShareOrZero

EngineName = Literal["sockets", "virtual"]
PolicyName = Literal[
    "reference",
    "desktop",
    # The reference client with the delays of another library.
    "sdk",
    "phoenix_js",
    "centrifuge_js",
    "ably",
    "server_hint",
    "equal_jitter",
    "decorrelated",
    # Deliberately wrong clients, which prove that a drill can fail; see `sim.client.policies.WRONG`.
    "wrong_applies_duplicates",
    "wrong_applies_past_holes",
    "wrong_ignores_hashes",
    "wrong_ignores_epochs",
    "wrong_reads_torn_checkpoints",
    "wrong_trusts_future_checkpoints",
    "wrong_trusts_silence",
    "wrong_trusts_clock",
    "wrong_retries_terminal",
    "wrong_ignores_hints",
    "wrong_resets_on_accept",
    "wrong_reconnects_at_once",
]
DeliveryName = Literal["update_batch", "frame"]  # events in batches, or each event in its own frame
CheckName = Annotated[str, msgspec.Meta(pattern=r"^(error|replay|reconnect|delivery|ux)\.[a-z0-9_]+$")]
NegativeClientName = Literal[
    "expired_token",
    "mutation_over_socket",
    "any_mutation",
    "hidden_mutation",
    "malformed_frames",
    "missing_token",
    "garbled_token",
    "foreign_key_token",
    "foreign_issuer_token",
    "foreign_audience_token",
    "outdated_token",
    "revoked_token",
    "overaged_token",
    "premature_token",
    "forbidden_topic",
    "foreign_topic_mint",
    "unsupported_topic_mint",
    "endless_token_mint",
    "old_build",
    "new_build",
    "malformed_build",
    "other_protocol",
    "other_schema",
    "oldest_build",
    "newest_build",
]
Ability = Literal["epochs", "snapshots"]  # positions that name the log that they are of; the state in place of a replay
StaleReason = Literal["retention_floor_breach", "replay_budget_exceeded"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$")]
Build = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{8}T[0-9]{6}Z$")]  # a client's build, such as 20260601T000000Z
CLIENT_BUILD = "20260601T000000Z"  # [ours]
# [ours] Limits: ten times the clients that the fleet engine was measured with, four months, a billion events.
MAX_CLIENTS, MAX_DURATION_S, MAX_EVENTS = 100_000_000, 1e7, 1e9


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clients: their number, their behaviour and the rate at which they arrive."""

    clients: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLIENTS)]  # number of clients
    policy: PolicyName = "reference"  # how every client behaves
    topics_per_client: Count = 1  # run streams that each client subscribes to
    token_ttl_s: CountOrZero = 0  # lifetime that clients request for their tokens; 0: the control service decides
    # Rate of the first connects, before any fault. Default: 150, or higher if needed for all to arrive within ten seconds.
    connects_per_s: Positive | None = None
    client_build: Build = CLIENT_BUILD  # build that every client reports when it joins

    @property
    def arrival_s(self) -> float:
        """Time until all clients have connected, in seconds."""
        return self.clients / self.connects_per_s if self.connects_per_s else min(self.clients / 150.0, 10.0)


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The events that are published over HTTP, from the first connect until the settle phase."""

    events_per_s: Positive  # rate of all streams together
    run_streams: Count = 1  # number of streams that are published to
    worker_events: bool = False  # also publish to the one stream without snapshots, and subscribe all clients to it
    payload_bytes: CountOrZero = 64  # size of each payload
    # Total number of events. Each stream publishes one after the other, so that every run has the same. 0: no limit.
    events: CountOrZero = 0
    # Maximum unacknowledged publishes of one stream: the next waits for an acknowledgement. 0: no limit; with `events`, 1.
    in_flight_per_stream: CountOrZero = 0


class Phases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each phase lasts. A limit ends early: when all clients are live, or when all have converged."""

    steady_s: Positive  # steady state before the first fault
    steady_limit_s: Positive = 20.0  # longest extension of the steady state until all clients are live
    fault_s: Positive  # length of the fault phase, in which faults are injected and reverted
    recovery_s: NotNegative = 1.0  # time after the last fault, while events are still published
    settle_s: Positive = 30.0  # limit for all clients to converge after publishing has stopped


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be observed besides the checks. Otherwise the drill did not test what it was written for."""

    stale_reasons: tuple[StaleReason, ...] = ()  # each must be sent to at least one client, and no other reason to any
    stale_share: ShareOrZero = 0.0  # minimum share of the clients that must receive a stale answer
    declared_loss: bool = False  # clients may declare loss (streams without snapshots); otherwise it is a failure
    retired_routes: bool = False  # request the retired HTTP routes during the run; on real sockets only
    negative_clients: tuple[NegativeClientName, ...] = ()  # clients that make requests which must be refused


class Variants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Variants that a drill runs and compares: one engine with each client policy and each form of delivery."""

    engine: EngineName  # that runs the variants
    policies: Annotated[tuple[PolicyName, ...], msgspec.Meta(min_length=1)]  # client policies
    deliveries: Annotated[tuple[DeliveryName, ...], msgspec.Meta(min_length=1)] = ("update_batch", "frame")  # wire forms


class Drill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a drill file."""

    name: Name  # for commands, reports and folders
    summary: Annotated[str, msgspec.Meta(min_length=1)]  # the one question that the drill asks
    checks: Annotated[tuple[CheckName, ...], msgspec.Meta(min_length=1)]  # checks that must pass, as gate.check
    fleet: Fleet
    load: Load
    phases: Phases
    faults: tuple[AnyFault, ...]  # see the fault kinds; `[]`: no faults, the drill only observes
    runtime: RuntimeSettings = RuntimeSettings()
    expect: Expect = Expect()
    engines: Annotated[tuple[EngineName, ...], msgspec.Meta(min_length=1)] = ("sockets", "virtual")  # that may run it
    needs: tuple[Ability, ...] = ()  # what the protocol must have; otherwise the drill is not run
    quick: bool = False  # part of the set that `drill run --quick` runs
    variants: tuple[Variants, ...] = ()  # run each of these instead of one run, and compare them (`sim.analysis.parity`)

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates of the drill's checks, in the order of the checks."""
        return tuple(dict.fromkeys(check.partition(".")[0] for check in self.checks))

    @property
    def streams(self) -> int:
        """Number of streams that are published to."""
        return self.load.run_streams + int(self.load.worker_events)

    def digest(self) -> str:
        """Hex SHA-256 of the drill in canonical form, independent of the layout of its file."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def runs_on(drill: Drill, engine: str) -> bool:
    """Return whether a drill may run on an engine. Drills for the virtual engine also run on the fleet engine."""
    return engine in drill.engines or (engine == "fleet" and "virtual" in drill.engines)


def load(path: Path, overrides: tuple[str, ...] = ()) -> Drill:
    """Read a drill file and apply `overrides` like `table.key=value`. Raise `UsageError` if the result is invalid."""
    data = read_toml(path)
    for assignment in overrides:
        set_key(data, assignment)
    drill = to_struct(data, Drill, str(path))
    check(drill, str(path))
    return drill


def expected_duration_s(drill: Drill) -> float:
    """Estimate the duration of a run in real time, in seconds: arrival and all phases, with an early end of settling."""
    return drill.fleet.arrival_s + drill.phases.steady_s + drill.phases.fault_s + drill.phases.recovery_s + 1.0


def check(drill: Drill, where: str) -> None:
    """Raise `UsageError` for combinations that cannot run."""
    if drill.fleet.topics_per_client > drill.load.run_streams:
        raise UsageError(
            f"{where}: key 'fleet.topics_per_client' is {drill.fleet.topics_per_client}, but 'load.run_streams' offers "
            f"only {drill.load.run_streams}; allowed: 1 to {drill.load.run_streams}."
        )
    _check_length(drill, where)
    for index, fault in enumerate(drill.faults):
        _check_fault(drill, fault, f"{where}: key 'faults.{index}")
    _check_events(drill, where)


def _check_length(drill: Drill, where: str) -> None:
    phases = msgspec.structs.asdict(drill.phases)
    longest_s = drill.fleet.arrival_s + sum(phases.values())
    if longest_s > MAX_DURATION_S:
        raise UsageError(
            f"{where}: arrival and 'phases' may take {longest_s:g} s; allowed: at most {MAX_DURATION_S:g} s in all."
        )
    if longest_s * drill.load.events_per_s > MAX_EVENTS:
        raise UsageError(
            f"{where}: key 'load.events_per_s' is {drill.load.events_per_s:g}, which is too much for the "
            f"{longest_s:g} s of arrival and 'phases'; allowed: at most {MAX_EVENTS / longest_s:g}."
        )


def _check_events(drill: Drill, where: str) -> None:
    load, phases = drill.load, drill.phases
    takes_s, has_s = load.events / load.events_per_s, phases.steady_s + phases.fault_s + phases.recovery_s
    if takes_s > has_s:
        raise UsageError(
            f"{where}: key 'load.events' is {load.events}, which takes {takes_s:g} s at 'load.events_per_s' "
            f"{load.events_per_s:g}, but the phases before settling last {has_s:g} s; "
            f"allowed: at most {int(has_s * load.events_per_s)}."
        )
    if drill.variants and not load.events:
        raise UsageError(f"{where}: key 'load.events' is 0, but 'variants' need a fixed number of events.")
    if drill.variants and load.worker_events:
        raise UsageError(
            f"{where}: key 'load.worker_events' is true, but that stream has no snapshots. What it loses depends "
            "on timing and cannot be compared over 'variants'."
        )


def _check_fault(drill: Drill, fault: AnyFault, key: str) -> None:
    limit_s = drill.phases.fault_s
    if fault.at_s >= limit_s:
        raise UsageError(f"{key}.at_s' is {fault.at_s:g}, but the fault phase ends after {limit_s:g} s ('phases.fault_s').")
    if fault.at_s + fault.lasts_s > limit_s:
        raise UsageError(
            f"{key}.{fault.duration_key}' makes it last {fault.lasts_s:g} s, but a fault at {fault.at_s:g} s can last at most "
            f"{limit_s - fault.at_s:g} s, to the end of the fault phase ('phases.fault_s' is {limit_s:g})."
        )
    if isinstance(fault, ClientFault) and round(fault.share * drill.fleet.clients) == 0:
        raise UsageError(f"{key}.share' is {fault.share:g}, which selects no client of {drill.fleet.clients}.")
    if isinstance(fault, SlowLinks) and not (fault.latency_ms or fault.jitter_ms or fault.kib_per_s):
        raise UsageError(f"{key}' slows nothing; add 'latency_ms', 'jitter_ms' or 'kib_per_s'.")
    if isinstance(fault, DropSockets) and fault.wave > fault.waves:
        raise UsageError(f"{key}.wave' is {fault.wave}, but there are only {fault.waves} ('waves').")
    if isinstance(fault, ShrinkWindow) and fault.streams > drill.load.run_streams:
        raise UsageError(f"{key}.streams' is {fault.streams}, but 'load.run_streams' is only {drill.load.run_streams}.")
    if isinstance(fault, ShrinkWindow) and fault.worker_events and not drill.load.worker_events:
        raise UsageError(f"{key}.worker_events' is true, but 'load.worker_events' is not.")
