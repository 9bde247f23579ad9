"""The parts of load tests that need no Locust process: options, caps, patterns, live metrics, the capacity ramp."""

import argparse
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from drills.judging.checks.thresholds import Threshold
from drills.judging.checks.verdicts import State
from drills.runs import catalog
from locustfiles.load.clients.recording import LiveMetrics
from locustfiles.load.clients.user_roster import Users
from locustfiles.load.run import options, storm_patterns, target_monitor, verdict
from locustfiles.load.run.capacity_ramp import CapacityRamp
from locustfiles.load.run.drill_run import DrillRun
from sim.base.errors import UsageError
from sim.client.notices import Notice
from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets
from sim.drill.fault_schedule import plan
from sim.drill.target_rules import Caps, Hook, Rules
from sim.engines.shared.pacer import Pacer
from sim.server.settings import Switches

NAN = float("nan")


class Parser:
    """Takes fields as Locust's parser does."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.choices: dict[str, object] = {}

    def add_argument(self, name: str, default: object, help: str, **more: object) -> None:
        name = name.removeprefix("--").replace("-", "_")
        self.values[name], self.choices[name] = default, more.get("choices")


def asked(drill: str = "reconnect_storm", **fields: object) -> argparse.Namespace:
    parser = Parser()
    options.add_to(parser, drill)
    assert set(fields) <= set(parser.values)
    return argparse.Namespace(**(parser.values | fields))


def test_default_options_run_the_drill_unchanged():
    planned = options.plan_of(asked())
    assert (planned.drill.fleet.clients, planned.target, planned.seed) == (300, ("embedded mock", "mock"), 1)
    assert options.plan_of(asked()).drill.digest() == options.drills.load(catalog.path_of("reconnect_storm")).digest()


def test_options_change_the_drill():
    drill = options.plan_of(
        asked(clients=20, share_dropped=0.5, storm_at=1.5, events_per_s=7.0, set=["fleet.policy=desktop"])
    ).drill
    assert (drill.fleet.clients, drill.fleet.policy, drill.load.events_per_s) == (20, "desktop", 7.0)
    assert [(fault.at_s, fault.share) for fault in drill.faults] == [(1.5, 0.5), (7.0, 0.5)]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"drill": "runtime_restart"}, "kill_runtime"),
        ({"drill": "network_flap"}, "reset_links"),
        ({"drill": "rollout_day"}, "not for real sockets"),
        ({"drill": "retired_routes"}, "retired routes"),
        ({"clients": -3}, "fleet.clients"),
        ({"defect": ["no_such"]}, "unknown defect"),
        ({"target": "http://example.org"}, "an address must be on this machine"),
        ({"target": "http://127.0.0.1:1", "defect": ["skip_delivery"]}, "embedded mock only"),
        ({"thresholds": "no/such.toml"}, "no such file"),
        ({"pattern": "waves", "drill": "dropped_delivery"}, "drops no sockets"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, object], why: str):
    with pytest.raises(UsageError, match=why):
        options.plan_of(asked(**fields))


HOOK = Hook(inject=["true"])
CAPS = Caps(clients=1000, connects_per_s=1000.0, events_per_s=1000.0)


@pytest.mark.parametrize(
    ("kind", "drill", "rules", "why"),
    [
        ("staging", "stale_cursor", Rules(caps=CAPS), "no hook for it"),
        ("staging", "reconnect_storm", Rules(caps=CAPS, hooks={"drop_sockets": HOOK}), "load tests run no hooks"),
        ("staging", "reconnect_storm", Rules(caps=structs.replace(CAPS, clients=9)), "caps.clients is 9"),
        ("production", "reconnect_storm", Rules(caps=CAPS), "only drills without faults"),
    ],
)
def test_drill_that_the_target_does_not_allow_is_refused(
    kind: str, drill: str, rules: Rules, why: str, monkeypatch: pytest.MonkeyPatch
):
    endpoints = options.Endpoints("theirs", kind, "http://127.0.0.1:1", "http://127.0.0.1:1", rules=rules)
    monkeypatch.setattr(options.targets, "resolve", lambda *_: endpoints)
    with pytest.raises(UsageError, match=why):
        options.plan_of(asked(drill, target="theirs"))


def test_header_states_the_protocol_of_the_target(tmp_path: Path):
    """Checks read what the protocol can tell from the header."""
    theirs = options.Endpoints("theirs", "staging", "http://127.0.0.1:1", "http://127.0.0.1:1", protocol="durable_streams")
    drill = drills.load(catalog.catalogue()["reconnect_storm"])
    for endpoints, protocol, positions in ((theirs, "durable_streams", "opaque"), (None, "spacetime", "dense")):
        wanted = options.Plan(drill, 1, endpoints, Switches(), tmp_path, tmp_path)
        (tmp_path / protocol).mkdir()
        run = DrillRun(wanted, tmp_path / protocol, "id", lambda *_: None, print, (), lambda *_: None)
        assert (run.header.protocol, run.header.capabilities["positions"]) == (protocol, positions)


def capped(cap: float, workers: int) -> tuple[float, float]:
    """Connects per second of the master and of each worker under this cap."""
    rules = Rules(caps=structs.replace(CAPS, connects_per_s=cap))
    return target_monitor.connects_per_s(options.Endpoints("theirs", "staging", "", "", rules=rules), workers)


@pytest.mark.parametrize(("cap", "workers"), [(100.0, 0), (100.0, 1), (100.0, 7), (8.5, 7), (2.0, 1)])
def test_all_processes_together_keep_to_a_cap(cap: float, workers: int):
    own, each = capped(cap, workers)
    pacers = [Pacer(own), *(Pacer(each) for _ in range(workers))]
    acts = sum(pacer.act(0.001 * k) == 0.001 * k for pacer in pacers for k in range(1000))
    assert cap / 2 <= acts <= cap


def test_cap_below_the_number_of_processes_is_refused_and_no_cap_means_no_pacing():
    with pytest.raises(UsageError, match="Use fewer workers"):
        capped(7.0, 7)
    assert target_monitor.connects_per_s(options.Endpoints("mock", "mock", "", ""), 3) == (0.0, 0.0)


def test_every_offered_drill_can_be_planned():
    assert {"reconnect_storm", "stale_cursor", "dropped_delivery", "token_expiry_storm", "observation"} <= set(
        options.possible_drills()
    )
    for name in options.possible_drills():
        options.plan_of(asked(name))


@pytest.mark.parametrize("name", storm_patterns.PATTERNS)
def test_patterns_cut_sockets_within_the_phase(name: str):
    drill = options.plan_of(asked("multi_client_order", pattern=name, share_dropped=0.5)).drill
    cuts = [fault for fault in drill.faults if isinstance(fault, DropSockets)]
    assert len(drill.faults) == len(cuts) + 1  # the drill's other fault stays
    assert all(fault.at_s + fault.lasts_s <= drill.phases.fault_s and fault.share <= 0.5 for fault in cuts)


def test_every_pattern_cuts_each_client_at_least_twice():
    for name in storm_patterns.PATTERNS:
        planned = plan(options.plan_of(asked(pattern=name, clients=40)).drill, seed=1)
        cuts = Counter(client for fault in planned for client in fault.clients)
        assert len(cuts) == 40, name
        assert min(cuts.values()) >= 2, name


def test_delivery_is_measured_from_the_due_time_even_if_applied_before_acknowledged():
    reports: list[tuple[str, str, float, str]] = []
    live = LiveMetrics(lambda *row: reports.append(row))
    due = SimpleNamespace(due=100.0, number=1, stream=SimpleNamespace(stream="s"))
    client = SimpleNamespace(client=0, is_cut_by_fault=False)
    live.noticed(100.25, client, [Notice("applied", "s", 1, marker=1)])
    assert reports == []
    live.published(due, 300.0)
    live.noticed(100.5, client, [Notice("applied", "s", 1, marker=1)])
    live.noticed(100.6, client, [Notice("applied", "s", 2)])  # somebody else's
    assert [(name, ms) for _, name, ms, _ in reports] == [("delivery", 250.0), ("publish", 300.0), ("delivery", 500.0)]


def test_failures_are_reported_with_their_codes():
    reports: list[tuple[str, str, float, str]] = []
    live = LiveMetrics(lambda *row: reports.append(row))
    client = SimpleNamespace(client=0, is_cut_by_fault=False)
    live.noticed(1.0, client, [Notice("connect_failed", "", -1, 0, 9.0, "unauthorized")])
    live.noticed(2.0, client, [Notice("connect_done", "", -1, 0, 5.0, "")])
    live.noticed(3.0, client, [Notice("subscribe_refused", "", -1, 0, NAN, "unsupported_client_build")])
    assert reports == [
        ("WS", "WS connect", 9.0, "unauthorized"),
        ("WS", "WS connect", 5.0, ""),
        ("WS", "join", 1000.0, "unsupported_client_build"),
    ]


def test_check_stays_open_until_it_has_data():
    live = LiveMetrics(lambda *_: None)
    limits = {"replay.bootstrap_ms": Threshold(600, "<=", "ms", "", "")}
    (before,) = verdict.provisional(("replay.bootstrap_ms",), limits, live)
    live.noticed(1.0, SimpleNamespace(client=0, is_cut_by_fault=False), [Notice("replay_completed", "", -1, 0, 900.0, "")])
    (after,) = verdict.provisional(("replay.bootstrap_ms",), limits, live)
    assert (before.state, after.state) == ("open", "fail")


class Cast(Users[Any]):
    """Users of a run that never ends by itself."""

    def __init__(self, clients: int) -> None:
        super().__init__(None)
        self.left: list[int] = []
        free = list(range(clients))
        self.run = SimpleNamespace(
            take_client=lambda: free.pop(0) if free else None,
            be_a_client=lambda number: None,
            leave=self.left.append,
            replaced=SimpleNamespace(wait=lambda: None),
        )


def test_removed_user_is_reported_unless_the_run_is_over_or_it_had_no_client():
    cast = Cast(clients=2)
    for user in ("a", "b", "one too many"):
        cast.be_a_client(user)
    cast.leave("one too many")
    cast.leave("b")
    cast.leave("b")
    cast.is_over = True
    cast.leave("a")
    assert cast.left == [1]


def judged(exit_code: int, late: bool = False) -> SimpleNamespace:
    """A verdict, as much of it as a capacity ramp reads."""
    check = SimpleNamespace(name="drill.generator_lag_ms", state=State.ERROR if late else State.PASS)
    return SimpleNamespace(exit_code=exit_code, run_id="the run", drills=(SimpleNamespace(checks=(check,)),))


def ramped(*verdicts: SimpleNamespace) -> tuple[CapacityRamp, list[int]]:
    """A capacity ramp from 100 to at most 400 clients, and the clients of its steps."""
    capacity_ramp = CapacityRamp(argparse.Namespace(growth=2.0, max_clients=400))
    wanted, steps = options.plan_of(asked(clients=100)), []
    for each in verdicts:
        assert wanted is not None
        steps.append(wanted.drill.fleet.clients)
        wanted = capacity_ramp.after(wanted, each)
    assert wanted is None
    return capacity_ramp, steps


@pytest.mark.parametrize(
    ("verdicts", "clients", "exit_code", "sentence"),
    [
        ((judged(0), judged(0), judged(1)), [100, 200, 400], 0, "green up to 200 clients (the run); 400 clients were red"),
        ((judged(0), judged(0), judged(0)), [100, 200, 400], 2, "the limit was not reached"),
        ((judged(1),), [100], 1, "no load was green; 100 clients were red"),
        ((judged(0), judged(2)), [100, 200], 2, "200 clients were not decided"),
        ((judged(0), judged(4, late=True)), [100, 200], 4, "its limit, not the service's"),
    ],
)
def test_ramp_ends_at_the_first_load_that_is_not_green(
    verdicts: tuple[SimpleNamespace, ...], clients: list[int], exit_code: int, sentence: str
):
    capacity_ramp, steps = ramped(*verdicts)
    assert steps == clients
    assert capacity_ramp.exit_code == exit_code
    assert sentence in capacity_ramp.in_words()


def test_ramp_must_grow():
    with pytest.raises(UsageError, match="a factor above 1"):
        CapacityRamp(argparse.Namespace(growth=1.0, max_clients=10))


def test_lost_connections_are_failures_in_locusts_tables_unless_the_drill_cut_them():
    told: list[tuple[str, str, float, str]] = []
    live = LiveMetrics(lambda *row: told.append(row))
    for reason in ("network", "token_refresh_due"):
        for is_cut in (False, True):
            client: Any = SimpleNamespace(client=0, is_cut_by_fault=is_cut)
            live.noticed(1.0, client, [Notice("disconnected", "", -1, 0, NAN, reason)])
    assert told == [("WS", "connection lost", 0.0, "network")]


def test_a_bootstrap_is_counted_once():
    told: list[str] = []
    live = LiveMetrics(lambda kind, name, ms, error: told.append(name))
    client: Any = SimpleNamespace(client=0, is_cut_by_fault=False)
    live.noticed(1.0, client, [Notice(kind, "", -1, 0, 5.0, "") for kind in ("subscribed", "replay_completed")])
    assert told == ["replay bootstrap"]
    assert live.n("subscribe") == 1, "our page shows it"
