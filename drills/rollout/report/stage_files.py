"""Write the files of a stage's report, each atomically. The report is written last and has the hashes of all other files."""

import hashlib
from pathlib import Path

import msgspec

from drills.rollout.report import junit, stage_page, stage_report
from drills.rollout.report.stage_page import Kept
from drills.rollout.setup import evidence, records
from drills.rollout.setup.records import Evidence, StageReport
from drills.rollout.verdict.judging import judge_stage
from sim.base.atomic_files import write_whole
from sim.base.errors import StorageError, UsageError


def conclude(run_dir: Path) -> StageReport:
    """Judge a stage and write its report. Raises `StorageError`, and the errors of `judge_stage`."""
    return write(run_dir, judge_stage(run_dir))


def write(run_dir: Path, report: StageReport) -> StageReport:
    """Write all files of a report and return it with their hashes.

    Raises `StorageError`, and `UsageError` if a different report of this run is signed already.
    """
    rendered = render(report, stage_page.read(run_dir, report))
    report = msgspec.structs.replace(report, rendered=described(rendered))
    content = evidence.encoded(report)
    signoff = evidence.read_signoff(run_dir)
    if signoff is not None and signoff.report_sha256 != hashlib.sha256(content).hexdigest():
        raise UsageError(f"{run_dir}: its report is signed and would now change. Run the stage again instead.")
    for name in evidence.RENDERED:
        if name in rendered:
            write_whole(run_dir / name, rendered[name])
        else:
            _remove(run_dir / name)
    write_whole(run_dir / records.REPORT, content)
    return report


def render(report: StageReport, kept: Kept) -> dict[str, bytes]:
    """All files except the report itself, by name. Only the page shows what is `kept`. A go has no blockers."""
    checks = [*(check for gate in report.gates for check in gate.checks), *report.splits]
    found = {
        records.GATE_RESULTS: b"".join(msgspec.json.encode(check) + b"\n" for check in checks),
        records.REPORT_MD: stage_report.markdown(report).encode(),
        records.REPORT_HTML: stage_page.html(report, kept).encode(),
        records.JUNIT: junit.of_stage(report),
    }
    if report.decision != "go":
        found[records.BLOCKERS] = evidence.encoded(report.blockers)
    return found


def described(rendered: dict[str, bytes]) -> tuple[Evidence, ...]:
    """Path, hash and size of each file."""
    return tuple(
        Evidence(path=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in sorted(rendered.items())
    )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed ({error.strerror}).") from None
