"""The documentation builds without a warning, loads nothing from elsewhere, is up to date, and shows commands that exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drills.cli import docs_check, reference
from sim.analysis.invariants.registry import INVARIANTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PAGE_LOADS = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(?:https?:)?//|<link\s[^>]*href=["']?(?:https?:)?//""")
STYLE_LOADS = re.compile(r"""url\(["']?(?:https?:)?//|@import""")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, cwd=config.parent, check=False)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path):
    built = build(ROOT / "mkdocs.yml", tmp_path)
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > len(PAGES)  # and the page for what is missing
    assert [path.name for path, text in pages.items() if PAGE_LOADS.search(text)] == []
    assert [
        path.name for path in tmp_path.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text())
    ] == []


def test_dead_links_and_pages_outside_the_navigation_are_refused(tmp_path: Path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md) and [no heading](glossary.md#no-such-term)\n")
    (tmp_path / "docs" / "left-out.md").write_text("# In no navigation\n")
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    assert [words for words in ("nowhere.md", "no-such-term", "left-out.md") if words not in built.stderr] == []


def test_every_invariant_is_explained():
    page = (DOCS / "explanation" / "verdicts.md").read_text().partition("## Invariants")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(name, invariant.violated_when) for name, invariant in INVARIANTS.items()]


def test_reference_pages_are_up_to_date():
    stale = [name for name, text in reference.pages().items() if (reference.FOLDER / name).read_text() != text]
    assert stale == [], "run `make reference`"
    assert {path.name for path in reference.FOLDER.glob("*.md")} == set(reference.pages())


def test_every_key_and_kind_has_a_meaning():
    unexplained = [
        f"{name}: {line}" for name, text in reference.pages().items() for line in text.splitlines() if line.endswith("|  |")
    ]
    assert unexplained == [], "add a comment beside the field in the code"


def test_readme_has_the_table_of_exit_codes():
    assert "\n".join(reference.exit_codes()) in (ROOT / "README.md").read_text()


def test_an_outdated_reference_page_is_written_again(tmp_path: Path):
    assert set(reference.write(tmp_path)) == set(reference.pages())
    (tmp_path / "faults.md").write_text("# Fault kinds of last year\n")
    assert reference.write(tmp_path) == ["faults.md"]
    assert reference.write(tmp_path) == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_shown_is_accepted_by_the_command_line(page: Path):
    assert [f"{each.line}: {each.text}: {each.problem}" for each in docs_check.check(page) if each.problem] == []


def test_every_path_named_exists():
    named = re.compile(r"`((?:sim|drills|locustfiles|notebooks|tests|examples|docs)/[\w./-]+)`")
    found = [(page.name, path) for page in (ROOT / "README.md", *PAGES) for path in named.findall(page.read_text())]
    assert len(found) > 50
    assert [each for each in found if not (ROOT / each[1]).exists()] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "architecture.md"], ids=lambda page: page.name)
def test_a_page_to_read_first_is_short(page: Path):
    assert len(page.read_text().splitlines()) <= 150
