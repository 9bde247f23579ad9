"""stormgate as others install it: from a wheel that was built from the source archive, far from the checkout."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.commands import LIMIT_S, Said

ROOT = Path(__file__).parents[2]
_PARTS = ("sim", "drills", "locustfiles", "docs", "pyproject.toml", "README.md", "Makefile", "LICENSE")
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR")  # neither PYTHONPATH nor VIRTUAL_ENV


@dataclass(frozen=True)
class Installed:
    """A wheel and its environment."""

    wheel: Path
    prefix: Path

    @property
    def stormgate(self) -> Path:
        return self.prefix / "bin" / "stormgate"

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages are installed."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.prefix)}))

    def environment(self, **more: str) -> dict[str, str]:
        """Variables for its commands, with its programs first on the path."""
        own = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return {**own, "PATH": f"{self.prefix / 'bin'}:{own['PATH']}", **more}

    def run(self, *command: object, cwd: Path, limit_s: float = LIMIT_S, **more: str) -> Said:
        """Run a command to its end in another folder."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def installed(folder: Path) -> Installed:
    """Build and install the wheel; made once, by whichever process comes first."""
    made, lock = folder / "made", folder / "lock"
    folder.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not made.exists():
            _make(folder)
            made.touch()
    (wheel,) = (folder / "wheels").glob("*.whl")
    return Installed(wheel, folder / "environment")


def copied_checkout(folder: Path) -> Path:
    """A copy of what packages are built from, so that nothing is written into the checkout."""
    for part in _PARTS:
        source, copy = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    return folder


def _make(folder: Path) -> None:
    checkout = copied_checkout(folder / "checkout")
    sdist = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "sdist", "--dist-dir", str(folder)]
    subprocess.run(sdist, cwd=checkout, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    _pip("wheel", "--no-deps", "--wheel-dir", folder / "wheels", source)
    shutil.rmtree(checkout)
    (wheel,) = (folder / "wheels").glob("*.whl")
    prefix = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    _pip("--python", prefix / "bin" / "python", "install", "--no-deps", "--no-compile", wheel)
    # What stormgate needs is that of the tests' own environment: its editable stormgate is not found in this way.
    packages = Installed(wheel, prefix).packages
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
