"""The wheel, which is built from the source archive, has all that stormgate needs: it works far from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import sets
from tests.packaging.wheel import ROOT, Installed

DOCUMENTS = "/share/doc/stormgate/"
SHORT = ("phases.steady_s=1", "phases.fault_s=2", "faults.1.at_s=1.5", "phases.recovery_s=0.5", "phases.settle_s=5")
# What only some commands need. Each would slow every command down, and most need an extra that may be missing.
HEAVY = (
    *("numba", "llvmlite", "matplotlib", "pandas", "pyarrow", "scipy", "simpy", "holidays", "uvicorn", "starlette", "aiohttp"),
    *("locust", "gevent", "distributed", "ddsketch", "IPython", "jinja2", "rich"),
)


def tracked(*folders: str) -> set[str]:
    """The files of these folders that a clone has."""
    done = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Installed) -> None:
    names = set(zipfile.ZipFile(wheel.wheel).namelist())
    wanted = tracked("sim", "drills", "locustfiles")
    assert len(wanted) > 300
    assert wanted - names == set()


def test_every_document_is_in_the_wheel(wheel: Installed) -> None:
    names = zipfile.ZipFile(wheel.wheel).namelist()
    documents = {name.partition(DOCUMENTS)[2] for name in names if DOCUMENTS in name}
    wanted = {name for name in tracked("README.md", "docs") if name.endswith(".md")}
    assert len(wanted) > 40
    assert documents == {*wanted, "Makefile"}


def test_the_installed_package_is_the_one_that_runs(wheel: Installed, tmp_path: Path) -> None:
    found = wheel.run(wheel.python, "-c", "import sim, drills, locustfiles; print(drills.__file__)", cwd=tmp_path)
    assert found.out.strip() == str(wheel.packages / "drills" / "__init__.py")
    assert wheel.run(wheel.stormgate, "--version", cwd=tmp_path).out.startswith("stormgate ")


def test_a_drill_runs_and_is_explained_elsewhere(wheel: Installed, tmp_path: Path) -> None:
    (tmp_path / "platform.py").write_text("raise ImportError('an operator's own, and not that of the standard library')\n")
    storm = ("drill", "run", "reconnect_storm", "--clients", "20", *sets(*SHORT))
    done = wheel.run(wheel.stormgate, *storm, cwd=tmp_path)
    assert "Traceback" not in done.err
    assert done.code in (0, 1, 2), "the number of clients is small, and the machine may be busy"
    assert "evidence: results/" in done.out
    (summary,) = (tmp_path / "results").glob("*/SUMMARY.md")
    assert "reconnect_storm" in summary.read_text()
    bad = ("drill", "run", "dropped_delivery", "--engine", "virtual", "--defect", "skip_delivery")
    done = wheel.run(wheel.stormgate, *bad, cwd=tmp_path, limit_s=300.0)  # it compiles its kernels first
    assert done.code == 1, done
    (run,) = (tmp_path / "results").glob("*-dropped_delivery-*")
    explained = wheel.run(wheel.stormgate, "drill", "explain", run, cwd=tmp_path)
    assert explained.code == 0, explained
    assert "delivery.dropped_deliveries" in explained.out


def test_the_documents_of_the_wheel_have_no_wrong_command(wheel: Installed, tmp_path: Path) -> None:
    documents = wheel.prefix / "share" / "doc" / "stormgate"
    few = (documents / "docs" / "tutorials" / "first-drill.md", documents / "docs" / "how-to" / "run-drills-in-ci.md")
    done = wheel.run(wheel.python, "-m", "drills.cli.docs_check", *few, cwd=tmp_path)
    assert (done.code, done.err) == (0, ""), done.out
    root = wheel.run(wheel.python, "-c", "from drills.cli import docs_check; print(docs_check.root())", cwd=tmp_path)
    assert root.out.strip() == str(documents.resolve())


@pytest.mark.parametrize("module", ["sim", "drills", "locustfiles", "drills.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
