"""Every defect, and the drill and names that catch it: on real sockets, with few clients and short phases."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from storms import CATALOGUE, red, small, storm, troubles

from sim.contract.settings import DEFECTS


@dataclass(frozen=True)
class Catch:
    """What is wrong, the drill that shows it, and what must turn red by name."""

    wrong: str
    drill: str
    names: frozenset[str]


def catch(wrong: str, drill: str, *names: str) -> Catch:
    return Catch(wrong, drill, frozenset(names))


DEFECT_CATCHERS = (
    catch("skip_delivery", "dropped_delivery", "delivery.dropped_deliveries", "replay.divergence"),
    catch("replay_off_by_one", "reconnect_storm", "replay.divergence"),
    catch("ignore_cursor", "reconnect_storm", "replay.divergence"),
    catch("no_stale_signal", "stale_cursor", "drill.stale_signalled"),
    catch("accept_expired_token", "token_expiry_storm", "drill.probes", "expired_token_accepted"),
    catch("accept_mutation", "reconnect_storm", "drill.probes", "socket_changed_state"),
    catch("lose_log_on_restart", "runtime_restart", "acknowledged_lost"),
    catch("wrong_payload_hash", "dropped_delivery", "ux.integrity", "jumbled_message"),
    catch("cross_topic_leak", "reconnect_storm", "cross_topic_leak"),
    catch("reorder_replay", "runtime_restart", "replay.divergence"),
)
HARMLESS = "duplicate_delivery"  # the contract allows it, so it must turn nothing red anywhere
DESKTOP_CATCHERS = (
    catch("resubscribes from zero", "stale_cursor", "stale_loop", "replay.stale_loops", "reconnect.backoff_unjittered"),
    catch("jumps over holes", "dropped_delivery", "silent_loss", "delivery.dropped_deliveries"),
    catch("goes on counting", "reconnect_storm", "reconnect.backoff_never_resets", "reconnect.backoff_unjittered"),
)
# A second cut after a live period, the only place where a backoff that is never reset shows.
LIVE_PERIOD = ("phases.fault_s=7.2", "faults.1.at_s=6.2")
IMPATIENT = ("phases.settle_s=3", "phases.steady_limit_s=3")  # what will not converge need not be waited for


def test_every_defect_has_a_catcher():
    assert sorted([case.wrong for case in DEFECT_CATCHERS] + [HARMLESS]) == sorted(DEFECTS)


@pytest.mark.parametrize("case", DEFECT_CATCHERS, ids=lambda case: case.wrong)
def test_a_defect_is_caught_by_name(tmp_path: Path, case: Catch):
    verdict = storm(tmp_path, small(case.drill, *IMPATIENT), defects=(case.wrong,))
    assert case.names <= red(verdict), verdict
    assert verdict.defects == (case.wrong,)


@pytest.mark.parametrize("drill", CATALOGUE)
def test_duplicates_on_the_wire_turn_nothing_red(tmp_path: Path, drill: str):
    assert troubles(storm(tmp_path, small(drill), defects=(HARMLESS,))) == []


@pytest.mark.parametrize("case", DESKTOP_CATCHERS, ids=lambda case: case.wrong)
def test_the_shipped_clients_defects_are_caught_by_name(tmp_path: Path, case: Catch):
    long = LIVE_PERIOD if case.drill == "reconnect_storm" else ()
    verdict = storm(tmp_path, small(case.drill, "fleet.policy=desktop", *long))
    assert case.names <= red(verdict), verdict
    assert verdict.policy == "desktop"


def test_the_reference_client_passes_where_the_shipped_one_fails(tmp_path: Path):
    verdict = storm(tmp_path, small("reconnect_storm", *LIVE_PERIOD))
    assert troubles(verdict) == []
    states = {check.name: check.state for check in verdict.checks}
    assert states["reconnect.backoff_never_resets"] == "pass"
    assert states["reconnect.backoff_unjittered"] == "pass"
