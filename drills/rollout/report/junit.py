"""A verdict as JUnit XML for CI servers: one suite per gate or drill, one test case per check.

Only a pass is a passed test case. Any other state is a failure or an error whose type is the state. Checks that did not pass
but are not required are skipped test cases.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from drills.judging.checks.verdicts import RunVerdict, State
from drills.rollout.setup.records import GateCheck, StageReport
from sim.base.errors import StorageError

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case."""

    name: str
    state: str
    reason: str
    is_required: bool = True


def of_stage(report: StageReport) -> bytes:
    """The gates and requirements of a stage."""
    suites = [(gate.name, [_check_case(check) for check in gate.checks]) for gate in report.gates]
    for name in dict.fromkeys(check.gate for check in report.splits):
        suites.append((name, [_check_case(check) for check in report.splits if check.gate == name]))
    suites.append(("stage", [Case(each.name, each.state, each.reason) for each in report.requirements]))
    return _document(f"stage {report.plan.stage}", report.plan.began, report.plan.run_id, suites)


def of_run(verdict: RunVerdict) -> bytes:
    """The drills of a run. Each violated invariant is a separate failed test case."""
    suites = []
    for drill in verdict.drills:
        cases = [Case(check.name, check.state, check.reason, check.is_required) for check in drill.checks]
        cases += [
            Case(f"invariant.{each.invariant}", State.FAIL, f"{each.count}, first {each.first}") for each in drill.violations
        ]
        suites.append((drill.name, cases))
    return _document("drills", "", verdict.run_id, suites)


def write(verdict: RunVerdict, path: Path) -> None:
    """Write the drills of a run to a file. Raises `StorageError`."""
    try:
        path.write_bytes(of_run(verdict))
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); give --junit a file in a folder that exists."
        ) from None


def _check_case(check: GateCheck) -> Case:
    return Case(f"{check.gate}.{check.check}", check.state, check.reason, check.required)


def _document(title: str, at: str, run_id: str, suites: Iterable[tuple[str, list[Case]]]) -> bytes:
    root = Element("testsuites", name=_clean(f"stormgate {title} {run_id}"))
    totals = Counter(dict.fromkeys(("tests", "failures", "errors", "skipped"), 0))
    for name, cases in suites:
        kinds = Counter(map(_kind, cases))
        counts = {"tests": len(cases), "failures": kinds["failure"], "errors": kinds["error"], "skipped": kinds["skipped"]}
        suite = SubElement(root, "testsuite", {"name": _clean(name), **{key: str(value) for key, value in counts.items()}})
        if at:
            suite.set("timestamp", at)
        for case in cases:
            _add(suite, name, case)
        totals.update(counts)
    for key, value in totals.items():
        root.set(key, str(value))
    indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + bytes(tostring(root, encoding="utf-8")) + b"\n"


def _kind(case: Case) -> str:
    """`failure`, `error` or `skipped`; empty for a pass."""
    if case.state == State.PASS:
        return ""
    if not case.is_required:
        return "skipped"
    return "error" if case.state == State.ERROR else "failure"


def _add(suite: Element, name: str, case: Case) -> None:
    element = SubElement(suite, "testcase", classname=_clean(f"stormgate.{name}"), name=_clean(case.name))
    kind = _kind(case)
    if kind == "skipped":
        SubElement(element, kind, message=_clean(f"{case.state}, not required here: {case.reason}"))
    elif kind:
        SubElement(element, kind, type=_clean(case.state), message=_clean(case.reason))


def _clean(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NO_XML.sub("?", str(text))
