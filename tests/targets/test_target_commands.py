"""`stormgate target new` and `target list`: what they write, and what they refuse."""

from pathlib import Path

import pytest

from drills.runs import targets
from sim.base.errors import UsageError
from sim.protocols import registry
from tests.commands import stormgate_here

USAGE = 3


@pytest.mark.parametrize("protocol", registry.names())
def test_new_target_is_annotated_and_valid(tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "targets.toml"
    assert stormgate_here("target", "new", "eu-west", "--protocol", protocol, "--targets", path).code == 0
    assert "stormgate target check eu-west" in path.read_text()
    names = ("RUNTIME_BASE_URL", "STORMGATE_SESSION", "RUNTIME_ADMIN_TOKEN")
    found = targets.read(path, "eu-west", dict.fromkeys(names, "https://runtime.example.com"))
    assert (found.entry.protocol, found.entry.kind) == (protocol, "staging")
    assert stormgate_here("target", "new", "us-east", "--targets", path).code == 0
    listed = stormgate_here("target", "list", "--targets", path).out
    assert all(word in listed for word in ("eu-west", "us-east", protocol, "$RUNTIME_BASE_URL"))


def test_option_that_the_protocol_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    assert stormgate_here("target", "new", "chat", "--protocol", "socketio", "--targets", path).code == 0
    path.write_text(path.read_text() + '\n[targets.chat.protocol_options]\nroom = "a"\n')
    names = ("RUNTIME_BASE_URL", "STORMGATE_SESSION", "RUNTIME_ADMIN_TOKEN")
    with pytest.raises(UsageError, match=r"targets\.chat\]: protocol_options: .*'room'"):
        targets.read(path, "chat", dict.fromkeys(names, "https://runtime.example.com"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("staging", (), "there is a target 'staging' already"),
        ("other", ("--protocol", "gopher"), "unknown protocol 'gopher'; there are: "),
        ("no name", (), "a target's name"),
    ],
)
def test_impossible_new_target_is_refused(tmp_path: Path, name: str, options: tuple[str, ...], words: str) -> None:
    path = tmp_path / "targets.toml"
    assert stormgate_here("target", "new", "staging", "--targets", path).code == 0
    before = path.read_text()
    said = stormgate_here("target", "new", name, "--targets", path, *options)
    assert (said.code, words in said.sentence, path.read_text()) == (USAGE, True, before), said
