"""What each drill of the catalogue finds in a healthy server of a protocol, and by which names its defects are found.

For the default protocol, a healthy server has no findings, and `tests/mutation_table.py` has its defects. Every finding here is
a habit of the protocol's own server that the contract does not allow.
"""

from sim.protocols import registry
from tests import simulated_findings as simulated
from tests.mutation_table import EVERYWHERE, IMPATIENT, MUTATIONS, SHARED, Catch, defect
from tests.storms import OF_TIME

QUICK = ("reconnect_storm", "dropped_delivery", "runtime_restart")  # what the ordinary tests run on real sockets, too
SIMULATED = tuple(name for name in registry.names() if registry.get(name).server is not None)
PROTOCOLS = ("phoenix_sync",)  # further protocols of the mock's own; those of third parties have tables of their servers
_LATE = (
    "faults.1.events=5",
    "faults.2.at_s=1.6",
    "faults.2.keep_events=4",
)  # some return before the window shrinks, some after
OVERRIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "phoenix_sync": {
        "stale_cursor": _LATE,
        "stale_cursor_storm": _LATE,
        "malformed_clients": ("phases.fault_s=45",),  # most malformed frames close the socket, so each costs a reconnect
    }
}
# Drills that delete what a service stores. Without epochs no client can notice that, so there is no healthy result.
_RECREATED = frozenset({"log_recreated", "silent_loss", "delivery.dropped_deliveries", "drill.converged"})
FOUND: dict[str, dict[str, frozenset[str]]] = {
    "spacetime": {"log_recreated": _RECREATED},
    "phoenix_sync": {
        "log_recreated": _RECREATED,
        # It has no limit on a token's age.
        "token_misuse": frozenset({"drill.negative_clients", "overaged_token_accepted"}),
        "token_lifetime": frozenset({"drill.negative_clients", "overaged_token_accepted"}),
        # It closes the socket without a word, so each client first tries its void token again.
        "token_expiry_storm": frozenset({"error.websocket_auth_error_ratio"}),
        # It ends the channel of a silent client, and keeps the socket.
        "half_open_sockets": frozenset({"reconnect.half_open_left"}),
        # The topic has no snapshots, so what a stale client missed is lost.
        "stale_cursor_storm": frozenset({"drill.declared_loss"}),
    },
}
UNTOLD: dict[str, dict[str, str]] = {
    "phoenix_sync": {
        "error.tokens_too_old": "states no codes",
        "reconnect.early_returns": "does not disconnect slow consumers",
        "delivery.slow_consumers_kept": "does not disconnect slow consumers",
        "delivery.slow_consumer_evictions": "does not disconnect slow consumers",
    }
}
"""Checks that a protocol cannot tell, with a part of the reason."""
SILENT: dict[str, dict[tuple[str, str], str]] = {
    "phoenix_sync": {
        # Nobody says that a token is void, so this client cannot know when to try it.
        ("token_expiry_storm", "drill.negative_clients"): "expired_token",
    }
}
"""Checks of a drill that stay without an answer for another reason, with a part of it."""
DEFECTS: tuple[Catch, ...] = (
    *(case for case in MUTATIONS if case.protocol != registry.DEFAULT),
    defect(
        *("forget_revocations", "session_revocation", "drill.revocation"),
        settings=(*IMPATIENT, *SHARED),
        protocol="phoenix_sync",
    ),
    defect(
        *("announce_before_commit", "reconnect_storm", "silent_loss", "delivery.dropped_deliveries"),
        settings=(*IMPATIENT, *SHARED, "fleet.policy=desktop"),
        protocol="phoenix_sync",
    ),
    defect(  # the reference client closes each gap by itself
        *("announce_before_commit", "rolling_deploy", "unexplained_gap"),
        settings=("phases.steady_s=4", *SHARED),
        protocol="phoenix_sync",
        only=True,
        tested=EVERYWHERE,
    ),
    defect(
        *("skip_delivery", "dropped_delivery", "delivery.dropped_deliveries"),
        settings=(*IMPATIENT, *SHARED),
        protocol="phoenix_sync",
    ),
    defect(
        "lose_log_on_restart", "runtime_restart", "acknowledged_lost", settings=(*IMPATIENT, *SHARED), protocol="phoenix_sync"
    ),
    defect(
        *("accept_mutation", "mutation_over_socket", "socket_changed_state", "drill.negative_clients"),
        settings=(*IMPATIENT, *SHARED),
        protocol="phoenix_sync",
    ),
)

OVERRIDES |= simulated.OVERRIDES
FOUND |= simulated.FOUND
UNTOLD |= simulated.UNTOLD
SILENT |= simulated.SILENT


def overrides(protocol: str, drill: str) -> tuple[str, ...]:
    """What makes a small drill suit a protocol."""
    return (*SHARED, *simulated.ALWAYS.get(protocol, ()), *OVERRIDES[protocol].get(drill, ()))


def complaints(protocol: str, drill: str, verdict: object) -> list[str]:
    """What a healthy run differs in from the table, in words."""
    from drills.judging.checks.verdicts import DrillVerdict, State
    from tests.mutation_table import turned_red
    from tests.storms import OF_SIZE

    assert isinstance(verdict, DrillVerdict)
    not_run = simulated.NOT_RUN.get(protocol, {}).get(drill)
    if not_run is not None or verdict.not_run:
        is_right = not_run is not None and not_run in verdict.not_run
        return [] if is_right else [f"not run: {verdict.not_run or 'no'}; expected: {not_run}"]
    wanted = FOUND[protocol].get(drill, frozenset())
    found = turned_red(verdict) - {*OF_TIME}
    wrong = [f"found: {name}" for name in sorted(found - wanted)] + [f"not found: {name}" for name in sorted(wanted - found)]
    for check in verdict.checks:
        if check.state is State.NO_DATA and not check.is_required:
            reason = UNTOLD[protocol].get(check.name)
        elif check.state in (State.NO_DATA, State.INCONCLUSIVE, State.NOT_RUN) and check.name not in (*OF_TIME, *OF_SIZE):
            reason = SILENT[protocol].get((drill, check.name))
        else:
            continue
        if reason is None or reason not in check.reason:
            wrong.append(f"{check.name} {check.state}: {check.reason}")
    return wrong
