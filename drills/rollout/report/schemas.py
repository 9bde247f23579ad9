"""Generate the JSON schemas of a stage's files from the records: `python -m drills.rollout.report.schemas`."""

from pathlib import Path
from typing import Any

import msgspec

from drills.rollout.setup import journal, records
from drills.rollout.setup.records import Blocker, Evidence, Waiver

FOLDER = Path(__file__).with_name("schemas")
# File -> record type. The schema of a .jsonl file describes one line.
ARTIFACTS: dict[str, Any] = {
    records.PLAN: records.StagePlan,
    records.SNAPSHOTS: records.Snapshot,
    records.CANARY_CHECK_LIST: records.CanaryCheckDone,
    records.CONTROL_LIST: records.CanaryCheckDone,
    records.PRECONDITIONS: records.Precondition,
    records.COMMANDS: records.CommandDone,
    records.DRILL_RESULTS: records.DrillDone,
    records.ROUTING_CHECKS: records.RoutingCheck,
    records.HOLD: records.HoldEvent,
    records.EVALUATIONS: records.Evaluated,
    records.ARMED: records.Armed,
    records.ROLLBACK: records.Rollback,
    records.SEAL: list[Evidence],
    records.GATE_RESULTS: records.GateCheck,
    records.REPORT: records.StageReport,
    records.BLOCKERS: list[Blocker],
    records.SIGNOFF: records.Signoff,
    records.WAIVERS: list[Waiver],
    journal.NAME: journal.Entry,
}


def path_of(artifact: str) -> Path:
    """The file of an artifact's schema."""
    return FOLDER / f"{artifact.replace('/', '-').rpartition('.')[0]}.schema.json"


def generate(artifact: str) -> bytes:
    """The bytes of an artifact's schema file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(ARTIFACTS[artifact])}
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=2) + b"\n"


def main() -> None:
    """Write all schemas."""
    FOLDER.mkdir(exist_ok=True)
    for artifact in ARTIFACTS:
        path_of(artifact).write_bytes(generate(artifact))


if __name__ == "__main__":
    main()
