"""The points of a sweep, and the errors for invalid files."""

from pathlib import Path

import pytest

from sim.base.errors import UsageError
from sim.planning import designs
from sim.planning.sweep_file import Parameter
from tests.commands import stormgate_here
from tests.planning.plan_files import SWEEP, TWO_POINTS, load, made, write

CLIENTS = '[[parameters]]\nkey = "fleet.clients"\n'


def values(plan) -> list[dict]:
    return [dict(point.values) for point in designs.points(plan)]


def test_grid_has_all_combinations(tmp_path: Path):
    plan = load(
        tmp_path,
        TWO_POINTS + '[[parameters]]\nkey = "model.server.handshake_ms"\nlow = 1\nhigh = 100\nscale = "log"\nsteps = 3\n',
    )
    assert values(plan) == [
        {"fleet.clients": clients, "model.server.handshake_ms": ms} for clients in (8, 16) for ms in (1, 10, 100)
    ]
    last = designs.points(plan)[-1]
    assert (last.drill.fleet.clients, last.model.server.handshake_ms) == (16, 100)


def test_latin_hypercube_has_each_interval_of_each_parameter_once(tmp_path: Path):
    parameters = (
        Parameter(key="fleet.clients", low=1, high=40),
        Parameter(key="load.events_per_s", low=1.0, high=9.0),
        Parameter(key="fleet.policy", values=("reference", "ably")),
    )
    plan = made(tmp_path, design="latin_hypercube", points=8, parameters=parameters)
    found = values(plan)
    assert sorted((each["fleet.clients"] - 1) // 5 for each in found) == list(range(8))
    assert sorted(int(each["load.events_per_s"] - 1) for each in found) == list(range(8))
    assert [each["fleet.policy"] for each in found].count("ably") == 4
    assert found == values(plan)


def test_hypercube_depends_on_the_seed(tmp_path: Path):
    parameters = (Parameter(key="load.events_per_s", low=1.0, high=9.0),)
    one, other = (made(tmp_path, design="latin_hypercube", points=4, seed=seed, parameters=parameters) for seed in (1, 2))
    assert values(one) != values(other)


def test_one_at_a_time_starts_from_the_drills_own_values(tmp_path: Path):
    parameters = (Parameter(key="fleet.clients", values=(12, 20)), Parameter(key="model.control.mint_ms", values=(0.6, 5.0)))
    plan = made(tmp_path, design="one_at_a_time", parameters=parameters)
    base = {"fleet.clients": 12, "model.control.mint_ms": 0.6}
    assert values(plan) == [base, base | {"fleet.clients": 20}, base | {"model.control.mint_ms": 5.0}]
    assert [point.varies for point in designs.points(plan)] == ["", "fleet.clients", "model.control.mint_ms"]


def test_value_inside_a_list_is_reached(tmp_path: Path):
    plan = made(tmp_path, parameters=(Parameter(key="faults.0.share", values=(0.5, 1.0)),))
    assert [point.drill.faults[0].share for point in designs.points(plan)] == [0.5, 1.0]


def test_equal_points_have_equal_digests(tmp_path: Path):
    plan = load(tmp_path, TWO_POINTS)
    one, other = designs.points(plan)
    assert one.digest == designs.point(plan, {"fleet.clients": 8}).digest != other.digest


MODEL = '[[parameters]]\nkey = "model.server.{}"\n'
WIDE = '[[parameters]]\nkey = "load.x{}"\nlow = 0.0\nhigh = 1.0\nsteps = 1000\n'
WRONG = {
    "nothing varies": (SWEEP, "nothing varies"),
    "no such drill": (
        TWO_POINTS.replace("little_storm.toml", "no_drill"),
        "key 'drill': unknown drill 'no_drill'",
    ),
    "no drill file": (TWO_POINTS.replace("little_storm.toml", "missing.toml"), "missing.toml: no such file"),
    "unknown key": (TWO_POINTS.replace("fleet.clients", "fleet.klients"), "unknown key 'fleet.klients'; allowed here: clients"),
    "unknown key of the model": (SWEEP + MODEL.format("speed") + "values = [1]", "unknown key 'server.speed'"),
    "value that cannot be": (SWEEP + CLIENTS + "values = [5, 0]", "with fleet.clients = 0: key 'fleet.clients' is 0"),
    "turned bounds": (SWEEP + CLIENTS + "low = 9\nhigh = 3", "'low' (9) must be below 'high' (3)"),
    "half a range": (SWEEP + CLIENTS + "low = 9", "give both 'low' and 'high'"),
    "both": (SWEEP + CLIENTS + "values = [2]\nlow = 1\nhigh = 3", "give 'values', or both 'low' and 'high'"),
    "log from zero": (SWEEP + CLIENTS + 'low = 0\nhigh = 3\nscale = "log"', "a logarithmic scale needs 'low' above 0"),
    "endless": (SWEEP + CLIENTS + "low = 1\nhigh = inf", "expected a finite number"),
    "twice": (TWO_POINTS + CLIENTS + "values = [3]", "two parameters have the key 'fleet.clients'"),
    "the same value twice": (SWEEP + CLIENTS + "values = [3, 3]", "'values' has a duplicate"),
    "too many": (SWEEP + WIDE.format(1) + WIDE.format(2), "the grid has 1000000 points"),
    "no replications": (TWO_POINTS.replace("= 3", "= 0"), "key 'replications' is 0"),
    "no engine": ('engine = "magic"' + TWO_POINTS, "key 'engine' is 'magic'"),
    "not TOML": ("name = ", "is not valid TOML"),
    "a drill that cannot be simulated": (
        TWO_POINTS.replace("little_storm.toml", "retired_routes"),
        "does not run on the engine",
    ),
    "no values of its own": (TWO_POINTS + 'steps = 2\n[[parameters]]\nkey = "faults.7.share"\nvalues = [1]', "is not a table"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_sweep_file_is_refused(tmp_path: Path, name: str):
    text, words = WRONG[name]
    said = stormgate_here("plan", "sweep", write(tmp_path, text), "--out", tmp_path / "out")
    assert said.code == 3, said
    assert words in said.sentence
    assert not (tmp_path / "out").exists()


def test_parameter_without_a_base_value_is_refused(tmp_path: Path):
    plan = made(tmp_path, design="one_at_a_time", parameters=(Parameter(key="fleet.connects_per_hour", values=(1,)),))
    with pytest.raises(UsageError, match=r"no value at 'fleet\.connects_per_hour'"):
        designs.points(plan)
