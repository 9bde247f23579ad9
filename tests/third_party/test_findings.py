"""Drills on real servers of others, with no patch: each finds what `drills/third_party/findings` says, and no more."""

import itertools
import shlex
from pathlib import Path

import msgspec
import pytest

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import catalog, results, running
from drills.runs.request import Request
from drills.third_party import findings, recipes
from drills.third_party.findings import Finding
from drills.third_party.recipe import SANE
from drills.third_party.running import running as server_running
from sim.drill import model as drills
from tests.storms import OF_TIME

ON_EACH = (
    *("reconnect_storm", "network_flap", "half_open_sockets", "runtime_restart", "slow_consumer"),
    *("stale_cursor", "dropped_delivery", "lost_publish_answers"),
)
ROWS = [(server, found) for server in recipes.NAMES for found in findings.of(server)]
TRIES = 3
# The first row of each drill that a sane server runs.
FULL = {
    (server, found.drill): found for server, found in reversed(ROWS) if found.variant == SANE and found.expects != "not_run"
}


def held(folder: Path, server: str, found: Finding, overrides: tuple[str, ...]) -> list[str]:
    """What a server differs in from a row of the table. A drill for which the machine was too busy is repeated."""
    wrong: list[str] = []
    for _ in range(TRIES):
        wrong = complaints(found, judged(folder, server, found, overrides))
        if not wrong or any("the machine was too busy" not in each for each in wrong):
            break
    return wrong


def log_of(folder: Path) -> str:
    return (folder / "server.log").read_text(errors="replace")[-2000:]


def judged(folder: Path, server: str, found: Finding, overrides: tuple[str, ...]) -> DrillVerdict:
    """The verdict on one drill of a server that is started for it."""
    drill = drills.load(catalog.path_of(found.drill), overrides)
    with server_running(server, found.variant, log=folder / "server.log") as up:
        request = Request(
            drills=(drill,),
            engine="sockets",
            target=up.name,
            targets=up.targets_file,
            seed=1,
            defects=(),
            thresholds=None,
            out=folder,
        )
        (verdict,) = results.judge_run(running.run(request)).drills
    return verdict


def complaints(found: Finding, verdict: DrillVerdict) -> list[str]:
    """What a verdict differs in from a row of the table, in words."""
    if found.expects == "not_run":
        return [] if verdict.status is State.NOT_RUN else [f"{verdict.status}, not not_run"]
    red = {check.name: check.reason for check in verdict.checks if check.state in (State.FAIL, State.ERROR)}
    red |= {each.invariant: each.first for each in verdict.violations}
    shown = {name for name in red if name not in OF_TIME} - {"drill.invariants"}
    wanted = set(found.names)
    wrong = [f"not red: {name}" for name in sorted(wanted - shown)]
    if found.variant == SANE:
        wrong += [f"red: {name}: {red[name]}" for name in sorted(shown - wanted)]
    if found.expects == "go":  # times apart, which a busy machine may not keep
        unready = [check for check in verdict.checks if check.is_required and check.state is not State.PASS]
        wrong += [f"{check.name} {check.state}: {check.reason}" for check in unready if check.name not in (*OF_TIME, *shown)]
    if found.expects == "inconclusive" and verdict.status is not State.INCONCLUSIVE:
        wrong.append(f"{verdict.status}, not inconclusive: {'; '.join(red.values())}")
    texts = " ".join(red[name] for name in wanted & shown)
    if found.first and found.first not in texts:
        wrong.append(f"the first occurrence does not say '{found.first}': {texts}")
    return wrong


def shown(row: tuple[str, Finding]) -> object:
    server, found = row
    marks = () if found.ci else (pytest.mark.long,)
    return pytest.param(server, found, id=f"{server}-{found.variant}-{found.drill}", marks=marks)


@pytest.mark.parametrize(("server", "found"), [shown(row) for row in ROWS])
def test_each_drill_finds_what_the_table_says(tmp_path: Path, server: str, found: Finding):
    assert held(tmp_path, server, found, found.overrides()) == [], log_of(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("server", "drill"), sorted(FULL))
def test_each_drill_finds_the_same_with_the_phases_and_clients_of_the_catalogue(tmp_path: Path, server: str, drill: str):
    found = msgspec.structs.replace(FULL[server, drill], first="")  # its numbers are those of a short drill
    assert held(tmp_path, server, found, found.at_full_length) == [], log_of(tmp_path)


@pytest.mark.parametrize("server", recipes.NAMES)
def test_each_server_has_a_row_for_each_drill_and_four_wrong_variants(server: str):
    rows = findings.of(server)
    assert {row.drill for row in rows if row.variant == SANE} >= {*ON_EACH}
    assert len({(row.variant, row.drill) for row in rows if row.expects == "no_go"}) >= 4
    assert {row.variant for row in rows} == {SANE, *recipes.get(server).variants}
    often = {(row.variant, row.expects) for row in rows if row.ci}
    assert (SANE, "go") in often, "the ordinary tests see a go"
    assert len({variant for variant, expects in often if expects == "no_go"}) >= 3, "and several losses"
    assert [row for row in rows if (row.expects == "no_go") != bool(row.names)] == []
    assert [row for row in rows if row.expects != "go" and not row.says] == []


@pytest.mark.parametrize("server", recipes.NAMES)
def test_each_variant_differs_from_the_sane_one_in_one_setting(server: str):
    recipe = recipes.get(server)
    assert [name for name, variant in recipe.variants.items() if len(variant.settings) != 1] == []
    assert [name for name, variant in recipe.variants.items() if variant.settings.items() <= recipe.settings.items()] == []
    assert {key for variant in recipe.variants.values() for key in variant.settings} <= recipe.settings.keys()


def test_each_command_of_the_page_gives_a_shell_the_overrides_as_they_are():
    for server, found in ROWS:
        words = shlex.split(found.command(server))
        assert [value for option, value in itertools.pairwise(words) if option == "--set"] == [*found.overrides()]
