"""Each simulated server of a third-party protocol gives the drills the verdicts that the real server gives.

The rows are those of `drills/third_party/findings`, with the server in its sane variant.
"""

from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import catalog, results, running
from drills.runs.request import Request
from drills.third_party import findings, recipes
from drills.third_party.findings import Finding
from drills.third_party.recipe import SANE
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.protocols import registry
from tests.storms import OF_SIZE, OF_TIME

# What only the real server shows: its own store, read over HTTP, and how long its TCP keeps a connection that is gone.
PROTOCOLS = {"nats": "nats_jetstream"}  # by server, where it has another name
ONLY_REAL = frozenset({"stored_lost", "stored_twice", "reconnect.half_open_left"})
# The simulated control service can be slow, and simulated NATS asks for tokens; the real ones of these rows do not.
CONTROLLED = frozenset({("centrifugo", "token_expiry_storm"), ("nats_jetstream", "token_expiry_storm")})
TTL = "fleet.token_ttl_s="
SLOWER_SILENCE = ("faults.1.for_s=15.0",)  # a simulated client counts three heartbeats of the drill, at least ten seconds


def rows() -> list[tuple[str, Finding]]:
    """The rows of all servers that are simulated, each with its protocol."""
    found = []
    for server in recipes.NAMES:
        protocol = PROTOCOLS.get(server, server)
        if registry.get(protocol).server is not None:
            found += [
                (protocol, row) for row in findings.of(server) if row.variant == SANE and not has_other_tokens(protocol, row)
            ]
    return found


def has_other_tokens(protocol: str, row: Finding) -> bool:
    return row.expects == "not_run" and (protocol, row.drill) in CONTROLLED


def called(row: object) -> str:
    return row.drill if isinstance(row, Finding) else str(row)


def short_tokens(ttl_s: int) -> tuple[str, ...]:
    """What lets the simulated service issue such tokens, to be renewed after half of their life, as those signed here are."""
    return "runtime.token_ttl_min_s=2", f"runtime.token_refresh_margin_s={ttl_s // 2}", "runtime.token_leeway_s=0"


def simulated(folder: Path, protocol: str, found: Finding) -> DrillVerdict:
    more = SLOWER_SILENCE if found.drill == "half_open_sockets" else ()
    for setting in found.settings:
        if setting.startswith(TTL):
            more += short_tokens(int(setting.removeprefix(TTL)))
    drill = drills.load(catalog.path_of(found.drill), (*found.overrides(), *more))
    request = Request(
        drills=(drill,),
        engine="virtual",
        target="mock",
        targets=None,
        seed=1,
        defects=(),
        thresholds=None,
        out=folder,
        protocol=protocol,
    )
    (verdict,) = results.judge_run(running.run(request)).drills
    return verdict


def red_in(verdict: DrillVerdict) -> set[str]:
    red = {check.name for check in verdict.checks if check.state in (State.FAIL, State.ERROR)}
    return (red | {each.invariant for each in verdict.violations}) - {*OF_TIME, "drill.invariants"}


@pytest.mark.parametrize(("protocol", "found"), rows(), ids=called)
def test_a_simulation_finds_what_the_real_server_shows(tmp_path: Path, protocol: str, found: Finding) -> None:
    verdict = simulated(tmp_path, protocol, found)
    if found.expects in ("not_run", "inconclusive"):
        assert verdict.status is State(found.expects)
        return
    assert red_in(verdict) - ONLY_REAL == set(found.names) - ONLY_REAL
    unsure = {check.name for check in verdict.checks if check.is_required and check.state is State.INCONCLUSIVE}
    assert unsure - {*OF_TIME, *OF_SIZE} == set()


@pytest.mark.parametrize("protocol", sorted({protocol for protocol, _ in rows()}))
def test_the_mock_cannot_serve_what_is_only_simulated(protocol: str) -> None:
    with pytest.raises(UsageError, match="can be simulated, but the mock cannot serve it"):
        registry.wire_forms(protocol)


TRIMMED = (
    'faults=[{ kind = "drop_sockets", at_s = 0.0, share = 0.5, offline_s = 1.5 }, '
    '{ kind = "shrink_window", at_s = 1.0, keep_events = 5, streams = 1 }]'
)


def test_a_server_that_says_no_reasons_must_still_refuse_stale_positions(tmp_path: Path) -> None:
    found = Finding(drill="stale_cursor", settings=(TRIMMED, "load.worker_events=false"))
    checks = {check.name: check for check in simulated(tmp_path / "flag", "centrifugo", found).checks}
    assert checks["drill.stale_signalled"].state is State.PASS
    untouched = Finding(drill="stale_cursor", settings=(TRIMMED.replace("= 5,", "= 500,"), "load.worker_events=false"))
    checks = {check.name: check for check in simulated(tmp_path / "none", "centrifugo", untouched).checks}
    assert checks["drill.stale_signalled"].state is State.FAIL
