"""The product speaks the field's language: no word of `BANNED` stands in a name, a text or a file name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("sim", "drills", "locustfiles", "notebooks", "docs", "examples")
BANNED = {
    *("lane", "lanes", "foretell", "foretells", "foretold", "anew", "spoilt", "watchman", "prophet"),
    *("knock", "knocks", "crew", "sick", "thereof"),
}
_PHRASE = re.compile(r"\b(is none|are none|seen to act|let alone)\b")  # not Python's `is None`
TEXTS = {".py", ".toml", ".md", ".html", ".js", ".css", ".ipynb", ".sh", ".yml", ".yaml", ".json"}
GLOSSARY = Path("docs/glossary.md")
FORMERLY = re.compile(r"formerly[^.|\n]*", re.IGNORECASE)  # the glossary may name what a term was called before
IMAGE = re.compile(r'"image/(png|svg\+xml)": (\[[^]]*\]|"[^"]*")')  # a notebook's pictures are no text
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; `snakeCase` and `snake_case` fall apart."""
    return [word.lower() for word in _WORD.findall(text)]


def complaints(path: Path, text: str) -> Iterator[str]:
    if path == GLOSSARY:
        text = FORMERLY.sub("", text)
    if path.suffix == ".ipynb":
        text = IMAGE.sub("", text)
    for place, line in [("name", path.as_posix()), *((str(number), line) for number, line in enumerate(text.splitlines(), 1))]:
        found = words(line)
        for word in BANNED.intersection(found):
            yield f"{path}:{place}: {word}"
        for phrase in _PHRASE.findall(line):
            yield f"{path}:{place}: {phrase}"


def product_files() -> Iterator[Path]:
    below = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*")]
    for path in (*below, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile", ROOT / "results" / "README.md"):
        if path.is_file() and (path.suffix in TEXTS or path.name == "Makefile") and "__pycache__" not in path.parts:
            yield path


def test_product_uses_no_banned_word():
    found = [
        complaint
        for path in product_files()
        if path.name != "CHANGELOG.md"  # its table of renames and its history quote the old names
        for complaint in complaints(path.relative_to(ROOT), path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("sim/a.py", "def live_lane(): ...", ["sim/a.py:1: lane"]),
        ("sim/a.py", "\nclass VirtualLane: ...", ["sim/a.py:2: lane"]),
        ("sim/knock.py", "", ["sim/knock.py:name: knock"]),
        ("docs/a.md", "A frame that is none of ours", ["docs/a.md:1: is none"]),
        ("docs/a.md", "The plane knocked; antisickness", []),
        ("docs/glossary.md", "| endpoints | formerly lane | addresses |", []),
        ("docs/glossary.md", "| lane | addresses |", ["docs/glossary.md:1: lane"]),
    ],
)
def test_banned_words_are_found(path: str, text: str, found: list[str]):
    assert list(complaints(Path(path), text)) == found
