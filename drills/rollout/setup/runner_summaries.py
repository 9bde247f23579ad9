"""Count the tests in the output of test runners: cargo, pytest, unittest, go and node.

A command may call its runner several times. Each call counts by itself, because one of them may have run no test. `go test`
does not mark where a call begins, so its output is one call.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Cargo prints this before the tests of a call, unless it is quiet: then all its output is one call.
_CARGO_CALL = re.compile(r"^ *Finished .*target\(s\) in ", re.MULTILINE)
_CARGO = re.compile(r"^test result: \w+\. (?P<passed>\d+) passed; (?P<failed>\d+) failed;", re.MULTILINE)
_PYTEST = re.compile(r"^=*\s*(?:(?=.*\bin [\d.]+s)(?P<counts>\d+ \w+(?:, \d+ \w+)*)|no tests ran) in [\d.]+s", re.MULTILINE)
_PYTEST_COUNT = re.compile(r"(?P<n>\d+) (?P<what>passed|failed|errors?)\b")
_UNITTEST = re.compile(
    r"^Ran (?P<ran>\d+) tests? in [\d.]+s\s+^(?:OK|FAILED|NO TESTS RAN)(?: \((?P<counts>[\w =,]+)\))?$", re.MULTILINE
)
_UNITTEST_COUNT = re.compile(r"(?P<what>skipped|failures|errors|unexpected successes)=(?P<n>\d+)")
_GO_TEST = re.compile(r"^\s*--- (?:PASS|FAIL): ", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^(?:ok|FAIL)\s+\S+\s+(?:\(cached\)|[\d.]+s)(?P<rest>.*)$", re.MULTILINE)
_NODE_CALL = re.compile(r"^(?:#|ℹ) tests \d+\s*$", re.MULTILINE)
_NODE = re.compile(r"^(?:#|ℹ) (?P<what>pass|fail) (?P<n>\d+)\s*$", re.MULTILINE)


class Count(NamedTuple):
    """Tests that ran in one call of a runner, and how many of them failed. Skipped and filtered tests do not count."""

    tests: int
    failed: int


def calls(runner: str, output: str) -> list[Count]:
    """Count each call of a runner, in order; a single count of 0 if the output has no summary."""
    text = _COLOURS.sub("", output).replace("\r\n", "\n")
    return _COUNTERS[runner](text) or [Count(0, 0)]


def _cargo(output: str) -> list[Count]:
    """Count all test binaries of a call together: most have no test that a filter selects. `cargo build` has no summary."""
    return [_binaries(part) for part in _parts(output, _CARGO_CALL) if _CARGO.search(part)]


def _binaries(output: str) -> Count:
    lines = [(int(found["passed"]), int(found["failed"])) for found in _CARGO.finditer(output)]
    return Count(sum(map(sum, lines)), sum(failed for _, failed in lines))


def _pytest(output: str) -> list[Count]:
    return [_pytest_counts(found["counts"] or "") for found in _PYTEST.finditer(output)]


def _pytest_counts(text: str) -> Count:
    counts = [(int(found["n"]), found["what"] != "passed") for found in _PYTEST_COUNT.finditer(text)]
    return Count(sum(n for n, _ in counts), sum(n for n, is_failure in counts if is_failure))


def _unittest(output: str) -> list[Count]:
    return [_unittest_counts(int(found["ran"]), found["counts"] or "") for found in _UNITTEST.finditer(output)]


def _unittest_counts(ran: int, text: str) -> Count:
    counts = {found["what"]: int(found["n"]) for found in _UNITTEST_COUNT.finditer(text)}
    skipped = counts.pop("skipped", 0)
    return Count(max(ran - skipped, 0), sum(counts.values()))


def _go(output: str) -> list[Count]:
    """Count tests for `-v` or `-json`; else count the packages that have tests."""
    packages = list(_GO_PACKAGE.finditer(output))
    events = list(_go_events(output))
    tests = len(_GO_TEST.findall(output)) or len(events) or sum("[no tests to run]" not in each["rest"] for each in packages)
    failed = output.count("--- FAIL: ") or events.count("fail") or sum(each[0].startswith("FAIL") for each in packages)
    return [Count(tests, failed)]


def _go_events(output: str) -> Iterable[str]:
    """`pass` or `fail` of each test of a `-json` run."""
    for line in output.splitlines():
        try:
            event = json.loads(line) if line.startswith("{") else None
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("Action") in ("pass", "fail") and event.get("Test"):
            yield event["Action"]


def _node(output: str) -> list[Count]:
    return [_node_counts(part) for part in _parts(output, _NODE_CALL) if _NODE.search(part)]


def _node_counts(output: str) -> Count:
    found = [(int(each["n"]), each["what"] == "fail") for each in _NODE.finditer(output)]
    return Count(sum(n for n, _ in found), sum(n for n, is_failure in found if is_failure))


def _parts(output: str, begin: re.Pattern[str]) -> list[str]:
    """Split before each line with which a call begins."""
    starts = [0, *(found.start() for found in begin.finditer(output))]
    return [output[start:end] for start, end in zip(starts, [*starts[1:], len(output)], strict=True)]


_COUNTERS: dict[str, Callable[[str], list[Count]]] = {
    "cargo": _cargo,
    "pytest": _pytest,
    "unittest": _unittest,
    "go": _go,
    "node": _node,
}
