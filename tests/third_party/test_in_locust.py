"""Load tests of a third-party server whose joins resume: they find what drills on sockets find."""

from pathlib import Path

import pytest

from drills.third_party import findings
from drills.third_party.running import running
from tests.locust_runs.loads import DRILL, Load, drill_of
from tests.third_party.test_findings import complaints

SERVER = "socketio"
ROWS = [row for row in findings.of(SERVER) if row.drill == DRILL]


@pytest.mark.parametrize(("variant", "codes"), [("sane", (0, 2)), ("slow_middleware", (1,))])
def test_load_test_of_a_server_whose_joins_resume_finds_what_the_table_says(
    tmp_path: Path, variant: str, codes: tuple[int, ...]
):
    found = next(row for row in ROWS if row.variant == variant)
    with running(SERVER, variant, log=tmp_path / "server.log") as up:
        target = (f"--target={up.name}", f"--targets={up.targets_file}")
        load = Load(tmp_path / "out", DRILL, *target, settings=found.overrides())
        assert load.end() in codes, load.output
    assert complaints(found, drill_of(load.verdict)) == []
