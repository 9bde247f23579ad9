"""The arrows between rooms: every import is parsed, lazy ones included, and may point only from a lower room to an upper."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("sim", "drills", "locustfiles", "notebooks")
# From the top down; of several prefixes that fit a module the longest counts.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("sim.errors",),
    (
        *("sim.columns", "sim.config", "sim.contract", "sim.files", "sim.forecasts", "sim.garbage", "sim.ownership"),
        *("sim.pool", "sim.tally"),
    ),
    ("sim.fault_kinds",),
    ("sim.drill", "sim.observations", "sim.target"),
    ("sim.faults", "sim.system_model"),
    ("sim.mock",),
    ("sim.engines",),
    (
        *("sim.history", "sim.ledger", "sim.reconnects", "sim.samples", "sim.invariants", "sim.jumbled"),
        *("sim.metrics", "sim.parity", "sim.server_figures", "sim.statistics"),
    ),
    ("sim.plots", "sim.plots_planning", "sim.plots_style", "sim.plots_sweeps"),
    ("sim.planning", "sim.calibration"),
    ("drills",),
    ("locustfiles",),
    ("notebooks",),
)
ENGINE = re.compile(r"sim\.engines\.(virtual|fleet|sockets)(_\w+)?")  # and the modules that are one engine's own
# Of the engines' room what waits for nothing, so that whoever waits in another way can use it, too.
NEUTRAL = tuple(
    f"sim.engines.{name}"
    for name in (
        *("certificates", "course", "lane", "metrics_book", "pacer", "permission", "publishing", "redaction"),
        *("session_driver", "stops", "web_socket"),
    )
)
WAITING = {"aiohttp", "asyncio", "httpx", "simpy", "uvloop", "socket", "subprocess", "threading"}
# What load tests need of the operators' side: a run's folder and its verdict.
FOR_LOCUST = (
    *NEUTRAL,
    *(f"drills.{name}" for name in ("gates", "leftovers", "report", "results", "targets", "thresholds", "verdicts")),
)
RUNNING = ("sim.mock", "sim.engines")  # rooms that judging and drawing must do without
JUDGING = (*ROOMS[7], *ROOMS[8])
IMPURE = {
    *("asyncio", "http", "httpx", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("urllib.request", "uuid", "uvloop", "websockets"),
}
MOST_FILE_LINES, MOST_FUNCTION_LINES = 500, 50


def modules(root: Path) -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    paths = [path for room in CODE for path in (root / room).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """The dotted names a module imports anywhere in it; of ours, down to the module and no further."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            members = [f"{start}.{alias.name}" for alias in node.names]
            yield from (member if member in known else start for member in members)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield ast.literal_eval(node.args[0])


def is_in(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def room_of(name: str) -> int | None:
    """The row of `ROOMS` a module belongs to."""
    found = [number for number, prefixes in enumerate(ROOMS) if is_in(name, prefixes)]
    return found[0] if found else None


def prefix_of(name: str) -> str:
    return next(prefix for prefixes in ROOMS for prefix in prefixes if is_in(name, (prefix,)))


def complaint(importer: str, imported: str) -> str:
    """What is wrong with one import; empty for nothing."""
    if imported.partition(".")[0] == "tests":
        return "nothing imports tests"
    if is_in(importer, ("sim.contract",)) and is_in(imported, tuple(IMPURE)):
        return "the contract is pure"
    one, other = ENGINE.fullmatch(importer), ENGINE.fullmatch(imported)
    if one and other and one[1] != other[1]:
        return "engines do not know each other"
    if is_in(importer, JUDGING) and is_in(imported, RUNNING):
        return "judging does without what ran"
    if is_in(importer, ("notebooks",)) and is_in(imported, ("sim.engines",)):
        return "notebooks use no engine"
    if (
        is_in(importer, ("locustfiles",))
        and is_in(imported, ("sim.engines", "drills"))
        and imported not in ("drills", *FOR_LOCUST)
    ):
        return "Locust uses no engine, and of drills only what judges"
    above, below = room_of(imported), room_of(importer)
    if imported.partition(".")[0] not in CODE or imported in CODE:
        return ""
    if above is None or below is None:
        return "it belongs to no room"
    same_room = prefix_of(importer) == prefix_of(imported)
    # Judging modules are one family, whose own order only forbids circles, which Python does by itself.
    family = above == below and is_in(importer, JUDGING)
    return "" if same_room or family or above < below else "it points upwards, or sideways"


def wrong_imports(root: Path) -> list[str]:
    found = modules(root)
    return [
        f"{importer} imports {imported}: {why}"
        for importer, path in found.items()
        for imported in sorted(set(imports(importer, path, set(found))))
        if (why := complaint(importer, imported))
    ]


def too_long(root: Path) -> list[str]:
    """Files and functions that are longer than they may be."""
    out = []
    for name, path in modules(root).items():
        text = path.read_text()
        if (lines := len(text.splitlines())) > MOST_FILE_LINES:
            out.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                out += [f"{name}.{node.name} has {lines} lines"] if lines > MOST_FUNCTION_LINES else []
    return out


def test_every_arrow_points_down():
    assert len(modules(ROOT)) > 40
    assert wrong_imports(ROOT) == []


def test_what_waits_for_nothing_imports_nothing_that_waits():
    found = modules(ROOT)
    for name in NEUTRAL:
        imported = set(imports(name, found[name], set(found)))
        assert {module.partition(".")[0] for module in imported} & WAITING == set(), name
        assert {module for module in imported if is_in(module, ("sim.engines",))} <= set(NEUTRAL), name


def test_every_module_has_a_room():
    homeless = [name for name in modules(ROOT) if name not in CODE and room_of(name) is None]
    assert homeless == []


def test_the_contract_asks_no_clock():
    clock = re.compile(r"\b(datetime|date)\.(now|utcnow|today)\b")
    assert [
        name for name, path in modules(ROOT).items() if is_in(name, ("sim.contract",)) and clock.search(path.read_text())
    ] == []


def test_nothing_is_too_long():
    assert too_long(ROOT) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("sim/contract/client.py", "import time", "pure"),
        ("sim/contract/client.py", "from asyncio import sleep", "pure"),
        ("sim/contract/client.py", "def late():\n    import random", "pure"),
        ("sim/contract/client.py", "from sim import observations", "upwards"),
        ("sim/contract/client.py", "from sim.config import read_toml", "sideways"),
        ("sim/config.py", "from .contract import client", "sideways"),
        ("sim/drill.py", "from sim.observations import Kind", "sideways"),
        ("sim/drill.py", "def lazy():\n    from sim import faults", "upwards"),
        ("sim/mock/app.py", "import sim.engines.sockets", "upwards"),
        ("sim/engines/virtual.py", "from sim.engines import sockets", "each other"),
        ("sim/engines/virtual.py", "from . import sockets", "each other"),
        ("sim/engines/virtual_client.py", "from sim.engines import sockets", "each other"),
        ("sim/engines/sockets.py", "from drills import gates", "upwards"),
        ("sim/invariants.py", "from sim.engines.sockets import run", "does without"),
        ("sim/metrics.py", "def f():\n    import sim.mock.app", "does without"),
        ("sim/invariants.py", "import importlib\nimportlib.import_module('sim.mock.app')", "does without"),
        ("sim/metrics.py", "from sim import plots", "upwards"),
        ("drills/cli.py", "from tests import histories", "imports tests"),
        ("drills/cli.py", "import locustfiles.shapes", "upwards"),
        ("drills/cli.py", "from sim.utils import everything", "no room"),
        ("locustfiles/user.py", "from sim.engines import sockets", "no engine"),
        ("locustfiles/user.py", "from drills import cli", "only what judges"),
        ("notebooks/sweep.py", "from sim.engines import course", "no engine"),
        ("sim/utils.py", "from sim import errors", "no room"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, module: str, source: str, why: str):
    every = ("sim/mock/app.py", "sim/engines/sockets.py", "sim/engines/virtual.py", "sim/observations.py", "sim/faults.py")
    for name in (
        *every,
        "sim/errors.py",
        "sim/config.py",
        "sim/drill.py",
        "sim/plots.py",
        "sim/contract/client.py",
        "drills/gates.py",
        "drills/cli.py",
        "sim/engines/course.py",
    ):
        tree(tmp_path, name, "")
    tree(tmp_path, module, source)
    (wrong,) = wrong_imports(tmp_path)
    assert why in wrong


def test_right_arrows_are_let_through(tmp_path: Path):
    tree(tmp_path, "sim/contract/frames.py", "import math")
    tree(tmp_path, "sim/contract/client.py", "import sim.errors\nfrom sim.contract import frames\nfrom . import frames as f")
    tree(tmp_path, "sim/engines/socket.py", "import asyncio\nfrom sim.mock.process import MockProcess")
    tree(tmp_path, "sim/engines/sockets.py", "from sim.engines import socket\nfrom sim import faults")
    tree(tmp_path, "sim/metrics.py", "from sim.samples import Share\nfrom sim.observations import Kind")
    tree(tmp_path, "drills/cli.py", "def run():\n    from sim.engines import sockets")
    tree(tmp_path, "drills/results.py", "from drills import cli")
    tree(tmp_path, "sim/engines/lane.py", "import time")
    tree(tmp_path, "locustfiles/user.py", "from drills import results\nfrom sim.engines import lane")
    assert wrong_imports(tmp_path) == []


def test_a_long_function_and_a_long_file_are_found(tmp_path: Path):
    body = "    x = 1\n"
    tree(tmp_path, "sim/a.py", "def short():\n" + body * (MOST_FUNCTION_LINES - 1))
    tree(tmp_path, "sim/b.py", "def long():\n" + body * MOST_FUNCTION_LINES)
    tree(tmp_path, "sim/c.py", "x = 1\n" * (MOST_FILE_LINES + 1))
    assert sorted(too_long(tmp_path)) == ["sim.b.long has 51 lines", "sim.c has 501 lines"]


def tree(root: Path, name: str, source: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))


# Written in two halves, so that this file does not find itself.
ELSEWHERE = re.compile(
    "|".join(
        (
            r"(?<![\w.])/wo" + r"rk/",
            r"(?<![\w.])/ro" + r"ot/",
            r"\.\./sha" + r"red|\bsha" + r"red/",
            r"pypi\.o" + r"rg|files\.pythonho" + r"sted|index-u" + r"rl|registry\.npm" + r"js",
        )
    )
)


def project_files() -> list[Path]:
    """Every text of the project, not what was made from it."""
    below = [path for folder in (*CODE, "tests", ".ci") for path in (ROOT / folder).rglob("*")]
    unreadable = (".pyc", ".png", ".parquet", ".sqlite")
    others = {"node_modules", ".git"}  # what npm installed; a work tree's pointer to its repository
    ours = [path for path in (*ROOT.iterdir(), *below) if others.isdisjoint(path.parts)]
    return [path for path in ours if path.is_file() and path.suffix not in unreadable]


def test_the_project_stands_alone():
    """No file names a place outside the project: not where it was written, nor a package index."""
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"] if ELSEWHERE.search(line) else []
    assert found == []


@pytest.mark.parametrize(
    "line", ["see /wo" + "rk/main", "cd /ro" + "ot/x", "../sha" + "red/design.md", "https://pypi.o" + "rg/simple"]
)
def test_a_place_elsewhere_is_found(line: str):
    assert ELSEWHERE.search(line)
