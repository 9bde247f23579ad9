"""Check the commands in documents: `python -m drills.cli.docs_check [FILE...]`. Default: README.md and docs/**/*.md.

They are those of the checkout, or those that were installed with the package.

The real command line parses every line of a shell block that names `stormgate`. Drills, stages and rehearsals also run as dry
runs, and read-only commands run unchanged. A `make` line must name a target of the Makefile beside the document.
Exit codes: 0 all commands are valid, 1 some are invalid, 2 there is no document or no command.
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
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import typer
from typer.main import get_command

from drills import DATA
from drills.cli import main as cli
from sim.base import bounded_reads
from sim.base.exit_codes import ExitCode

_FENCE = re.compile(r"^ *```(?P<language>\w*).*\n(?P<body>(?:.*\n)*?) *```", re.MULTILINE)
_SHELLS = ("", "sh", "bash", "shell", "console")
_COMMAND = re.compile(r"(?:\$ )?(?:(?:\.venv/bin/)?stormgate|(?:\.venv/bin/)?python -m drills|(?P<make>make)) (?P<rest>.+)")
_WRITTEN = re.compile(r"^cat > (?P<name>[\w.-]+) <<'(?P<end>\w+)'\n(?P<text>.*?)^(?P=end)$", re.MULTILINE | re.DOTALL)
_OPERATORS = re.compile(r"[|&;<>()]+")
_READING = (("drill", "list"), ("drill", "show"), ("gates", "list"), ("gates", "explain"), ("mock", "defects"))
_HAVE_DRY_RUN = (("drill", "run"), ("stage", "run"), ("rollback", "rehearse"))


def root() -> Path:
    """The folder with README.md and docs: the checkout, or where the package's own documents are installed."""
    if (DATA.parent / "README.md").exists():
        return DATA.parent
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.distribution("stormgate").files or ():
            if file.name == "README.md":
                return Path(str(file.locate())).resolve().parent
    return DATA.parent


class Tried(NamedTuple):
    """One command of a document. `problem` says why it is invalid, and is empty for a valid command."""

    line: int
    text: str
    problem: str


def check(document: Path) -> list[Tried]:
    """Check every command of a document, in a folder with the files that it writes with `cat > FILE <<'END'`.

    The folder has an example targets file, too, whose environment variables are set.
    """
    said = bounded_reads.file_text(document)
    with _sandbox():
        for file in _WRITTEN.finditer(said):
            Path(file["name"]).write_text(file["text"], encoding="utf-8")
        return [_try(line, text, document.parent) for line, text in commands(said)]


def commands(document: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every command in the shell blocks of a document. A backslash continues a line."""
    for block in _FENCE.finditer(document):
        if block["language"] not in _SHELLS:
            continue
        first, pending = document.count("\n", 0, block.start("body")) + 1, ""
        for number, line in enumerate(block["body"].splitlines(), first):
            text = f"{pending} {line.strip()}".strip()
            pending = text.removesuffix("\\").strip() if text.endswith("\\") else ""
            if not pending and _COMMAND.fullmatch(text):
                yield number, text


def _try(line: int, text: str, folder: Path) -> Tried:
    found = _COMMAND.fullmatch(text)
    assert found
    try:
        words = list(_words(found["rest"]))
    except ValueError as error:  # an unclosed quotation mark
        return Tried(line, text, str(error))
    return Tried(line, text, _make_problem(words[0], folder) if found["make"] else _problem(words))


def _words(text: str) -> Iterator[str]:
    """The words of a command line up to the first shell operator or comment."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if _OPERATORS.fullmatch(word):
            return
        yield word


def _problem(words: Sequence[str]) -> str:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            name = parse(words)
    except typer.Exit:  # of --help and --version
        return ""
    except typer.TyperException as error:
        return error.format_message()
    if name in _READING:
        return _run(words, ExitCode.GO)
    if name in _HAVE_DRY_RUN:
        return _run([*words, "--dry-run"], ExitCode.INCONCLUSIVE)
    return ""


def parse(words: Sequence[str]) -> tuple[str, ...]:
    """Parse a command line without running it; returns the command's name. Raises `TyperException`."""
    name: list[str] = []
    command, rest, parent = get_command(cli.app), list(words), None
    while True:
        context = command.make_context(name[-1] if name else "stormgate", rest, parent=parent)
        if not hasattr(command, "resolve_command"):
            return tuple(name)
        found, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        name.append(found)
        parent = context


def _run(words: Sequence[str], expected: int) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = cli.run_words(list(words))
    last = out.getvalue().strip().splitlines()[-1:] or [""]
    return "" if code == expected else f"ends with exit code {code}: {last[0]}"


def _make_problem(target: str, folder: Path) -> str:
    candidates = (folder / "Makefile", folder.parent / "Makefile", root() / "Makefile")
    makefile = next((path for path in candidates if path.exists()), None)
    is_there = makefile and re.search(rf"^{re.escape(target)}:", bounded_reads.file_text(makefile), re.MULTILINE)
    return "" if is_there else f"the Makefile has no target {target}"


@contextlib.contextmanager
def _sandbox() -> Iterator[None]:
    """A temporary working folder with the files that the documents ask the reader to create."""
    example = DATA / "targets.example.toml"
    before, environment = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="stormgate-docs-") as folder:
        shutil.copyfile(example, Path(folder) / "targets.toml")
        (Path(folder) / "drills").symlink_to(DATA)
        for variable in re.findall(r'_env = "(\w+)"', bounded_reads.file_text(example)):
            os.environ.setdefault(variable, "https://docs.example.com" if variable.endswith("_URL") else "docs")
        os.environ.update(COLUMNS="300", NO_COLOR="1", TERM="dumb")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(environment)


def main(arguments: Sequence[str]) -> int:
    """Check documents and print each command with its problem, if any; return the exit code."""
    documents = [*map(Path, arguments)] or [root() / "README.md", *sorted(root().glob("docs/**/*.md"))]
    if missing := [path for path in documents if not path.is_file()]:
        print(f"{missing[0]}: there is no such document.", file=sys.stderr)
        return ExitCode.INCONCLUSIVE
    tried = [(path, each) for path in documents for each in check(path.resolve())]
    for path, each in tried:
        print(f"{'FAIL' if each.problem else 'ok  '} {path.name}:{each.line}: {each.text}")
        if each.problem:
            print(f"     {each.problem}")
    wrong = sum(bool(each.problem) for _, each in tried)
    print(f"{len(tried)} commands, {wrong} of them wrong")
    return ExitCode.NO_GO if wrong else ExitCode.GO if tried else ExitCode.INCONCLUSIVE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
