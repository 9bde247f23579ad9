"""Do the documents show commands that there are? `python -m drills.cli.docs_check [README]` tries every one of them.

Each line of a fenced block that is a command is run as far as it does no harm: drills and stages as dry runs, what serves or
takes long by its `--help`, `make` by whether it has that target. Flags that a line shows must be in the help of its command.
Exit codes: 0 all are right, 1 some are not, 2 there is nothing to look at.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAMS = (".venv/bin/stormgate", "stormgate")
_WORDS = re.compile(r"^[a-z0-9][a-z0-9-]*$")  # of a command's name, which ends with the first argument or flag
_FLAG = re.compile(r"--[a-z][a-z-]*")
_HARMLESS = (("drill", "list"), ("mock", "defects"))
_DRY = (("drill", "run"), ("stage", "run"), ("rollback", "rehearse"))  # have a dry run
_DRY_CODE = 2
_DUMMY = "docs-check"


class Shown(NamedTuple):
    """One command as a document shows it. `is_example`: it can be typed as it is; else it is a synopsis."""

    line: int
    text: str
    is_example: bool


class Tried(NamedTuple):
    """What came of one."""

    shown: Shown
    how: str  # what was run, or why nothing was
    trouble: str  # empty for none


def shown_in(document: str) -> Iterator[Shown]:
    """Every command of a document's fenced blocks. A line that is indented goes on with the one above it."""
    for block in _FENCE.finditer(document):
        first = document.count("\n", 0, block.start("body")) + 1
        found: list[Shown] = []
        for number, line in enumerate(block["body"].splitlines(), first):
            if found and line[:1] == " " and found[-1].text.startswith(_PROGRAMS):
                found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}")
            elif line.startswith((*_PROGRAMS, "make ")):
                found.append(Shown(number, line, line.startswith((_PROGRAMS[0], "make "))))
        yield from found


def check(document: Path) -> list[Tried]:
    """Try every command of a document, in a folder where an example of a targets file lies and its variables are set."""
    with _somewhere():
        return [_tried(shown, document.parent) for shown in shown_in(document.read_text(encoding="utf-8"))]


def _tried(shown: Shown, root: Path) -> Tried:
    if shown.text.startswith("make "):
        return _make(shown, root)
    name, words = _taken_apart(shown)
    if not shown.is_example:
        return _synopsis(shown, name)
    if name in _HARMLESS:
        return _ran(shown, words, (0,))
    if name in _DRY:
        return _ran(shown, words if "--dry-run" in words else [*words, "--dry-run"], (_DRY_CODE,))
    return _synopsis(shown, name)


def _taken_apart(shown: Shown) -> tuple[tuple[str, ...], list[str]]:
    """The command's name and all its words, without the program's."""
    words = (shlex.split(shown.text, comments=True) if shown.is_example else shown.text.split())[1:]
    name: list[str] = []
    for word in words[:2]:
        if not _WORDS.match(word):
            break
        name.append(word)
    return (tuple(name) if _is_group(name[:1]) else tuple(name[:1])), words


def _is_group(name: Sequence[str]) -> bool:
    """Whether a name is one of commands, such as `drill`, and not a command itself."""
    code, out = _stormgate([*name, "--help"])
    return code == 0 and "COMMAND" in out


def _synopsis(shown: Shown, name: Sequence[str]) -> Tried:
    """By its help: the command is there, and has every flag that the line shows."""
    code, out = _stormgate([*name, "--help"])
    how = " ".join(["stormgate", *name, "--help"])
    if code != 0:
        return Tried(shown, how, f"there is no such command (exit code {code})")
    text = shown.text.split("#")[0] if shown.is_example else shown.text
    missing = [flag for flag in _FLAG.findall(text) if flag not in out]
    return Tried(shown, how, f"the command has no {missing[0]}" if missing else "")


def _ran(shown: Shown, words: Sequence[str], right: Sequence[int]) -> Tried:
    code, out = _stormgate(words)
    last = out.strip().splitlines()[-1:] or [""]
    return Tried(shown, shlex.join(["stormgate", *words]), "" if code in right else f"ends with exit code {code}: {last[0]}")


def _make(shown: Shown, root: Path) -> Tried:
    target = shlex.split(shown.text, comments=True)[1]
    makefile = root / "Makefile"
    is_there = makefile.exists() and re.search(rf"^{re.escape(target)}:", makefile.read_text(), re.MULTILINE)
    return Tried(shown, f"the Makefile's target {target}", "" if is_there else f"the Makefile has no target {target}")


def _stormgate(words: Sequence[str]) -> tuple[int, str]:
    """Run the command line within this process; its exit code, and all that it said, as wide as it likes."""
    from drills.cli import main as cli

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = cli.run_words(list(words))
    return code, out.getvalue()


@contextlib.contextmanager
def _somewhere() -> Iterator[None]:
    """A folder of its own, with what the documents say to put there."""
    example = ROOT / "drills" / "targets.example.toml"
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="stormgate-docs-") as folder:
        shutil.copyfile(example, Path(folder) / "targets.toml")
        (Path(folder) / "drills").symlink_to(ROOT / "drills")
        for variable in re.findall(r'_env = "(\w+)"', example.read_text()):
            is_address = variable.endswith("_URL")
            os.environ.setdefault(variable, f"https://{_DUMMY}.example.com" if is_address else _DUMMY)
        os.environ.update(COLUMNS="300", NO_COLOR="1", TERM="dumb")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    document = Path(arguments[0]) if arguments else ROOT / "README.md"
    if not document.is_file():
        print(f"{document}: there is no such document.", file=sys.stderr)
        return 2
    tried = check(document.resolve())
    for each in tried:
        print(f"{'FAIL' if each.trouble else 'ok  '} {document.name}:{each.shown.line}: {each.shown.text.strip()}")
        print(f"     {each.trouble or each.how}")
    wrong = sum(bool(each.trouble) for each in tried)
    print(f"{len(tried)} commands, {wrong} of them wrong")
    return 1 if wrong else 0 if tried else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
