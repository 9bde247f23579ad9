"""What others wrote is read within limits: whole files, answers and outputs only by `sim/base/bounded_reads.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("sim", "drills", "locustfiles")
_HTTPX = ("get", "post", "put", "delete", "request")
# Reads that need no limit, by the file or the room, and why.
ALLOWED = {
    "drills/rollout/preflight": "pipes of our own processes",
    "drills/rollout/hold/stage_plan.py": "what `git` prints of a folder of the operator's",
    "drills/third_party": "answers of servers that we installed and started",
    "sim/mock/process.py": "the first line of our own process",
}


def unbounded(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the text of each read without a limit."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, text = node.func, ast.unparse(node)
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        is_whole = name in ("read_text", "read_bytes", "getoutput", "check_output")
        is_whole |= name in ("read", "readlines", "readline") and isinstance(called, ast.Attribute) and not node.args
        is_whole |= any(each.arg == "capture_output" for each in node.keywords)
        if is_whole or text.startswith(tuple(f"httpx.{method}(" for method in _HTTPX)):
            yield node.lineno, text


def found() -> dict[str, list[str]]:
    """All reads without a limit, by file."""
    files = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    reads = {path: list(unbounded(ast.parse(path.read_text()))) for path in files}
    return {
        path.relative_to(ROOT).as_posix(): [f"{line}: {text}" for line, text in lines] for path, lines in reads.items() if lines
    }


def test_every_read_has_a_limit() -> None:
    reads = found()
    assert not {path: lines for path, lines in reads.items() if not path.startswith(tuple(ALLOWED))}
    assert {allowed for allowed in ALLOWED if any(path.startswith(allowed) for path in reads)} == set(ALLOWED), (
        "no longer needed"
    )


def test_a_read_without_a_limit_is_found() -> None:
    bad = ["path.read_text()", "stream.read()", "httpx.get(url)", "subprocess.run(x, capture_output=True)", "path.read_bytes()"]
    assert [text for _, text in unbounded(ast.parse("\n".join(["file.read(5)", *bad])))] == bad
