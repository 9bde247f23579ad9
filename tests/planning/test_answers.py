"""What sweeps and searches say in words: the answer, how sure it is, what limits, and the next command."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from drills.planning import answers, search, sweeps
from drills.planning.search import Searched
from drills.planning.sweeps import Swept
from sim.planning import bottlenecks
from sim.planning.search import Found, Outcome, Trial
from sim.planning.store import Row
from sim.planning.sweep_file import Find
from sim.record.stations import StationLoad
from tests.commands import stormgate_here
from tests.planning.plan_files import SWEEP, here, load, write

NARROW = "[model.server]\nhandshake_ms = 20.0\naccept_backlog = 12\n"
FLEETS = '[[parameters]]\nkey = "fleet.clients"\nvalues = [8, 40]\n'


def station(name: str, full_s: float = 0.0, busy: float = 0.2, waiting: float = 0.0, refused: int = 0) -> StationLoad:
    return StationLoad(
        name=name, workers=2, bin_s=0.1, busy=[2 * busy], waiting=[waiting], max_busy=2 * busy, since_s=0.0,
        mean_busy=2 * busy, max_waiting=waiting,
        full_s=full_s, places=12, refused=refused,
    )  # fmt: skip


def rows(*loads: StationLoad) -> list[Row]:
    return [Row("", 1, (), stations=loads)]


def test_fullest_station_is_the_bottleneck():
    said = bottlenecks.limit_of(rows(station("minting", 0.4, 1.0, 3), station("handshakes", 1.5, 1.0, 70, refused=9)))
    words = "handshakes: all 2 workers are busy for 1.5 s, up to 70 wait, and the accept queue of 12 is full 9 times"
    assert said == f"The bottleneck is {words}."


def test_idle_stations_are_no_bottleneck():
    said = bottlenecks.limit_of(rows(station("minting"), station("delivery", busy=0.4)))
    assert said.startswith("No station is a bottleneck (the busiest, delivery, reaches 40%)")
    assert bottlenecks.limit_of([Row("", 1, (), error="it stood still")]) == ""


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ({100: 0, 200: 0, 300: 4}, ["from clients = 300 on; at 200 it does not"]),
        ({100: 3, 200: 0}, ["up to clients = 100; at 200 it does not"]),
        ({100: 3, 200: 0, 300: 2}, ["at 2 of 3 values of clients"]),
        ({100: 1}, ["at 1 of 1 values of clients"]),
        ({100: 0, 200: 0}, []),
    ],
)
def test_overflow_is_told_with_the_value_where_it_begins(refused: dict[int, int], words: list[str]):
    tried = {value: rows(station("handshakes", refused=count)) for value, count in refused.items()}
    assert bottlenecks.overflows("clients", tried) == [f"The accept queue of 12 overflows {each}." for each in words]


def test_sweep_answers_in_words(tmp_path: Path):
    file = write(tmp_path, 'engine = "fleet"\n' + SWEEP + NARROW + FLEETS)
    said = stormgate_here("plan", "sweep", file, "--out", tmp_path)
    assert said.code == 0
    told = " ".join(said.out.split())
    assert "Found: The gates at 2 points: 2 inconclusive. 95 % live again (s): from" in told
    assert "at fleet.clients = 8 to" in told
    assert "How sure: Each point was simulated 3 times with common seeds." in told
    assert "What limits: The hardest point is fleet.clients = 40. The bottleneck is handshakes: the only worker is busy" in told
    assert "The accept queue of 12 overflows from fleet.clients = 40 on; at 8 it does not." in told
    assert "Next: Not decided: 2 of 2 points." in told
    assert 'set engine = "virtual"' in told
    folder = tmp_path / "plans" / "little"
    kept = {path.name: path.read_text() for path in (folder / "SUMMARY.md", folder / "report.html")}
    assert all("The accept queue of 12 overflows from fleet.clients = 40 on" in text for text in kept.values())
    assert "| 40 | handshakes | 1 |" in kept["SUMMARY.md"]
    as_json = msgspec.json.decode(stormgate_here("plan", "sweep", file, "--out", tmp_path, "--json").out)
    assert as_json["in_words"]["limits"].startswith("The hardest point is fleet.clients = 40.")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search whose trials the tests replace."""
    folder = tmp_path_factory.mktemp("searched")
    find = '[find]\nkey = "fleet.clients"\nwant = "largest"\nlow = 8\nhigh = 9\nkeep = ["reconnect.live_again_99_s"]\n'
    return search.find(load(folder, 'engine = "fleet"\n' + SWEEP + find), folder, here)


def test_green_bound_is_no_limit(searched: Searched):
    said = answers.of_search(searched)
    assert said.found.endswith("9, the bound of the search")
    assert said.next.startswith(
        "The answer is the bound, so the limit may be beyond it: move find.high and run `stormgate plan find"
    )


GREEN, RED, UNSURE, BROKEN = Outcome.GREEN, Outcome.RED, Outcome.INCONCLUSIVE, Outcome.ERROR
CASES = {
    "nothing in between": (((8, GREEN), (40, RED)), 8, 40, "40 is red, and no value in between was tried", ""),
    "unsure in between": (
        ((8, GREEN), (40, RED), (20, UNSURE)),
        8,
        40,
        "in between 20 is inconclusive",
        "At 20 40 replications are",
    ),
    "unsure beyond the red": (((8, GREEN), (40, RED), (90, UNSURE)), 8, 40, "no value in between was tried", ""),
    "broken beyond": (((8, GREEN), (40, BROKEN)), 8, None, "none is red", "At 40 the drill itself did not work: why. To look"),
    "all red": (((8, RED),), None, None, "none found", "Lower find.low, or change what limits"),
    "broken at once": (((8, BROKEN),), None, None, "none found", "At 8 the drill itself did not work"),
}


@pytest.mark.parametrize("name", CASES)
def test_search_says_what_to_do_next(searched: Searched, name: str):
    trials, answer, beyond, found, then = CASES[name]
    made = tuple(Trial(value, outcome, 40, "" if outcome is GREEN else "why") for value, outcome in trials)
    done = replace(searched, found=Found(made, answer, beyond=beyond), rows=(searched.rows[0],) * len(made))
    said = answers.of_search(done)
    assert found in said.found
    assert said.next == "" if not then else then in said.next
    assert "`stormgate " in said.next or not then


def test_tie_is_told_with_both_ways_out(searched: Searched):
    find = Find(key="fleet.policy", want="best", values=("sdk", "ably"))
    trials = (Trial("sdk", GREEN, 40), Trial("ably", GREEN, 40))
    done = replace(searched, find=find, found=Found(trials, "sdk", ties=("ably",)), rows=searched.rows[:1] * 2)
    assert answers.of_search(done).next.startswith(
        "Any of them is as good. To tell them apart, raise find.max_replications (40)"
    )


def test_point_that_differs_by_chance_only_is_told_so(tmp_path: Path):
    swept: Swept = sweeps.sweep(load(tmp_path, 'engine = "fleet"\n' + SWEEP + FLEETS.replace("40", "13")), tmp_path, here)
    said = answers.of_sweep(swept, {"live_again_95_s": "95 % live again (s)"})
    assert "The difference may be chance." in said.found
    assert said.limits.startswith("The hardest point is fleet.clients = ")
