"""File descriptors or local ports run out on our own machine: the run ends as an error of the tool, and nobody is blamed."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.runs import results
from sim.base.errors import ShortageError, shortage
from sim.base.exit_codes import ExitCode
from sim.engines.sockets import engine
from sim.mock.process import MockProcess
from sim.record.run_header import read_header
from tests.storms import small


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EMFILE, "raise `ulimit -n`"), (errno.ENFILE, "raise `ulimit -n`"), (errno.EADDRNOTAVAIL, "no local port is left")],
)
def test_a_shortage_of_ours_says_what_to_do(number: int, remedy: str):
    ours = shortage(OSError(number, os.strerror(number)))
    assert ours is not None
    assert remedy in str(ours)
    assert ours.exit_code is ExitCode.TOOL


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, None])
def test_what_the_other_side_or_the_network_does_is_no_shortage_of_ours(number: int | None):
    assert shortage(OSError(number, "why") if number else OSError("why")) is None


@pytest.fixture
def descriptors() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_generator_without_descriptors_ends_the_run(
    tmp_path: Path, descriptors: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sim.engines.sockets.http.shortage", lambda error: None)  # only the clients notice
    drill = small("reconnect_storm", "phases.fault_s=2.5")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    folder = results.create_drill_folder(run_dir, drill)

    def shrink(phase: str, text: str) -> None:
        if phase == "fault":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, descriptors[1]))
        if phase == "recovery":
            resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)

    with pytest.raises(ShortageError, match="no file descriptor is left; raise `ulimit -n`"):
        engine.run(drill, engine.Options(folder, progress=shrink, run_id=run_dir.name))
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    assert not read_header(folder).complete


def test_an_embedded_mock_without_descriptors_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = MockProcess._command
    limited = ["sh", "-c", 'ulimit -n 60; exec "$0" "$@"']
    monkeypatch.setattr(MockProcess, "_command", lambda mock: [*limited, *command(mock)])
    drill = small("reconnect_storm", "phases.steady_limit_s=2", "phases.settle_s=1")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    folder = results.create_drill_folder(run_dir, drill)
    with pytest.raises(ShortageError, match=r"the embedded mock: no file descriptor was left.*`ulimit -n`"):
        engine.run(drill, engine.Options(folder, run_id=run_dir.name))
    assert not read_header(folder).complete
