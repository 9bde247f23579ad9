"""Load tests of third-party servers: they find what drills on sockets find, with the locustfiles that we give as examples."""

from pathlib import Path

import pytest

from drills.third_party import findings
from drills.third_party.running import running
from tests.locust_runs.loads import DRILL, Load, drill_of
from tests.third_party.test_findings import complaints

EXAMPLES = "locustfiles/examples"


def found(server: str, variant: str) -> findings.Finding:
    return next(row for row in findings.of(server) if row.drill == DRILL and row.variant == variant)


@pytest.mark.parametrize(("variant", "codes"), [("sane", (0, 2)), ("slow_middleware", (1,))])
def test_load_test_of_a_server_whose_joins_resume_finds_what_the_table_says(
    tmp_path: Path, variant: str, codes: tuple[int, ...]
):
    row = found("socketio", variant)
    with running("socketio", variant, log=tmp_path / "server.log") as up:
        target = (f"--target={up.name}", f"--targets={up.targets_file}")
        load = Load(tmp_path / "out", DRILL, *target, settings=row.overrides())
        assert load.end() in codes, load.output
    assert complaints(row, drill_of(load.verdict)) == []


@pytest.mark.parametrize("server", ["centrifugo", "nats"])
def test_example_finds_a_sane_server_sane(tmp_path: Path, server: str):
    row = found(server, "sane")
    with running(server, log=tmp_path / "server.log") as up:
        there = f"--targets={up.targets_file}"
        load = Load(*(tmp_path / "out", server, there), settings=row.overrides(), environment=up.environment, folder=EXAMPLES)
        assert load.end() in (0, 2), load.output
    assert complaints(row, drill_of(load.verdict)) == []
    assert drill_of(load.verdict).clients == 40
