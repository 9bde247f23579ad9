"""The fault plan is a function of drill and seed, and what heals it is no fault at all."""

from collections import Counter

import msgspec
import pytest

from sim.drill import fault_schedule
from sim.drill.fault_kinds import (
    AnyFault,
    CloseConnections,
    CutAfterBytes,
    DropSockets,
    ExpireTokens,
    KillRuntime,
    RefuseConnects,
    ResetLinks,
    RollingDeploy,
    ShrinkReplayBudget,
    ShrinkWindow,
    SkipDeliveries,
    SlowClose,
    SlowLinks,
    SlowMint,
    StallLinks,
)
from sim.drill.model import Drill, Fleet, Load, Phases
from sim.engines.shared.fault_actions import close_order
from sim.server.settings import Switches


def drill(*planned: AnyFault, clients: int = 200) -> Drill:
    return Drill(
        name="d",
        summary="Does it?",
        checks=("ux.integrity",),
        fleet=Fleet(clients=clients),
        load=Load(events_per_s=1.0),
        phases=Phases(steady_s=1.0, fault_s=10.0),
        faults=planned,
    )


def victims(clients: int = 200, seed: int = 1, share: float = 0.3, before: int = 0) -> set[int]:
    others = (DropSockets(at_s=0.0),) * before
    return set(fault_schedule.plan(drill(*others, DropSockets(at_s=1.0, share=share), clients=clients), seed)[-1].clients)


def waves(clients: int, seed: int = 1, share: float = 1.0) -> list[set[int]]:
    storm = [DropSockets(at_s=1.0 * number, share=share, wave=number, waves=4) for number in (1, 2, 3, 4)]
    return [set(planned.clients) for planned in fault_schedule.plan(drill(*storm, clients=clients), seed)]


def test_waves_part_everybody():
    parts = waves(400)
    assert sorted(client for part in parts for client in part) == list(range(400))
    assert all(70 <= len(part) <= 130 for part in parts)
    assert waves(400, seed=2) != parts


def test_waves_part_a_share():
    assert len([client for part in waves(400, share=0.3) for client in part]) == len(set.union(*waves(400, share=0.3))) == 120


def test_one_more_client_moves_nobody_to_another_wave():
    assert [part - {400} for part in waves(401)] == waves(400)


def test_the_same_seed_plans_the_same():
    storm = drill(
        DropSockets(at_s=0.0, share=0.4),
        SlowMint(at_s=1.0, delay_ms=5.0, concurrency=2, for_s=3.0),
        KillRuntime(at_s=2.0, down_s=1.0),
    )
    assert fault_schedule.plan(storm, 7) == fault_schedule.plan(storm, 7)
    assert [fault.describe() for fault in fault_schedule.plan(storm, 7)] == [
        fault.describe() for fault in fault_schedule.plan(storm, 7)
    ]


def test_another_seed_picks_other_victims_but_as_many():
    one, other = victims(seed=1), victims(seed=2)
    assert one != other
    assert len(one) == len(other) == 60


def test_two_faults_of_one_drill_pick_for_themselves():
    assert victims(before=0) != victims(before=1)


def test_one_more_client_moves_hardly_anybody():
    few, more = victims(clients=200), victims(clients=201)
    assert len(few & more) >= len(few) - 1


def test_a_deploy_is_as_many_faults_as_it_has_waves() -> None:
    deploy = RollingDeploy(at_s=1.0, waves=3, wave_s=2.0, share=0.5)
    storm = fault_schedule.plan(drill(deploy, KillRuntime(at_s=9.0, down_s=0.5)), 1)
    assert [(planned.index, planned.kind, planned.begins_s, planned.ends_s) for planned in storm] == [
        (0, "rolling_deploy", 1.0, 1.0),
        (1, "kill_runtime", 9.0, 9.5),
        (2, "rolling_deploy", 3.0, 3.0),
        (3, "rolling_deploy", 5.0, 5.0),
    ]
    waves = [set(planned.clients) for planned in storm if planned.kind == "rolling_deploy"]
    assert sum(map(len, waves)) == len(set.union(*waves)) == 100
    assert all(20 <= len(wave) <= 46 for wave in waves)
    assert len(storm) == sum(fault.parts for fault in (deploy, storm[1].fault))


def test_a_share_of_one_is_everybody():
    assert victims(share=1.0) == set(range(200))


def test_times_are_the_fault_phases_own():
    planned = fault_schedule.plan(
        drill(
            DropSockets(at_s=1.0, offline_s=2.0),
            ExpireTokens(at_s=1.5),
            SkipDeliveries(at_s=0.0, clients_share=0.5, events_share=0.5, for_s=4.0),
            ShrinkWindow(at_s=2.0, keep_events=0),
            KillRuntime(at_s=3.0, down_s=1.5),
        ),
        1,
    )
    assert [(fault.index, fault.kind, fault.begins_s, fault.ends_s) for fault in planned] == [
        (0, "drop_sockets", 1.0, 3.0),
        (1, "expire_tokens", 1.5, 1.5),
        (2, "skip_deliveries", 0.0, 4.0),
        (3, "shrink_window", 2.0, 2.0),
        (4, "kill_runtime", 3.0, 4.5),
    ]
    assert [len(fault.clients) for fault in planned] == [200, 0, 0, 0, 0]


def test_every_code_is_given_to_about_as_many_clients():
    codes = (1001, 1013, 503)
    (planned,) = fault_schedule.plan(drill(CloseConnections(at_s=1.0, for_s=2.0, share=0.3, codes=codes, after_ms=5.0)), 1)
    order = close_order(planned, planned.fault)
    assert len(order.codes) == len(planned.clients) == 60
    assert Counter(order.codes.values()) == dict.fromkeys(codes, 20)
    assert (order.fault, order.after_ms, order.retry_after_ms) == (0, 5.0, 0.0)
    assert planned.ends_s == 3.0


def test_a_plan_describes_itself_for_the_header():
    (planned,) = fault_schedule.plan(drill(DropSockets(at_s=1.0, share=0.5, offline_s=2.0)), 1)
    assert planned.describe() == {
        "kind": "drop_sockets",
        "at_s": 1.0,
        "share": 0.5,
        "offline_s": 2.0,
        "wave": 1,
        "waves": 1,
        "ends_s": 3.0,
        "clients": 100,
    }


HEALTHY = Switches(defects={"duplicate_delivery"}, seed=9, tokens_void_before=5.0)
SLOW = SlowMint(at_s=0.0, delay_ms=20.0, concurrency=3, for_s=1.0)
SKIP = SkipDeliveries(at_s=0.0, clients_share=0.25, events_share=0.125, for_s=1.0)
SHRINK = ShrinkReplayBudget(at_s=0.0, events=7, for_s=1.0)


def test_no_fault_is_healthy_again():
    assert fault_schedule.switches_during(HEALTHY, []) == HEALTHY


def test_each_fault_changes_its_own_switches_and_no_other():
    def changed(*active: AnyFault) -> dict[str, object]:
        now, before = (msgspec.to_builtins(switches) for switches in (fault_schedule.switches_during(HEALTHY, active), HEALTHY))
        return {name: value for name, value in now.items() if value != before[name]}

    assert changed(SLOW) == {"mint_delay_ms": 20.0, "mint_concurrency": 3}
    assert changed(SKIP) == {"skip_live_clients": 0.25, "skip_live_events": 0.125}
    assert changed(SHRINK) == {"shrunk_budget_events": 7}
    assert changed(SLOW, SKIP, SHRINK) == changed(SLOW) | changed(SKIP) | changed(SHRINK)
    assert changed(DropSockets(at_s=0.0), ExpireTokens(at_s=0.0), KillRuntime(at_s=0.0, down_s=0.0)) == {}


# --- links ------------------------------------------------------------------------------------------------

NARROW = SlowLinks(at_s=0.0, for_s=1.0, latency_ms=100.0, kib_per_s=4.0)
JITTERY = SlowLinks(at_s=0.0, for_s=1.0, latency_ms=50.0, jitter_ms=20.0, kib_per_s=8.0, direction="to_client")


def test_no_fault_leaves_a_calm_link():
    assert (
        fault_schedule.link_during([])
        == fault_schedule.link_during([SLOW, DropSockets(at_s=0.0), ResetLinks(at_s=0.0)])
        == fault_schedule.CALM
    )


def test_delays_add_up_and_of_limits_the_strictest_holds_each_in_its_direction():
    link = fault_schedule.link_during([NARROW, JITTERY])
    assert link.to_runtime == fault_schedule.Way(latency_s=0.1, bytes_per_s=4096)
    assert link.to_client == fault_schedule.Way(latency_s=pytest.approx(0.15), jitter_s=0.02, bytes_per_s=4096)


@pytest.mark.parametrize(
    ("direction", "up", "down"), [("both", True, True), ("to_client", False, True), ("to_runtime", True, False)]
)
def test_a_direction_is_what_the_fault_says(direction: str, up: bool, down: bool):
    stall = fault_schedule.link_during([StallLinks(at_s=0.0, for_s=1.0, direction=direction)])
    assert (stall.to_runtime.stalled, stall.to_client.stalled, stall.refuses) == (up, down, False)
    cut = fault_schedule.link_during([CutAfterBytes(at_s=0.0, for_s=1.0, after_bytes=9, direction=direction)])
    assert (cut.to_runtime.cut_after_bytes == 9, cut.to_client.cut_after_bytes == 9) == (up, down)
    late = fault_schedule.link_during([SlowClose(at_s=0.0, for_s=1.0, delay_ms=500, direction=direction)])
    assert (late.to_runtime.close_delay_s, late.to_client.close_delay_s) == (0.5 * up, 0.5 * down)


def test_refused_connects_go_neither_way():
    link = fault_schedule.link_during([RefuseConnects(at_s=0.0, for_s=1.0)])
    assert link == fault_schedule.LinkConditions(refuses=True)


def test_who_is_concerned_by_which_faults():
    planned = fault_schedule.plan(drill(DropSockets(at_s=0.0), StallLinks(at_s=0.0, for_s=1.0, share=0.5), NARROW), 1)
    concerned = fault_schedule.links_concerned(planned)
    assert set(concerned.values()) == {frozenset({2}), frozenset({1, 2})}
    assert {client for client, which in concerned.items() if 1 in which} == set(planned[1].clients)
    assert fault_schedule.links_concerned(planned[:1]) == {}


def test_a_flap_lasts_from_its_first_reset_to_its_last():
    (planned,) = fault_schedule.plan(drill(ResetLinks(at_s=1.0, times=4, every_s=1.5)), 1)
    assert (planned.begins_s, planned.ends_s) == (1.0, 5.5)
