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
_NODE = re.compile(r"^(?:#|ℹ) (?P<what>pass|fail) (?P<n>\d+)\s*$", re.MULTILINE)


def tests(runner: str, output: str) -> int:
    """How many tests a runner says that it ran, failed ones included; skipped and filtered ones are none. 0 for no word."""
    return _COUNTS[runner](_COLOURS.sub("", output).replace("\r\n", "\n"))


def failed(runner: str, output: str) -> int:
    """How many of them failed, in the same words: a script may well end with 0 all the same."""
    return _FAILED[runner](_COLOURS.sub("", output).replace("\r\n", "\n"))


def _cargo(output: str) -> int:
    return sum(int(found["passed"]) + int(found["failed"]) for found in _CARGO.finditer(output))


def _cargo_failed(output: str) -> int:
    return sum(int(found["failed"]) for found in _CARGO.finditer(output))


def _pytest(output: str) -> int:
    """Of the last summary line: plug-ins print others."""
    return sum(int(found["n"]) for found in _PYTEST_COUNT.finditer(_last_summary(output)))


def _pytest_failed(output: str) -> int:
    """Of any summary line: a script may run it twice."""
    lines = (found["counts"] for found in _PYTEST.finditer(output))
    return sum(int(found["n"]) for line in lines for found in _PYTEST_COUNT.finditer(line) if found["what"] != "passed")


def _last_summary(output: str) -> str:
    return next((found["counts"] for found in reversed(list(_PYTEST.finditer(output)))), "")


def _go(output: str) -> int:
    """With `-v` or `-json` each test; without either, one for each package that had any."""
    if listed := len(_GO_TEST.findall(output)) or _go_json(output):
        return listed
    return sum("[no tests to run]" not in found["rest"] for found in _GO_PACKAGE.finditer(output))


def _go_failed(output: str) -> int:
    packages = sum(found[0].startswith("FAIL") for found in _GO_PACKAGE.finditer(output))
    return output.count("--- FAIL: ") or _go_json(output, ("fail",)) or packages


def _go_json(output: str, actions: tuple[str, ...] = ("pass", "fail")) -> int:
    found = 0
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found += isinstance(event, dict) and event.get("Action") in actions and bool(event.get("Test"))
    return found


def _node(output: str) -> int:
    return sum(int(found["n"]) for found in _NODE.finditer(output))


def _node_failed(output: str) -> int:
    return sum(int(found["n"]) for found in _NODE.finditer(output) if found["what"] == "fail")


_COUNTS: dict[str, Callable[[str], int]] = {"cargo": _cargo, "pytest": _pytest, "go": _go, "node": _node}
_FAILED: dict[str, Callable[[str], int]] = {
    "cargo": _cargo_failed,
    "pytest": _pytest_failed,
    "go": _go_failed,
    "node": _node_failed,
}
