"""A log that is deleted and created again: what clients cannot notice is named, and nothing else is."""

from pathlib import Path

import pytest

from sim.protocols import registry
from sim.protocols.adapter import Positions
from tests.mutation_table import turned_red
from tests.protocol_findings import FOUND, OVERRIDES, SIMULATED, overrides
from tests.storms import OF_SIZE, OF_TIME, small, storm

# Opaque positions show a new log only where a new client can read what is retained.
COMPARABLE = [name for name in SIMULATED if registry.get(name).capabilities.positions is not Positions.OPAQUE]
DRILL, WITH_EPOCHS = "log_recreated", "epoch_changed"


def found(out: Path, protocol: str, engine: str, drill: str = DRILL) -> frozenset[str]:
    more = overrides(protocol, drill) if protocol in OVERRIDES else ()
    verdict = storm(out, small(drill, *more), engine=engine, protocol=protocol)
    return turned_red(verdict) - {*OF_TIME, *OF_SIZE}


@pytest.mark.parametrize("protocol", COMPARABLE)
def test_a_log_created_again_is_named_in_simulation(tmp_path: Path, protocol: str):
    assert found(tmp_path, protocol, "virtual") == FOUND.get(protocol, {}).get(DRILL, frozenset())


@pytest.mark.parametrize("protocol", [name for name in SIMULATED if registry.get(name).capabilities.has_epochs])
def test_where_positions_have_epochs_every_client_starts_again(tmp_path: Path, protocol: str):
    assert found(tmp_path, protocol, "virtual", WITH_EPOCHS) == frozenset()


def test_a_log_created_again_is_named_on_real_sockets(tmp_path: Path):
    assert found(tmp_path, registry.DEFAULT, "sockets") == FOUND[registry.DEFAULT][DRILL]
