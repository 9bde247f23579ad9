"""How much processor time each folder of tests takes, with the processes that its tests started and waited for.

A pytest plugin: `pytest -p tests.processor_time`. `make test` prints its table.
"""

import resource
from collections import defaultdict
from dataclasses import dataclass

import pytest

_BEGAN = pytest.StashKey[float]()
_NAME = "processor_s"


@dataclass
class Spent:
    """What the tests of a folder took: processor time, and time from begin to end, waiting included (s)."""

    tests: int = 0
    processor_s: float = 0.0
    wall_s: float = 0.0


_SPENT: dict[str, Spent] = defaultdict(Spent)


def used_s() -> float:
    """Processor time of this process and of the ended processes that it started."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = used_s()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when == "teardown":
        item.user_properties.append((_NAME, used_s() - item.stash[_BEGAN]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    spent = _SPENT["/".join(report.nodeid.split("::")[0].split("/")[:2])]
    spent.wall_s += report.duration
    if report.when == "teardown":
        spent.tests += 1
        spent.processor_s += sum(float(value) for name, value in report.user_properties if name == _NAME)  # type: ignore[arg-type]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("processor time")
    total = Spent(*(sum(getattr(each, name) for each in _SPENT.values()) for name in Spent.__dataclass_fields__))
    for name, spent in sorted({**_SPENT, "all": total}.items(), key=lambda item: item[1].processor_s):
        terminalreporter.write_line(f"{spent.processor_s:7.1f} s  of {spent.wall_s:7.1f} s  {spent.tests:5d} tests  {name}")
