"""Drill files: every mistake is one sentence, and every file of the catalogue can be run and judged."""

from pathlib import Path

import pytest

from drills import DATA
from drills.judging import gates
from sim.base.errors import UsageError
from sim.drill import model as drills
from sim.drill.fault_schedule import plan
from sim.drill.model import Drill

CATALOG, EXAMPLES = (
    sorted(path for folder in folders for path in (DATA / folder).glob("*.toml"))
    for folders in (("catalog", "catalog/by_name"), ("examples",))
)
TEXT = """
name = "small"
summary = "Is it well?"
checks = ["ux.integrity"]
[fleet]
clients = 4
[load]
events_per_s = 2.0
run_streams = 2
[phases]
steady_s = 1.0
fault_s = 5.0
[[faults]]
kind = "drop_sockets"
at_s = 1.0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "small.toml"
    made.write_text(TEXT)
    return made


def test_a_file_becomes_a_drill_with_defaults(path: Path):
    drill = drills.load(path)
    assert (drill.fleet.policy, drill.fleet.topics_per_client, drill.phases.settle_s) == ("reference", 1, 30.0)
    assert (drill.faults[0].kind, drill.streams, drill.gates) == ("drop_sockets", 2, ("ux",))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["fleet.size=3"], ["'fleet.size'", "unknown key", "clients", "policy"]),
        (["colour=red"], ["'colour'", "unknown key", "faults", "expect"]),
        (["fleet.clients=many"], ["'fleet.clients'", "'many'", "expected int"]),
        (["fleet.clients=0"], ["'fleet.clients'", "is 0", ">= 1"]),
        (["fleet.clients=-3"], ["'fleet.clients'", "is -3", ">= 1"]),
        (["fleet.clients=1000000000000000000000000000000"], ["'fleet.clients'", "<= 100000000"]),
        (["phases.fault_s=1e300"], ["'phases'", "1e+300 s", "at most 1e+07 s"]),
        (["fleet.connects_per_s=1e-300"], ["arrival", "at most 1e+07 s"]),
        (["load.events_per_s=1e300"], ["'load.events_per_s'", "1e+300", "at most"]),
        (["fleet.policy=mobile"], ["'fleet.policy'", "'mobile'", "reference, desktop"]),
        (["load.events_per_s=0"], ["'load.events_per_s'", "is 0", "> 0"]),
        (["load.events_per_s=nan"], ["'load.events_per_s'", "nan"]),
        (["load.events_per_s=inf"], ["'load.events_per_s'", "inf"]),
        (["phases.settle_s=inf"], ["'phases.settle_s'", "inf"]),
        (["phases.fault_s=false"], ["'phases.fault_s'", "False"]),
        (["faults.0.kind=meteor"], ["'faults.0.kind'", "'meteor'", "drop_sockets", "kill_runtime"]),
        (["faults.0.share=1.5"], ["'faults.0.share'", "1.5", "<= 1"]),
        (["faults.0.wave=3", "faults.0.waves=2"], ["'faults.0.wave'", "is 3", "only 2"]),
        (["faults.0.wave=0"], ["'faults.0.wave'", "is 0", ">= 1"]),
        (['engines=["fleet"]'], ["'engines.0'", "'fleet'", "sockets, virtual"]),
        (["engines=[]"], ["'engines'", ">= 1"]),
        (["faults.0.share=0.0"], ["'faults.0.share'", "> 0"]),
        (["faults.0.offline=1"], ["'faults.0.offline'", "unknown key", "offline_s"]),
        (["faults.0.at_s=5"], ["'faults.0.at_s'", "5", "phases.fault_s"]),
        (["faults.0.at_s=-1"], ["'faults.0.at_s'", "-1", ">= 0"]),
        (["faults.0.offline_s=4.5"], ["'faults.0.offline_s'", "4.5", "at most 4 s", "phases.fault_s"]),
        (
            ["faults=[{kind='close_connections', at_s=1, for_s=1, codes=[1000, 2000]}]"],
            ["'faults.0'", "2000", "neither a close code", "nor a status"],
        ),
        (["faults=[{kind='close_connections', at_s=1, for_s=1, codes=[1004]}]"], ["'faults.0'", "1004"]),
        (["faults=[{kind='close_connections', at_s=1, for_s=1, codes=[]}]"], ["'faults.0.codes'", ">= 1"]),
        (["faults=[{kind='close_connections', at_s=1, for_s=1, codes=[200]}]"], ["'faults.0.codes.0'", "200"]),
        (["faults=[{kind='kill_runtime', at_s=1, down_s=9}]"], ["'faults.0.down_s'", "at most 4 s"]),
        (
            ["faults=[{kind='shrink_window', at_s=1, keep_events=1, streams=3}]"],
            ["'faults.0.streams'", "3", "load.run_streams"],
        ),
        (
            ["faults=[{kind='shrink_window', at_s=1, keep_events=1, worker_events=true}]"],
            ["'faults.0.worker_events'", "load.worker_events"],
        ),
        (["fleet.topics_per_client=3"], ["'fleet.topics_per_client'", "3", "load.run_streams", "1 to 2"]),
        (["checks=[]"], ["'checks'", "length >= 1"]),
        (["checks=['fast']"], ["'checks.0'", "'fast'"]),
        (["name=A-B"], ["'name'", "'A-B'"]),
        (
            ["expect.negative_clients=['intruder']"],
            ["'expect.negative_clients.0'", "'intruder'", "expired_token, mutation_over_socket"],
        ),
        (["expect.stale_reasons=['old']"], ["'expect.stale_reasons.0'", "'old'", "retention_floor_breach"]),
        (["runtime.window=3"], ["'runtime.window'", "unknown key", "window_events"]),
        (["runtime.profile=huge"], ["'runtime.profile'", "'huge'", "full, pinned"]),
    ],
)
def test_a_mistake_is_one_sentence_naming_file_key_found_and_allowed(path: Path, overrides: list[str], words: list[str]):
    with pytest.raises(UsageError) as raised:
        drills.load(path, tuple(overrides))
    sentence = str(raised.value)
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert [word for word in words if word not in sentence] == []


def test_a_share_that_picks_nobody_is_refused(path: Path):
    with pytest.raises(UsageError, match=r"'faults\.0\.share' is 0\.1, which selects no client of 4"):
        drills.load(path, ("faults.0.share=0.1",))


def test_a_file_that_lacks_a_table_is_one_sentence(path: Path):
    path.write_text(TEXT.replace("[fleet]\nclients = 4\n", ""))
    with pytest.raises(UsageError, match="'fleet' is missing"):
        drills.load(path)


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("fleet.clients=7", lambda drill: drill.fleet.clients == 7),
        ("fleet.policy=desktop", lambda drill: drill.fleet.policy == "desktop"),
        ('fleet.policy="desktop"', lambda drill: drill.fleet.policy == "desktop"),
        ("runtime.profile=pinned", lambda drill: drill.runtime.profile == "pinned"),
        ("faults.0.at_s=2", lambda drill: drill.faults[0].at_s == 2.0),
        ("load.worker_events=true", lambda drill: drill.streams == 3),
        ("expect.negative_clients=['expired_token']", lambda drill: drill.expect.negative_clients == ("expired_token",)),
    ],
)
def test_set_changes_the_drill_and_its_digest(path: Path, assignment: str, read):
    drill = drills.load(path, (assignment,))
    assert read(drill)
    assert drill.digest() != drills.load(path).digest()


def test_the_last_of_two_settings_counts(path: Path):
    assert drills.load(path, ("fleet.clients=7", "fleet.clients=8")).fleet.clients == 8


def test_a_digest_is_of_the_drill_and_not_of_its_files_layout(path: Path):
    before = drills.load(path).digest()
    path.write_text("# a comment\n" + TEXT.replace("steady_s = 1.0", "steady_s = 1"))
    assert drills.load(path).digest() == before


def test_the_catalogue_has_the_five_drills():
    names = {"reconnect_storm", "stale_cursor", "dropped_delivery", "runtime_restart", "token_expiry_storm"}
    names |= {"token_misuse", "token_lifetime", "publish_failures", "control_outage", "session_revocation"}
    names |= {"token_rotation", "http_authority", "compatibility_window", "clock_skew", "retired_routes"}
    assert names <= {path.stem for path in CATALOG}


@pytest.mark.parametrize("path", CATALOG + EXAMPLES, ids=lambda path: path.stem)
def test_a_drill_of_ours_loads_and_names_only_what_there_is(path: Path):
    drill: Drill = drills.load(path)
    gates.require_checks(drill, gates.load_thresholds())
    assert drill.name == path.stem
    assert drill.summary.endswith("?")
    assert set(drill.gates) <= set(gates.GATES)
    if path in CATALOG and "sockets" in drill.engines:
        assert drills.expected_duration_s(drill) < 30


def test_the_rollout_day_is_a_day_that_drops_everyone_once():
    day = drills.load(next(path for path in EXAMPLES if path.stem == "rollout_day"))
    assert drills.expected_duration_s(day) == pytest.approx(8 * 3600, rel=0.01)
    assert (day.fleet.clients, day.engines) == (2000, ("virtual",))
    assert sorted(client for wave in plan(day, 1) for client in wave.clients) == list(range(2000))
    assert day.runtime.window_events < 8 * 3600 * day.load.events_per_s / day.streams / 5  # most of it is trimmed
