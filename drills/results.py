"""The `results/` tree: the only code that knows where a run's files lie.

    results/<run id>/
        run-plan.json        what was going to run, written before anything did
        thresholds.toml      the thresholds, as they were
        drills/<name>/       drill.json, run.json, observations.parquet, runtime.log, <name>.png
            replications/<seed>/    run.json and observations.parquet of each, where there is more than one
            surfaces/<name>/        the same, and drill.json as it ran there, where a drill runs on several to compare
        summary.json, SUMMARY.md, gate-results.jsonl
    results/rollouts/<name>/
        journal.jsonl        what happened to this rollout
        runs/<run id>/       a stage's gate execution; `drills.rollout.records` names what lies in it
    results/snapshots/<moment>/   what servers said of themselves when they were just asked, and nothing judged

Judging reads and never writes. The plan is what makes a missing drill an error: a folder that was removed cannot
turn a run into a go.
"""

import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from drills import CATALOG, combined, gates, report, surfaces
from drills.request import SIMULATED
from drills.surfaces import Surface
from drills.thresholds import DEFAULT_PATH, Thresholds
from drills.verdicts import DrillVerdict, RunVerdict
from sim import invariants, observations, parity
from sim.contract.settings import Count
from sim.drill import Drill
from sim.drill import load as load_drill
from sim.errors import EvidenceError, StorageError, UsageError
from sim.history import History
from sim.ledger import Ledger

PLAN_NAME = "run-plan.json"
DRILL_NAME = "drill.json"
THRESHOLDS_NAME = "thresholds.toml"
SUMMARY_NAME = "summary.json"
_DRILLS = "drills"
_REPLICATIONS = "replications"
_SURFACES = "surfaces"
_ROLLOUTS, _STAGE_RUNS = "rollouts", "runs"


class PlannedDrill(msgspec.Struct, frozen=True):
    """One drill of a plan, by name and `Drill.digest`."""

    name: str
    sha256: str


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was going to do: `run-plan.json`."""

    schema: int = observations.SCHEMA_VERSION
    run_id: str
    engine: str
    target: str  # name or address, never a secret
    target_kind: str  # mock, staging or production
    seed: int
    created_at: str  # ISO 8601, UTC
    thresholds_sha256: str
    drills: list[PlannedDrill]
    replications: Count = 1  # of each drill, under the seeds from `seed` on


def create_run(
    out: Path,
    drills: Sequence[Drill],
    *,
    engine: str,
    target: str,
    target_kind: str,
    seed: int,
    thresholds: Path = DEFAULT_PATH,
    replications: int = 1,
    now: datetime | None = None,
) -> Path:
    """Make the folder of a new run under `out`, with its plan and a copy of `thresholds`; returns the folder.

    Raises `UsageError` for no drills, two of one name, or bad thresholds, and `StorageError` if it cannot be written.
    """
    _refuse_bad_plan(drills, thresholds)
    now = now or datetime.now(UTC)
    name = drills[0].name if len(drills) == 1 else "all"
    run_id = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{name}-{secrets.token_hex(2)}"
    run_dir = out / run_id
    plan = RunPlan(
        run_id=run_id,
        engine=engine,
        target=target,
        target_kind=target_kind,
        seed=seed,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        thresholds_sha256=observations.file_sha256(thresholds),
        drills=[PlannedDrill(drill.name, drill.digest()) for drill in drills],
        replications=replications,
    )
    try:
        (run_dir / _DRILLS).mkdir(parents=True)
        shutil.copyfile(thresholds, run_dir / THRESHOLDS_NAME)
    except OSError as error:
        raise _cannot_write(run_dir, error) from None
    _write(run_dir / PLAN_NAME, msgspec.json.format(msgspec.json.encode(plan), indent=2))
    return run_dir


def _refuse_bad_plan(drills: Sequence[Drill], thresholds: Path) -> None:
    if not drills:
        raise UsageError("a run needs at least one drill.")
    names = [drill.name for drill in drills]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two drills of one run are called '{twice[0]}'; each needs a name of its own.")
    loaded = gates.load_thresholds(thresholds)
    for drill in drills:
        gates.require_checks(drill, loaded)


def create_drill_folder(run_dir: Path, drill: Drill) -> Path:
    """Make the folder that an engine writes one drill's files to, and put the drill itself there."""
    return _create_folder(drill_folder(run_dir, drill.name), drill)


def create_surface_folder(run_dir: Path, drill: Drill, surface: Surface) -> Path:
    """Make the folder of one surface of a drill, and put the drill there as it runs on it."""
    return _create_folder(surface_folder(run_dir, drill.name, surface), surface.variant(drill))


def _create_folder(folder: Path, drill: Drill) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    _write(folder / DRILL_NAME, msgspec.json.format(msgspec.json.encode(drill, order="deterministic"), indent=2))
    return folder


def drill_folder(run_dir: Path, name: str) -> Path:
    """Where a drill's files lie."""
    return run_dir / _DRILLS / name


def run_id_of(drill_folder: Path) -> str:
    """The run that a folder of `create_drill_folder` is a part of."""
    return drill_folder.parents[1].name


def replication_folder(run_dir: Path, name: str, seed: int) -> Path:
    """Where the files of one of several replications lie."""
    return drill_folder(run_dir, name) / _REPLICATIONS / str(seed)


def surface_folder(run_dir: Path, name: str, surface: Surface) -> Path:
    """Where the files of one of several surfaces lie."""
    return drill_folder(run_dir, name) / _SURFACES / surface.name


def seeds(first: int, replications: int) -> range:
    """The seeds of a run's replications."""
    return range(first, first + replications)


def figure_path(run_dir: Path, name: str) -> Path:
    """Where a drill's figure lies."""
    return drill_folder(run_dir, name) / f"{name}.png"


def rollout_folder(out: Path, name: str) -> Path:
    """Where all that belongs to one rollout lies."""
    return out / _ROLLOUTS / name


def stage_folder(rollout: Path, run_id: str) -> Path:
    """Where one stage's gate execution lies, below its rollout's folder."""
    return rollout / _STAGE_RUNS / run_id


def snapshot_folder(out: Path, now: datetime) -> Path:
    """Where the snapshots of one call go that is part of no run."""
    return out / "snapshots" / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def judge_run(run_dir: Path, thresholds: Path | None = None, judged: Mapping[str, DrillVerdict] | None = None) -> RunVerdict:
    """Judge a run from its files alone; writes nothing. `thresholds` is another file than the run's own copy, and `judged` has
    what `judge_drill` said of single drills already.

    Raises `UsageError` for a folder that is no run and for bad thresholds, `EvidenceError` for a run without a plan.
    """
    plan = read_plan(run_dir)
    path = thresholds or run_dir / THRESHOLDS_NAME
    if thresholds is None and not path.exists():
        raise EvidenceError(f"{path}: the run's own thresholds are missing; give a file with --thresholds.")
    loaded = gates.load_thresholds(path, is_record=thresholds is None)
    sha256 = observations.file_sha256(path)
    return RunVerdict(
        run_id=plan.run_id,
        engine=plan.engine,
        target=plan.target,
        target_kind=plan.target_kind,
        seed=plan.seed,
        drills=tuple(_judge_all(run_dir, plan, loaded, judged or {})),
        thresholds_sha256=sha256,
        recorded_thresholds_sha256=plan.thresholds_sha256,
        notes=_notes(plan, path, sha256),
    )


def judge_drill(run_dir: Path, name: str) -> DrillVerdict:
    """Judge one drill of a run, from its files and by the run's own copy of the thresholds; writes nothing."""
    plan = read_plan(run_dir)
    planned = next(each for each in plan.drills if each.name == name)
    return _judge_drill(run_dir, plan, planned, gates.load_thresholds(run_dir / THRESHOLDS_NAME, is_record=True))


def read_plan(run_dir: Path) -> RunPlan:
    """A run's plan. Raises `UsageError` for a folder that is no run, `EvidenceError` for a missing or damaged plan."""
    path = run_dir / PLAN_NAME
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=RunPlan)
    except (FileNotFoundError, NotADirectoryError):
        if (run_dir / _DRILLS).is_dir():
            raise EvidenceError(f"{path}: is missing, so nothing says which drills this run should have.") from None
        raise UsageError(f"{run_dir}: is not a run's folder (it has no {PLAN_NAME}).") from None
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except msgspec.DecodeError as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None
    if plan.schema != observations.SCHEMA_VERSION:
        raise EvidenceError(f"{path}: is of schema {plan.schema}, which this version does not know.")
    return plan


def write_reports(run_dir: Path, verdict: RunVerdict) -> None:
    """Write summary.json, SUMMARY.md and gate-results.jsonl. Raises `StorageError`."""
    _write(run_dir / SUMMARY_NAME, report.summary_json(verdict))
    _write(run_dir / "SUMMARY.md", report.summary_markdown(verdict).encode())
    _write(run_dir / "gate-results.jsonl", report.gate_lines(verdict))


def write_figure(run_dir: Path, name: str) -> Path | None:
    """Draw a drill, of several replications the first; None if its observations cannot be read. Raises `StorageError`."""
    from sim import plots  # imported late: Matplotlib takes longer to import than a small run to judge

    plan = read_plan(run_dir)
    planned = next(each for each in plan.drills if each.name == name)
    folder, path = _drawn_folder(run_dir, plan, planned), figure_path(run_dir, name)
    try:
        history = History(observations.read_header(folder), observations.read(folder))
    except EvidenceError:
        return None  # the verdict says so
    try:
        plots.save(plots.drill_figure(history), path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def _drawn_folder(run_dir: Path, plan: RunPlan, planned: PlannedDrill) -> Path:
    """The run of a drill that its figure shows: its only one, or the first of several."""
    drill = _drill_with_surfaces(run_dir, planned)
    if drill is not None and plan.replications == 1:
        return surface_folder(run_dir, drill.name, surfaces.surfaces_of(drill)[0])
    return _folder(run_dir, plan, planned.name, plan.seed)


def drill_folders(run_dir: Path) -> list[Path]:
    """Where the drills of a run's plan lie, each run once. Raises as `read_plan` does."""
    return [drill_folder(run_dir, planned.name) for planned in read_plan(run_dir).drills]


def recorded(folder: Path) -> tuple[Drill, History]:
    """The drill of a folder and what was observed, once it is sure that this is all of it and just as it was recorded.

    Raises `EvidenceError`.
    """
    header, table = observations.read_verified(folder)
    drill = _decoded_drill(folder / DRILL_NAME)
    if header.drill_sha256 != _digest(folder / DRILL_NAME):
        raise EvidenceError(f"{folder / DRILL_NAME}: is not the drill that was run (its digest differs from run.json).")
    return drill, History(header, table)


def _judge_all(run_dir: Path, plan: RunPlan, thresholds: Thresholds, judged: Mapping[str, DrillVerdict]) -> list[DrillVerdict]:
    verdicts = [judged.get(each.name) or _judge_drill(run_dir, plan, each, thresholds) for each in plan.drills]
    names = {planned.name for planned in plan.drills}
    folders = run_dir / _DRILLS
    found = sorted(path.name for path in folders.iterdir() if path.is_dir()) if folders.is_dir() else []
    strangers = [name for name in found if name not in names]
    return verdicts + [
        gates.unreadable(name, f"{name} is not a drill of this run's plan.", _evidence(name)) for name in strangers
    ]


def _judge_drill(run_dir: Path, plan: RunPlan, planned: PlannedDrill, thresholds: Thresholds) -> DrillVerdict:
    if plan.replications == 1:
        drill = _drill_with_surfaces(run_dir, planned)
        if drill is not None:
            return _judge_surfaces(run_dir, plan, planned, drill, thresholds)
        return _judge_one(run_dir, plan, planned, plan.seed, thresholds)
    wanted = seeds(plan.seed, plan.replications)
    verdicts = {seed: _judge_one(run_dir, plan, planned, seed, thresholds) for seed in wanted}
    verdict = combined.combine(verdicts, thresholds)
    found = drill_folder(run_dir, planned.name) / _REPLICATIONS
    names = sorted(path.name for path in found.iterdir()) if found.is_dir() else []
    if strangers := [name for name in names if name not in map(str, wanted)]:
        trouble = f"{found / strangers[0]}: is no replication of this run's plan."
        return replace(verdict, checks=(gates.read_evidence(_evidence(planned.name), 0, trouble), *verdict.checks))
    return verdict


def _judge_one(run_dir: Path, plan: RunPlan, planned: PlannedDrill, seed: int, thresholds: Thresholds) -> DrillVerdict:
    """One run of a drill: its only one, or one of its replications."""
    folder = _folder(run_dir, plan, planned.name, seed)
    evidence = (folder / observations.FILE_NAME).relative_to(run_dir).as_posix()
    try:
        if not folder.is_dir():
            what = "drill" if plan.replications == 1 else "replication"
            raise EvidenceError(f"{folder}: the {what} was planned, but its folder is missing.")
        if not (folder / observations.HEADER_NAME).exists():
            raise EvidenceError(f"{folder}: has no {observations.HEADER_NAME}, so it never began, or lost it since.")
        drill = _read_drill(drill_folder(run_dir, planned.name), planned)
        return gates.judge(drill, _recorded(folder, plan, planned, seed, drill), thresholds, evidence)
    except EvidenceError as error:
        return _salvage(folder, gates.unreadable(planned.name, str(error), evidence))


def _recorded(folder: Path, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill) -> History:
    """What an engine recorded, once it is sure that it did so for this run. Raises `EvidenceError`."""
    header, table = observations.read_verified(folder)
    _require_same_run(header, plan, planned, seed, drill, folder)
    return History(header, table)


def _drill_with_surfaces(run_dir: Path, planned: PlannedDrill) -> Drill | None:
    """The drill, if it runs on several surfaces; None for any other, and for one that cannot be read."""
    try:
        drill = _read_drill(drill_folder(run_dir, planned.name), planned)
    except EvidenceError:
        return None  # judging it as any other says why
    return drill if drill.surfaces else None


def _judge_surfaces(run_dir: Path, plan: RunPlan, planned: PlannedDrill, drill: Drill, thresholds: Thresholds) -> DrillVerdict:
    """All surfaces of a drill, each by itself and all compared."""
    verdicts: dict[str, DrillVerdict] = {}
    accounts: dict[str, parity.Account] = {}  # of all surfaces: of their histories one at a time is enough to hold
    wanted = surfaces.surfaces_of(drill)
    for surface in wanted:
        folder = surface_folder(run_dir, drill.name, surface)
        evidence = (folder / observations.FILE_NAME).relative_to(run_dir).as_posix()
        try:
            variant = surface.variant(drill)
            here = PlannedDrill(variant.name, _digest_of(folder / DRILL_NAME, variant))
            history = _recorded(folder, msgspec.structs.replace(plan, engine=surface.engine), here, plan.seed, variant)
            verdicts[surface.name] = gates.judge(variant, history, thresholds, evidence)
            accounts[surface.name] = parity.account(history)
        except EvidenceError as error:
            verdicts[surface.name] = _salvage(folder, gates.unreadable(drill.name, str(error), evidence))
    verdict = surfaces.combine(drill, verdicts, accounts, f"{_DRILLS}/{drill.name}/{_SURFACES}")
    found = drill_folder(run_dir, drill.name) / _SURFACES
    names = sorted(path.name for path in found.iterdir()) if found.is_dir() else []
    if strangers := [name for name in names if name not in {surface.name for surface in wanted}]:
        trouble = f"{found / strangers[0]}: is no surface of this run's drill."
        return replace(verdict, checks=(gates.read_evidence(_evidence(planned.name), 0, trouble), *verdict.checks))
    return verdict


def _digest_of(path: Path, drill: Drill) -> str:
    """The digest of a drill as it was written, which must be this one. Raises `EvidenceError`."""
    if _decoded_drill(path) != drill:
        raise EvidenceError(f"{path}: is not the drill as it should have run here.")
    return _digest(path)


def _folder(run_dir: Path, plan: RunPlan, name: str, seed: int) -> Path:
    return drill_folder(run_dir, name) if plan.replications == 1 else replication_folder(run_dir, name, seed)


def _read_drill(folder: Path, planned: PlannedDrill) -> Drill:
    path = folder / DRILL_NAME
    drill = _decoded_drill(path)
    if _digest(path) != planned.sha256:
        raise EvidenceError(f"{path}: is not the drill that was planned (its digest differs from {PLAN_NAME}).")
    return drill


def _decoded_drill(path: Path) -> Drill:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Drill)
    except OSError as error:
        raise EvidenceError(f"{path}: cannot be read ({error.strerror}).") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise EvidenceError(f"{path}: is damaged ({error}).") from None


def _digest(path: Path) -> str:
    """`Drill.digest` of a drill as it was written: a later version, with keys of its own, would have it otherwise."""
    return hashlib.sha256(msgspec.json.format(path.read_bytes(), indent=-1)).hexdigest()


def _require_same_run(
    header: observations.RunHeader, plan: RunPlan, planned: PlannedDrill, seed: int, drill: Drill, folder: Path
) -> None:
    """Evidence of another run, drill, engine, target or seed proves nothing about this run."""
    claims = {
        "run_id": (header.run_id, plan.run_id),
        "drill": (header.drill, drill.name),
        "drill_sha256": (header.drill_sha256, planned.sha256),
        "clients": (header.clients, drill.fleet.clients),
        "policy": (header.policy, drill.fleet.policy),
        "engine": (header.engine, plan.engine),
        "target": (header.target, plan.target),
        "target_kind": (header.target_kind, plan.target_kind),
        "seed": (header.seed, seed),
    }
    for name, (found, wanted) in claims.items():
        if found != wanted:
            where = folder / observations.HEADER_NAME
            raise EvidenceError(f"{where}: says {name} {found!r}, but this run's is {wanted!r}.")
    if not _is_after(header.started_at, plan.created_at):
        raise EvidenceError(
            f"{folder}: this began before this run did ({header.started_at}, {plan.created_at}); it is another's."
        )


def _is_after(moment: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(moment) >= datetime.fromisoformat(other)
    except (ValueError, TypeError):  # no moment at all, or one without its time zone
        return False


def _salvage(folder: Path, verdict: DrillVerdict) -> DrillVerdict:
    """Add what a run that was cut short already shows to have gone wrong; it stays an error or becomes a failure."""
    try:
        header = observations.read_header(folder)
    except EvidenceError:
        return verdict
    if header.complete:
        return verdict  # its files were changed or damaged: nothing in them can be believed
    if header.stop_condition:
        met = gates.stopped(verdict.checks[0].evidence, header.stop_condition)
        verdict = replace(verdict, checks=(*verdict.checks, met), remarks=tuple(header.remarks))
    try:
        history = History(header, observations.read(folder))
        broken = tuple(invariants.violations(history, Ledger(history), complete=False))
    except Exception:  # it was unreadable anyway, and the verdict says why
        return verdict
    return replace(verdict, clients=header.clients, duration_s=history.duration_s, policy=header.policy, violations=broken)


def _notes(plan: RunPlan, path: Path, sha256: str) -> tuple[str, ...]:
    notes = [SIMULATED[plan.engine]] if plan.engine in SIMULATED else []
    if plan.target_kind == "mock" and not notes:
        notes.append("The target was the embedded mock, so this says nothing about a deployed runtime.")
    elif not notes:
        notes.append(f"The target was '{plan.target}', of kind {plan.target_kind}, as its operators have configured it.")
    if plan.replications != 1:
        last = plan.seed + plan.replications - 1
        notes.append(
            f"Each drill was run {plan.replications} times, under the seeds {plan.seed} to {last}; measures are means."
        )
    if sha256 != plan.thresholds_sha256:
        notes.append(f"Judged with {path}, which is not the thresholds file this run recorded (its SHA-256 differs).")
    if sha256 != observations.file_sha256(DEFAULT_PATH):
        notes.append("The thresholds are not those that this version of stormgate ships with.")
    for name in (drill.name for drill in plan.drills if not _as_shipped(drill)):
        notes.append(f"{name} is not the drill that this version of stormgate ships: its verdict is on what was run instead.")
    return tuple(notes)


def _as_shipped(planned: PlannedDrill) -> bool:
    """False for a drill of the catalogue with other settings; drills of other names are their operators' own."""
    path = CATALOG / f"{planned.name}.toml"
    return not path.exists() or load_drill(path).digest() == planned.sha256


def _evidence(name: str) -> str:
    return f"{_DRILLS}/{name}/{observations.FILE_NAME}"


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror}); free some space or give another folder with --out.")
