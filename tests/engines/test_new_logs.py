"""A log that is deleted and created again: what clients cannot notice is named, and nothing else is."""

from pathlib import Path

import pytest

from sim.protocols import registry
from tests.mutation_table import turned_red
from tests.protocol_findings import FOUND, PROTOCOLS, overrides
from tests.storms import OF_SIZE, OF_TIME, small, storm

DRILL = "log_recreated"


def found(out: Path, protocol: str, engine: str) -> frozenset[str]:
    more = () if protocol == registry.DEFAULT else overrides(protocol, DRILL)
    verdict = storm(out, small(DRILL, *more), engine=engine, protocol=protocol)
    return turned_red(verdict) - {*OF_TIME, *OF_SIZE}


@pytest.mark.parametrize("protocol", [registry.DEFAULT, *PROTOCOLS])
def test_a_log_created_again_is_named_in_simulation(tmp_path: Path, protocol: str):
    assert found(tmp_path, protocol, "virtual") == FOUND[protocol][DRILL]


def test_a_log_created_again_is_named_on_real_sockets(tmp_path: Path):
    assert found(tmp_path, registry.DEFAULT, "sockets") == FOUND[registry.DEFAULT][DRILL]
