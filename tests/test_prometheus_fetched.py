"""The script that fetches a Prometheus for the tests: whatever it cannot do gets one sentence."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "peers" / "prometheus.sh"
TOOLS = ("bash", "dirname", "mkdir", "flock", "mktemp", "rm", "cp", "mv", "cat", "id", "chmod")
GOOD = "#!/bin/sh\necho prometheus, version 9\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the script alone, and a PATH with nothing but what every machine has."""
    (tmp_path / "tests" / "peers").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "tests" / "peers")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        os.symlink(str(shutil.which(tool)), tmp_path / "bin" / tool)
    return tmp_path


def program(project: Path, name: str, script: str) -> None:
    path = project / "bin" / name
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def fetched(project: Path) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(project / "tests" / "peers" / "prometheus.sh")]
    path = {"PATH": str(project / "bin")}
    return subprocess.run(command, capture_output=True, text=True, env=path, check=False)


def test_the_one_on_the_path_is_copied(project: Path) -> None:
    program(project, "prometheus", GOOD)
    assert fetched(project).returncode == 0
    assert (project / ".peers" / "prometheus").read_text() == GOOD
    (project / "bin" / "prometheus").unlink()
    assert fetched(project).returncode == 0, "it is there already"
    assert sorted(path.name for path in (project / ".peers").iterdir()) == ["lock", "prometheus"]


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, "there is no apt-get to fetch it with"),
        ({"prometheus": "#!/bin/sh\nexit 1\n"}, "the one that was found does not run here"),
        ({"apt-get": "#!/bin/sh\necho no network >&2\nexit 100\n", "dpkg-deb": GOOD}, "apt-get could not fetch it"),
    ],
)
def test_what_it_cannot_do_gets_one_sentence(project: Path, programs: dict[str, str], words: str) -> None:
    for name, script in programs.items():
        program(project, name, script)
    said = fetched(project)
    assert said.returncode == 1
    *_, sentence = said.stderr.splitlines()
    assert sentence.startswith("The tests need Prometheus, ")
    assert sentence.endswith("; install it so that 'prometheus' is on the PATH.")
    assert words in sentence
    assert sorted(path.name for path in (project / ".peers").iterdir()) == ["lock"]
