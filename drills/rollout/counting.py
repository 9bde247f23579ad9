"""How many tests a command ran, in the words of whoever ran them."""

import json
import re
from collections.abc import Callable

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CARGO = re.compile(r"^test result: \w+\. (?P<passed>\d+) passed; (?P<failed>\d+) failed;", re.MULTILINE)
_PYTEST = re.compile(r"^=*\s*(?=.*\bin [\d.]+s)(?P<counts>\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", re.MULTILINE)
_PYTEST_COUNT = re.compile(r"(?P<n>\d+) (?P<what>passed|failed|errors?)\b")
_GO_TEST = re.compile(r"^\s*--- (?:PASS|FAIL): ", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^(?:ok|FAIL)\s+\S+\s+(?:\(cached\)|[\d.]+s)(?P<rest>.*)$", re.MULTILINE)
_NODE_PASSED = re.compile(r"^(?:#|ℹ) (?:pass|fail) (?P<n>\d+)\s*$", re.MULTILINE)


def tests(runner: str, output: str) -> int:
    """How many tests a runner says that it ran, failed ones included; skipped and filtered ones are none. 0 for no word."""
    return _COUNTS[runner](_COLOURS.sub("", output).replace("\r\n", "\n"))


def _cargo(output: str) -> int:
    return sum(int(found["passed"]) + int(found["failed"]) for found in _CARGO.finditer(output))


def _pytest(output: str) -> int:
    """Of the last summary line: plug-ins print others."""
    summaries = [found["counts"] for found in _PYTEST.finditer(output)]
    return sum(int(found["n"]) for found in _PYTEST_COUNT.finditer(summaries[-1])) if summaries else 0


def _go(output: str) -> int:
    """With `-v` or `-json` each test; without either, one for each package that had any."""
    if listed := len(_GO_TEST.findall(output)) or _go_json(output):
        return listed
    return sum("[no tests to run]" not in found["rest"] for found in _GO_PACKAGE.finditer(output))


def _go_json(output: str) -> int:
    found = 0
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found += isinstance(event, dict) and event.get("Action") in ("pass", "fail") and bool(event.get("Test"))
    return found


def _node(output: str) -> int:
    return sum(int(found["n"]) for found in _NODE_PASSED.finditer(output))


_COUNTS: dict[str, Callable[[str], int]] = {"cargo": _cargo, "pytest": _pytest, "go": _go, "node": _node}
