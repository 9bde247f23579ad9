"""Protocols by name: those shipped, and those of installed packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sim.base.errors import UsageError
from sim.protocols import registry

ROOT = Path(__file__).parent.parent.parent
MODULE = """
from dataclasses import replace
from sim.protocols.registry import get

PROTOCOL = replace(get("spacetime"), name="acme")
WRONG = 3
"""
ASK = """
import sys
from sim.base.errors import UsageError
from sim.protocols import registry
try:
    print(registry.get(sys.argv[1]).name, ",".join(registry.names()))
except UsageError as error:
    print(error)
"""


def asked(folder: Path, name: str, value: str, module: str = MODULE) -> str:
    """What another process gets for a protocol, with a distribution installed in `folder` that has this entry point."""
    (folder / "acme_sync.py").write_text(module)
    info = folder / "acme_sync-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sync\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[stormgate.protocols]\nacme = {value}\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{ASK}"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_protocol_of_an_installed_package_is_found_by_its_name(tmp_path: Path) -> None:
    assert asked(tmp_path, "acme", "acme_sync:PROTOCOL") == f"acme {','.join(registry._SHIPPED)},acme"


@pytest.mark.parametrize(
    ("value", "module", "says"),
    [
        ("acme_sync:MISSING", MODULE, "cannot be loaded (AttributeError"),
        ("acme_sync:PROTOCOL", "raise RuntimeError('no license')", "cannot be loaded (RuntimeError: no license)"),
        ("acme_sync:WRONG", MODULE, "is int, but expected a Protocol"),
    ],
)
def test_unusable_protocol_of_a_package_is_one_sentence_that_names_it(
    tmp_path: Path, value: str, module: str, says: str
) -> None:
    told = asked(tmp_path, "acme", value, module)
    assert says in told
    assert told.startswith(f"protocol 'acme': its entry point {value} in acme-sync")
    assert "\n" not in told


def test_a_package_cannot_replace_a_shipped_protocol(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert asked(tmp_path, "spacetime", "acme_sync:WRONG").startswith("spacetime spacetime,phoenix_sync")


@pytest.mark.parametrize("name", registry.names())
def test_each_shipped_protocol_is_what_its_name_says(name: str) -> None:
    assert registry.get(name).name == name


def test_unknown_protocol_names_the_known() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'gopher'; there are: spacetime, phoenix_sync"):
        registry.get("gopher")


def test_no_module_outside_the_protocols_the_mock_and_what_is_for_one_server_names_a_protocol() -> None:
    named, checked = [], 0
    for path in (path for folder in ("sim", "drills", "locustfiles") for path in (ROOT / folder).rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        if not module.startswith(("sim/protocols/", "sim/mock/", "drills/third_party/", "locustfiles/examples/")):
            checked += 1
            named += [f"{module}:{line}" for line in naming(ast.parse(path.read_text()))]
    assert checked > 100
    assert not named


def naming(tree: ast.Module) -> list[int]:
    """Lines that import a protocol's package or hold its name as a text."""
    known = registry.names()
    packages = tuple(f"sim.protocols.{name}" for name in known)
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in known:
            lines.append(node.lineno)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
        if any(name.startswith(packages) for name in names):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "line",
    ["import sim.protocols.spacetime.codec", "from sim.protocols import phoenix_sync", "is_mock = protocol == 'spacetime'"],
)
def test_each_way_to_name_a_protocol_is_seen(line: str) -> None:
    assert naming(ast.parse(line)) == [1]
