"""What `/verdict.json` serves: the state of a running or finished run of drills or of a stage."""

from typing import Literal

import msgspec

SCHEMA = 1  # of the verdict's JSON
Kind = Literal["drill run", "stage"]
State = Literal["running", "go", "no_go", "inconclusive", "error"]
STATES: tuple[State, ...] = ("running", "go", "no_go", "inconclusive", "error")


class CheckNow(msgspec.Struct, frozen=True, kw_only=True):
    """A check and its state."""

    name: str
    state: str
    reason: str = ""


class HoldNow(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in progress."""

    is_holding: bool  # False while it waits for a business day, or for the end of what broke it
    held_s: float = 0.0  # since its last start
    required_s: float = 0.0
    restarts: int = 0
    missing: tuple[str, ...] = ()  # what does not pass yet, in words
    checks: tuple[CheckNow, ...] = ()  # of the latest evaluation


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `/verdict.json` serves. `state` is `running` until there is a verdict; only `go` is a go."""

    schema: int = SCHEMA
    kind: Kind
    state: State = "running"
    exit_code: int | None = None  # of the process, as soon as it is known
    decision: str = ""  # go or no_go; empty while running
    reason: str = ""  # of a no-go
    at: str = ""  # time of this state, ISO 8601, UTC
    run_id: str = ""
    target: str = ""
    rollout: str = ""  # this and the following are for stages only
    stage: str = ""
    part: str = ""  # what a preflight does now: commands, drills, rollback or baseline
    worst_check: CheckNow | None = None
    hold: HoldNow | None = None
