"""The packages: every import, lazy ones included, points to a package above; folders, files and functions stay small."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("sim", "drills", "locustfiles", "notebooks")
# From the top down: a module imports only packages in rows above its own, and its own package. The longest prefix counts.
ROWS: tuple[tuple[str, ...], ...] = (
    ("sim.base",),
    ("sim.protocols",),
    ("sim.service",),
    ("sim.record",),
    ("sim.machine",),
    ("sim.server",),
    ("sim.client",),
    ("sim.client.negative",),
    ("sim.drill",),
    ("sim.mock",),
    ("sim.engines.transports",),
    ("sim.engines.shared",),
    ("sim.engines.fleet.kernel",),
    ("sim.engines.sockets", "sim.engines.virtual", "sim.engines.fleet", "sim.engines.greenlets"),
    ("sim.analysis",),
    ("sim.analysis.invariants",),
    ("sim.plots",),
    ("sim.planning",),
    ("sim.calibration",),
    ("drills",),
    ("drills.judging.checks",),
    ("drills.judging",),
    ("drills.reports",),
    ("drills.runs",),
    ("drills.exports",),
    ("drills.targets",),
    ("drills.third_party",),
    ("drills.doctor",),
    ("drills.planning",),
    ("drills.rollout.setup",),
    ("drills.rollout.servers",),
    ("drills.rollout.preflight",),
    ("drills.rollout.verdict.window_data",),
    ("drills.rollout.verdict.window_checks",),
    ("drills.rollout.verdict",),
    ("drills.rollout.rollback",),
    ("drills.rollout.report",),
    ("drills.rollout.hold",),
    ("drills.rollout.check",),
    ("drills.comparison",),
    ("drills.cli",),
    ("drills.__main__",),
    ("locustfiles.load.clients",),
    ("locustfiles.load.workers",),
    ("locustfiles.load.run",),
    ("locustfiles.load.web",),
    ("locustfiles.load",),
    ("locustfiles",),
    ("notebooks",),
)
MAX_MODULES = 14  # of a folder, `__init__.py` included
PURE = ("sim.protocols", "sim.service", "sim.server", "sim.client")
# Of `sim/engines/shared` what never waits, so that every driver can use it.
WAITING = {"aiohttp", "asyncio", "gevent", "httpx", "simpy", "uvloop", "socket", "subprocess", "threading"}
MAY_WAIT = ("sim.engines.shared.fetch",)
# What load tests need of the operators' side: a run's folder and its verdict.
FOR_LOCUST = (
    *("sim.engines.shared", "sim.engines.greenlets", "drills.judging", "drills.reports.report"),
    *(f"drills.runs.{name}" for name in ("catalog", "results", "targets")),
)
RUNNING = ("sim.mock", "sim.engines")  # packages that judging and drawing must do without
JUDGING = ("sim.analysis", "sim.plots")
IMPURE = {
    *("asyncio", "http", "httpx", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("urllib.request", "uuid", "uvloop", "websockets"),
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 50


def modules(root: Path) -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    return _named(root, CODE)


def _named(root: Path, folders: tuple[str, ...]) -> dict[str, Path]:
    paths = [path for folder in folders for path in (root / folder).rglob("*.py") if "node_modules" not in path.parts]
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


def package_of(name: str) -> str | None:
    """The package of `ROWS` that a module belongs to: the longest prefix."""
    found = [prefix for row in ROWS for prefix in row if is_in(name, (prefix,))]
    return max(found, key=len, default=None)


def row_of(package: str) -> int:
    return next(number for number, row in enumerate(ROWS) if package in row)


def complaint(importer: str, imported: str) -> str:
    """What is wrong with one import; empty for nothing."""
    if imported.partition(".")[0] == "tests":
        return "nothing imports tests"
    if is_in(importer, PURE) and is_in(imported, tuple(IMPURE)):
        return "protocols, server and client are pure"
    if imported.partition(".")[0] not in CODE or imported in (*CODE, "drills.rollout", "sim.engines"):
        return ""
    if is_in(importer, JUDGING) and is_in(imported, RUNNING):
        return "judging imports no engine"
    if is_in(importer, ("notebooks",)) and is_in(imported, ("sim.engines",)):
        return "notebooks use no engine"
    if is_in(importer, ("locustfiles",)) and is_in(imported, ("sim.engines", "drills")) and not is_in(imported, FOR_LOCUST):
        return "Locust uses no other engine, and of drills only what judges"
    here, there = package_of(importer), package_of(imported)
    if here is None or there is None:
        return "it belongs to no package"
    return "" if here == there or row_of(there) < row_of(here) else "it points upwards, or sideways"


def wrong_imports(root: Path) -> list[str]:
    found = modules(root)
    return [
        f"{importer} imports {imported}: {why}"
        for importer, path in found.items()
        for imported in sorted(set(imports(importer, path, set(found))))
        if (why := complaint(importer, imported))
    ]


def too_long(root: Path) -> list[str]:
    """Files and functions of product and tests that are too long."""
    out = []
    for name, path in _named(root, (*CODE, "tests")).items():
        text = path.read_text()
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            out.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                out += [f"{name}.{node.name} has {lines} lines"] if lines > MAX_FUNCTION_LINES else []
    return out


def test_every_import_points_to_a_package_above():
    assert len(modules(ROOT)) > 40
    assert wrong_imports(ROOT) == []


def test_shared_engine_code_never_waits():
    found = modules(ROOT)
    for name in found:
        if is_in(name, ("sim.engines.shared",)) and name not in MAY_WAIT:
            imported = {module.partition(".")[0] for module in imports(name, found[name], set(found))}
            assert imported & WAITING == set(), name


def test_every_module_belongs_to_a_package():
    roots = {*CODE, "drills.rollout", "sim.engines"}
    assert [name for name in modules(ROOT) if name not in roots and package_of(name) is None] == []


def test_every_package_says_what_it_is_for():
    packages = [path for path in modules(ROOT).values() if path.name == "__init__.py"]
    assert [str(path.relative_to(ROOT)) for path in packages if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_folder_is_a_heap():
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in modules(ROOT).values())
    assert [folder for folder, count in folders.items() if count > MAX_MODULES] == []


def test_pure_code_reads_no_clock():
    clock = re.compile(r"\b(datetime|date)\.(now|utcnow|today)\b")
    assert [name for name, path in modules(ROOT).items() if is_in(name, PURE) and clock.search(path.read_text())] == []


def test_nothing_is_too_long():
    assert too_long(ROOT) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("sim/client/session.py", "import time", "pure"),
        ("sim/server/runtime.py", "from asyncio import sleep", "pure"),
        ("sim/protocols/spacetime/codec.py", "def late():\n    import random", "pure"),
        ("sim/client/session.py", "from sim.drill import model", "upwards"),
        ("sim/base/config.py", "from ..client import session", "upwards"),
        ("sim/mock/app.py", "import sim.engines.sockets.engine", "upwards"),
        ("sim/engines/virtual/engine.py", "from sim.engines.sockets import engine", "sideways"),
        ("sim/engines/virtual/client.py", "from sim.engines import sockets", "sideways"),
        ("sim/engines/sockets/engine.py", "from drills.judging import gates", "upwards"),
        ("sim/analysis/invariants/log.py", "from sim.engines.sockets.engine import run", "no engine"),
        ("sim/analysis/metrics.py", "from sim.analysis.invariants import registry", "upwards"),
        ("sim/analysis/metrics.py", "def f():\n    import sim.mock.app", "no engine"),
        ("sim/analysis/metrics.py", "import importlib\nimportlib.import_module('sim.mock.app')", "no engine"),
        ("drills/cli/main.py", "from tests import histories", "imports tests"),
        ("drills/cli/main.py", "import locustfiles.load.users", "upwards"),
        ("drills/cli/main.py", "from sim.utils import everything", "no package"),
        ("drills/judging/gates.py", "from drills.cli import main", "upwards"),
        ("locustfiles/load/user.py", "from sim.engines.sockets import engine", "no other engine"),
        ("locustfiles/load/user.py", "from drills.cli import main", "only what judges"),
        ("notebooks/sweep.py", "from sim.engines.shared import client_setup", "no engine"),
        ("sim/utils.py", "from sim.base import errors", "no package"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, source: str, why: str):
    for name in (
        *("sim/mock/app.py", "sim/engines/sockets/engine.py", "sim/engines/sockets/__init__.py", "sim/drill/model.py"),
        *("sim/client/session.py", "sim/engines/virtual/engine.py", "sim/engines/shared/client_setup.py", "sim/base/errors.py"),
        *("sim/analysis/metrics.py", "drills/judging/gates.py", "drills/cli/main.py", "sim/client/__init__.py"),
    ):
        tree(tmp_path, name, "")
    tree(tmp_path, module, source)
    (wrong,) = wrong_imports(tmp_path)
    assert why in wrong


def test_right_imports_are_accepted(tmp_path: Path):
    tree(tmp_path, "sim/server/runtime.py", "import math")
    tree(tmp_path, "sim/client/session.py", "import sim.base.errors\nfrom sim.server import runtime\nfrom . import session")
    tree(tmp_path, "sim/engines/sockets/socket.py", "import asyncio\nfrom sim.mock.process import MockProcess")
    tree(tmp_path, "drills/runs/results.py", "")
    tree(tmp_path, "sim/analysis/metrics.py", "from sim.analysis.samples import Share\nfrom sim.record import observations")
    tree(tmp_path, "drills/cli/main.py", "def run():\n    from sim.engines.sockets import engine")
    tree(tmp_path, "locustfiles/load/user.py", "from drills.runs import results\nfrom sim.engines.shared import service")
    assert wrong_imports(tmp_path) == []


def test_a_long_function_and_a_long_file_are_found(tmp_path: Path):
    body = "    x = 1\n"
    tree(tmp_path, "sim/a.py", "def short():\n" + body * (MAX_FUNCTION_LINES - 1))
    tree(tmp_path, "sim/b.py", "def long():\n" + body * MAX_FUNCTION_LINES)
    tree(tmp_path, "sim/c.py", "x = 1\n" * (MAX_FILE_LINES + 1))
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
            r"\.\./sha" + r"red|(?<![\w/])sha" + r"red/",
            r"pypi\.o" + r"rg|files\.pythonho" + r"sted|index-u" + r"rl|registry\.npm" + r"js",
        )
    )
)


def project_files() -> list[Path]:
    """Every text of the project, not what was made from it."""
    below = [path for folder in (*CODE, "tests", "docs", ".ci") for path in (ROOT / folder).rglob("*")]
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


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by their name alone, and refuses the second of two."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
