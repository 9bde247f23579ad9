"""Look at this machine and at the installed package, one item at a time. Changes nothing, and asks nothing over a network."""

import ctypes
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from drills import CATALOG, DATA
from drills.third_party import installed, recipes
from sim.base.errors import StormgateError

State = Literal["ok", "missing", "advice"]
EXTRAS = {
    "load": "load tests in Locust",
    "notebooks": "the planners' notebooks",
    "cluster": "sweeps on several machines",
    "otel": "traces for an OTLP collector",
}
PACKAGE = "stormgate"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox")
_DATA = (CATALOG / "reconnect_storm.toml", *(DATA / name for name in ("stages.toml", "thresholds.toml", "judging/blame.toml")))
_MIN_DESCRIPTORS, _GOOD_DESCRIPTORS = (
    1024,
    8192,
)  # [ours] a client on the mock needs two, its proxy two more
_MIN_DISK_BYTES, _GOOD_DISK_BYTES = 100e6, 2e9  # [ours] a drill of the catalogue leaves some MB, a rollout some 100 MB
_BUSY = 0.8  # [ours] load per core from which a drill may be blamed on the machine
_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronized
_NAME = re.compile(r"[A-Za-z0-9._-]+")  # of a package, at the beginning of a requirement
_TIMEX_BYTES = 512  # more than any `struct timex`


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item. `missing` ends the command with an error if the item is required; `advice` never does."""

    name: str
    state: State
    found: str
    do: str = ""  # what to do; empty if nothing is to be done
    required: bool = False  # of every drill on the embedded mock

    @property
    def line(self) -> str:
        """The item on one line."""
        return f"{self.name}: {self.state}, {self.found}" + (f". {self.do}" if self.do else "")


def examine(results: Path) -> list[Item]:
    """Examine everything. `results` is the folder that runs are written to; it need not exist."""
    return [
        _python(),
        _package(),
        *_extras(),
        _ports(),
        _descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        _disk(results),
        _clock(_clock_state()),
        _cores(os.getloadavg()[0], os.cpu_count() or 1),
        _browser(),
        *_servers(),
    ]


def is_able(items: list[Item]) -> bool:
    """Whether drills can run."""
    return not any(item.required and item.state == "missing" for item in items)


def _python() -> Item:
    version = ".".join(map(str, sys.version_info[:3]))
    return Item(name="python", state="ok", found=f"{version} in {sys.prefix}", required=True)


def _package() -> Item:
    """The package's data files, and the packages that it needs."""
    lost = [str(path.relative_to(DATA)) for path in _DATA if not path.exists()] + _missing("")
    if lost:
        again = f"Install it again: pip install --force-reinstall {PACKAGE}."
        return Item(name=PACKAGE, state="missing", found=f"{DATA} lacks {', '.join(lost)}", do=again, required=True)
    drills = len(list(CATALOG.glob("*.toml")))
    return Item(name=PACKAGE, state="ok", found=f"{_version(PACKAGE)} in {DATA.parent}, {drills} drills", required=True)


def _extras() -> Iterator[Item]:
    for extra, what in EXTRAS.items():
        if lost := _missing(extra):
            add = f"For {what}: pip install '{PACKAGE}[{extra}]'."
            yield Item(name=f"extra {extra}", state="missing", found=f"without {', '.join(lost)}", do=add)
        else:
            yield Item(name=f"extra {extra}", state="ok", found=f"for {what}")


def _missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed; of the package itself for an empty name."""
    try:
        needed = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return [f"the metadata of {PACKAGE}"]
    lost = []
    for requirement in needed:
        needs, _, marker = requirement.partition(";")
        name = _NAME.match(needs)
        wanted = marker.partition("extra ==")[2].strip().strip("\"'")
        if wanted == extra and name and not _version(name[0]):
            lost.append(name[0])
    return lost


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _ports() -> Item:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            found = f"127.0.0.1 has free ones, such as {server.getsockname()[1]}"
            return Item(name="ports", state="ok", found=found, required=True)
    except OSError as error:
        found = f"no port of 127.0.0.1 can be opened ({error})"
        return Item(name="ports", state="missing", found=found, do="Let this user open ports on 127.0.0.1.", required=True)


def _descriptors(limit: int) -> Item:
    much = limit == resource.RLIM_INFINITY
    found = "no limit" if much else f"at most {limit} open files"
    state: State = "ok" if much or limit >= _GOOD_DESCRIPTORS else "advice" if limit >= _MIN_DESCRIPTORS else "missing"
    do = "" if state == "ok" else f"Raise the hard limit: ulimit -Hn {_GOOD_DESCRIPTORS}; a client needs up to 4."
    return Item(name="descriptors", state=state, found=found, do=do, required=True)


def _disk(results: Path) -> Item:
    """Space where runs are written: in the nearest folder above that exists."""
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        do = "Give another folder with --out, or change its owner."
        return Item(name="disk", state="missing", found=f"{folder} cannot be written to", do=do, required=True)
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= _GOOD_DISK_BYTES else "advice" if free >= _MIN_DISK_BYTES else "missing"
    do = "" if state == "ok" else "Make space, or give a folder on another disk with --out."
    return Item(name="disk", state=state, found=f"{free / 1e9:.1f} GB free in {folder}", do=do, required=True)


def _clock_state() -> int | None:
    """What adjtimex(2) returns; None where the system does not have it."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))  # no mode: it only reads
    return None if state < 0 else state


def _clock(state: int | None) -> Item:
    if state is None:
        return Item(name="clock", state="advice", found="this system does not say whether it is synchronized")
    if state == _TIME_ERROR:
        do = "Run a time service such as chrony. Drills tolerate a wrong clock, rollouts need the right day."
        return Item(name="clock", state="advice", found="it is not synchronized", do=do)
    return Item(name="clock", state="ok", found="synchronized")


def _cores(load: float, cores: int) -> Item:
    found = f"{cores} cores, load {load:.1f}"
    if load > _BUSY * cores:
        do = "Wait until it is less busy: a drill on a busy machine may end as an error that names the machine."
        return Item(name="cores", state="advice", found=found, do=do)
    return Item(name="cores", state="ok", found=found)


def _browser() -> Item:
    if found := next(filter(None, map(shutil.which, _BROWSERS)), None):
        return Item(name="browser", state="ok", found=found)
    do = "Reports are single HTML files: copy them to a machine with a browser."
    return Item(name="browser", state="missing", found=f"none of {', '.join(_BROWSERS)}", do=do)


def _servers() -> Iterator[Item]:
    for recipe in map(recipes.get, recipes.NAMES):
        name = f"server {recipe.name}"
        try:
            installed.require(recipe)
            yield Item(name=name, state="ok", found=f"{recipe.title} {recipe.version} in {installed.FOLDER}")
        except StormgateError:
            do = f"For drills on real servers: {installed.how(recipe)}."
            yield Item(name=name, state="missing", found=f"{recipe.title} is not installed", do=do)
