"""The `results/` tree: the only code that knows the paths of a run's files.

    results/<run id>/
        run-plan.json        the planned drills, written before anything runs
        thresholds.toml      a copy of the thresholds
        drills/<name>/       drill.json, run.json, observations.parquet, runtime.log, <name>.png
            replications/<seed>/    run.json and observations.parquet of each, if there are several
            variants/<name>/        the same, and drill.json as it ran there, for a drill with variants
        summary.json, SUMMARY.md, gate-results.jsonl, report.html
    results/rollouts/<name>/
        journal.jsonl        the events of this rollout
        runs/<run id>/       a stage's gate execution; `drills.rollout.setup.records` lists its files
    results/snapshots/<moment>/   servers' metrics recorded by `stormgate snapshot`

Judging reads and never writes. A planned drill whose folder is missing is an error, so removing a folder cannot produce a go.
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import msgspec

from drills.judging import gates
from drills.judging import replications as combined
from drills.judging.checks.thresholds import DEFAULT_PATH, Thresholds
from drills.judging.checks.verdicts import DrillVerdict, RunVerdict, State
from drills.reports import page, report, run_page
from drills.runs import catalog, variants
from drills.runs.request import SIMULATED
from drills.runs.run_files import DRILL_NAME as DRILL_NAME
from drills.runs.run_files import (
    DRILLS,
    PlannedDrill,
    RunPlan,
    digest_of,
    judged_files,
    read_drill,
    recorded_of,
    require_unchanged,
    salvage,
)
from drills.runs.run_files import PLAN_NAME as PLAN_NAME
from drills.runs.run_files import SUMMARY_NAME as SUMMARY_NAME
from drills.runs.run_files import THRESHOLDS_NAME as THRESHOLDS_NAME
from drills.runs.run_files import read_plan as read_plan
from drills.runs.run_files import recorded as recorded
from drills.runs.variants import Variant
from sim.analysis import parity
from sim.base import bounded_reads
from sim.base.atomic_files import write_whole
from sim.base.errors import EvidenceError, StorageError, UsageError
from sim.base.ownership import MARK_NAME, STATE_PREFIX, Mark, is_left_over, remove_leftovers
from sim.drill.model import Drill
from sim.drill.model import load as load_drill
from sim.record import parquet, run_header
from sim.record.history import History

REPLICATIONS = "replications"
_VARIANTS = "variants"
_MAX_EXPLAINED = 3  # [ours] failed runs of a drill that its page explains
_REMEDY = "free some space or give another folder with --out"
_ROLLOUTS, _STAGE_RUNS = "rollouts", "runs"


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
    not_run: Mapping[str, str] | None = None,
    target_sha256: str = "",
    now: datetime | None = None,
) -> Path:
    """Make the folder of a new run under `out`, with its plan and a copy of `thresholds`; returns the folder.

    `not_run` has the drills that the target cannot run: name -> why.
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
        thresholds_sha256=bounded_reads.file_sha256(thresholds),
        drills=[PlannedDrill(drill.name, drill.digest(), (not_run or {}).get(drill.name, "")) for drill in drills],
        replications=replications,
        target_sha256=target_sha256,
        tool_version=version("stormgate"),
    )
    try:
        (run_dir / DRILLS).mkdir(parents=True)
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
    """Make the folder of a drill's files, and write the drill there."""
    return _create_folder(drill_folder(run_dir, drill.name), drill)


def restate_drill(run_dir: Path, drill: Drill) -> None:
    """Write the one drill of a run again, and what the run's plan says of it: how large its fleet was, only its end showed."""
    _create_folder(drill_folder(run_dir, drill.name), drill)
    plan = msgspec.structs.replace(read_plan(run_dir), drills=[PlannedDrill(drill.name, drill.digest(), "")])
    _write(run_dir / PLAN_NAME, msgspec.json.format(msgspec.json.encode(plan), indent=2))


def create_variant_folder(run_dir: Path, drill: Drill, variant: Variant) -> Path:
    """Make the folder of one variant of a drill, and write the variant's drill there."""
    return _create_folder(variant_folder(run_dir, drill.name, variant), variant.variant(drill))


def _create_folder(folder: Path, drill: Drill) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    _write(folder / DRILL_NAME, msgspec.json.format(msgspec.json.encode(drill, order="deterministic"), indent=2))
    return folder


def drill_folder(run_dir: Path, name: str) -> Path:
    """The folder of a drill's files."""
    return run_dir / DRILLS / name


def thresholds_of(folder: Path) -> Path:
    """The thresholds of the run that a folder is, or belongs to; the shipped ones if the run has none of its own."""
    found = (each / THRESHOLDS_NAME for each in (folder, *folder.resolve().parents[:4]))
    return next((path for path in found if path.exists()), DEFAULT_PATH)


def run_id_of(drill_folder: Path) -> str:
    """The id of the run that a drill folder belongs to."""
    return drill_folder.parents[1].name


def replication_folder(run_dir: Path, name: str, seed: int) -> Path:
    """The folder of one of several replications."""
    return drill_folder(run_dir, name) / REPLICATIONS / str(seed)


def variant_folder(run_dir: Path, name: str, variant: Variant) -> Path:
    """The folder of one variant."""
    return drill_folder(run_dir, name) / _VARIANTS / variant.name


def seeds(first: int, replications: int) -> range:
    """The seeds of a run's replications."""
    return range(first, first + replications)


def figure_path(run_dir: Path, name: str) -> Path:
    """The path of a drill's figure."""
    return drill_folder(run_dir, name) / f"{name}.png"


def rollout_folder(out: Path, name: str) -> Path:
    """The folder of a rollout."""
    return out / _ROLLOUTS / name


def stage_folder(rollout: Path, run_id: str) -> Path:
    """The folder of one stage's gate execution, below its rollout's folder."""
    return rollout / _STAGE_RUNS / run_id


def snapshot_folder(out: Path, now: datetime) -> Path:
    """The folder for the snapshots of one call outside any run."""
    return out / "snapshots" / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def mark(run_dir: Path) -> Mark:
    """Mark a run as active in its folder, until the mark is removed."""
    return Mark(run_dir / MARK_NAME)


def clean_up(out: Path) -> list[str]:
    """Clean up after killed runs; returns one sentence for all removed folders and one per killed run under `out`.

    A killed run leaves its runtime's temporary folder with signing keys, which is removed. Its unfinished results folder is
    evidence and stays. Active runs hold locks and are not touched.
    """
    found = []
    if removed := remove_leftovers(STATE_PREFIX):
        found.append(f"removed what a killed run left behind: {', '.join(map(str, removed))}.")
    for left in sorted(out.glob(f"*/{MARK_NAME}")):
        if is_left_over(left):
            left.unlink(missing_ok=True)  # report it once
            found.append(f"{left.parent}: this run was killed before its end; `stormgate judge` shows what it recorded.")
    return found


def judge_run(run_dir: Path, thresholds: Path | None = None, judged: Mapping[str, DrillVerdict] | None = None) -> RunVerdict:
    """Judge a run from its files; writes nothing. A drill whose files differ from those of the run's report is an error.

    `thresholds` replaces the run's own copy. `judged` has verdicts that `judge_drill` already made. Raises `UsageError` if the
    folder is not a run's and for bad thresholds, `EvidenceError` for a run without its plan or its thresholds as they were.
    """
    plan = read_plan(run_dir)
    path = thresholds or run_dir / THRESHOLDS_NAME
    if thresholds is None and not path.exists():
        raise EvidenceError(f"{path}: the run's own thresholds are missing; give a file with --thresholds.")
    loaded = gates.load_thresholds(path, is_record=thresholds is None)
    sha256 = bounded_reads.file_sha256(path)
    if thresholds is None and sha256 != plan.thresholds_sha256:
        raise EvidenceError(
            f"{path}: are not the thresholds with which this run began (their SHA-256 differs from {PLAN_NAME}). Restore them, "
            "or give a file with --thresholds."
        )
    files = judged_files(run_dir)
    changed = require_unchanged(run_dir, files)
    return RunVerdict(
        run_id=plan.run_id,
        engine=plan.engine,
        target=plan.target,
        target_kind=plan.target_kind,
        seed=plan.seed,
        drills=tuple(_doubted(each, changed) for each in _judge_all(run_dir, plan, loaded, judged or {})),
        thresholds_sha256=sha256,
        recorded_thresholds_sha256=plan.thresholds_sha256,
        notes=_notes(plan, path, sha256),
        files=files,
        target_sha256=plan.target_sha256,
        tool_version=plan.tool_version,
    )


def _doubted(verdict: DrillVerdict, changed: Mapping[str, str]) -> DrillVerdict:
    """The verdict on a drill; an error if its files are not those of the run's report."""
    if verdict.name not in changed:
        return verdict
    trouble = gates.read_evidence(_evidence(verdict.name), 0, changed[verdict.name])
    others = [each for each in verdict.checks if each.name != trouble.name or each.state is not State.PASS]
    return replace(verdict, checks=(trouble, *others))


def judge_drill(run_dir: Path, name: str) -> DrillVerdict:
    """Judge one drill of a run from its files, with the run's own thresholds; writes nothing."""
    plan = read_plan(run_dir)
    planned = next(each for each in plan.drills if each.name == name)
    return _judge_drill(run_dir, plan, planned, gates.load_thresholds(run_dir / THRESHOLDS_NAME, is_record=True))


def write_reports(run_dir: Path, verdict: RunVerdict) -> None:
    """Write summary.json, SUMMARY.md and gate-results.jsonl. Raises `StorageError`."""
    _write(run_dir / SUMMARY_NAME, report.summary_json(verdict))
    _write(run_dir / "SUMMARY.md", report.summary_markdown(verdict).encode())
    _write(run_dir / "gate-results.jsonl", report.gate_lines(verdict))


def write_page(run_dir: Path, verdict: RunVerdict, of_drills: Sequence[run_page.Shown]) -> Path:
    """Write report.html, with what `show` returned for each drill; returns its path. Raises `StorageError`."""
    path = run_dir / page.NAME
    _write(path, run_page.html(verdict, of_drills).encode())
    return path


def show(run_dir: Path, verdict: DrillVerdict) -> run_page.Shown:
    """Draw a drill, or its first run of several, also as PNG, and explain its failures. Raises `StorageError`.

    Evidence that cannot be read is not shown, because the verdict reports it.
    """
    plan = read_plan(run_dir)
    planned = next((each for each in plan.drills if each.name == verdict.name), None)
    if planned is None or verdict.not_run:
        return run_page.Shown()
    folders = run_folders(run_dir, plan, planned)
    (name, folder), is_only = folders[0], len(folders) == 1
    try:
        history = History(run_header.read_header(folder), parquet.Recorded(folder))
    except EvidenceError:
        return run_page.Shown()
    path = figure_path(run_dir, verdict.name)
    try:
        drawn = run_page.shown(history, verdict, plan.run_id, "" if is_only else name, path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    if verdict.status is State.PASS:
        return drawn
    every = _explained(run_dir, verdict, folders)
    return replace(drawn, explained=tuple(islice((each for each in every if each.failures), _MAX_EXPLAINED)))


def _explained(run_dir: Path, verdict: DrillVerdict, folders: Sequence[tuple[str, Path]]) -> Iterator[run_page.Explained]:
    """The failures of each run of a drill that can be read."""
    limits = gates.load_thresholds(run_dir / THRESHOLDS_NAME, is_record=True)
    for name, folder in folders:
        try:
            drill, history = recorded(folder, folder_of_drill(folder))
        except EvidenceError:
            continue
        if len(folders) == 1:
            yield run_page.explained("", str(folder), drill, history, verdict)
        else:
            own = gates.judge(drill, history, limits, str(folder / parquet.FILE_NAME))
            yield run_page.explained(name, str(folder), drill, history, own)


def run_folders(run_dir: Path, plan: RunPlan, planned: PlannedDrill) -> list[tuple[str, Path]]:
    """The name and the folder of each run of a drill: its only run, its replications, or its variants."""
    if plan.replications > 1:
        wanted = seeds(plan.seed, plan.replications)
        return [(f"{planned.name}:{seed}", replication_folder(run_dir, planned.name, seed)) for seed in wanted]
    if (drill := _drill_with_variants(run_dir, planned)) is not None:
        every = variants.variants_of(drill)
        return [(f"{planned.name}:{one.name}", variant_folder(run_dir, planned.name, one)) for one in every]
    return [(planned.name, drill_folder(run_dir, planned.name))]


def folder_of_drill(folder: Path) -> Path:
    """The folder that has the drill of a run's folder."""
    return folder.parents[1] if folder.parent.name == REPLICATIONS else folder


def drill_folders(run_dir: Path) -> list[Path]:
    """The folders of a plan's drills. Raises as `read_plan` does."""
    return [drill_folder(run_dir, planned.name) for planned in read_plan(run_dir).drills]


def _judge_all(run_dir: Path, plan: RunPlan, thresholds: Thresholds, judged: Mapping[str, DrillVerdict]) -> list[DrillVerdict]:
    verdicts = [judged.get(each.name) or _judge_drill(run_dir, plan, each, thresholds) for each in plan.drills]
    names = {planned.name for planned in plan.drills}
    folders = run_dir / DRILLS
    found = sorted(path.name for path in folders.iterdir() if path.is_dir()) if folders.is_dir() else []
    unplanned = [name for name in found if name not in names]
    return verdicts + [
        gates.unreadable(name, f"{name} is not a drill of this run's plan; remove its folder.", _evidence(name))
        for name in unplanned
    ]


def _judge_drill(run_dir: Path, plan: RunPlan, planned: PlannedDrill, thresholds: Thresholds) -> DrillVerdict:
    if planned.not_run:
        if not drill_folder(run_dir, planned.name).exists():
            return gates.not_run(planned.name, planned.not_run)
        trouble = f"{planned.name} was not to run, but it has a folder; remove the folder."
        return gates.unreadable(planned.name, trouble, _evidence(planned.name))
    if plan.replications == 1:
        drill = _drill_with_variants(run_dir, planned)
        if drill is not None:
            return _judge_variants(run_dir, plan, planned, drill, thresholds)
        return _judge_one(run_dir, plan, planned, plan.seed, thresholds)
    wanted = seeds(plan.seed, plan.replications)
    verdicts = {seed: _judge_one(run_dir, plan, planned, seed, thresholds) for seed in wanted}
    verdict = combined.combine(verdicts, thresholds)
    found = drill_folder(run_dir, planned.name) / REPLICATIONS
    names = sorted(path.name for path in found.iterdir()) if found.is_dir() else []
    if unplanned := [name for name in names if name not in map(str, wanted)]:
        trouble = f"{found / unplanned[0]}: is not a replication of this run's plan."
        return replace(verdict, checks=(gates.read_evidence(_evidence(planned.name), 0, trouble), *verdict.checks))
    return verdict


def _judge_one(run_dir: Path, plan: RunPlan, planned: PlannedDrill, seed: int, thresholds: Thresholds) -> DrillVerdict:
    """Judge one run of a drill: its only run, or one of its replications."""
    folder = _folder(run_dir, plan, planned.name, seed)
    evidence = (folder / parquet.FILE_NAME).relative_to(run_dir).as_posix()
    try:
        if not folder.is_dir():
            what = "drill" if plan.replications == 1 else "replication"
            raise EvidenceError(f"{folder}: the {what} was planned, but its folder is missing.")
        if not (folder / run_header.HEADER_NAME).exists():
            raise EvidenceError(f"{folder}: has no {run_header.HEADER_NAME}, so it never started, or lost the file.")
        drill = read_drill(drill_folder(run_dir, planned.name), planned)
        return gates.judge(drill, recorded_of(folder, plan, planned, seed, drill), thresholds, evidence)
    except EvidenceError as error:
        return salvage(folder, gates.unreadable(planned.name, str(error), evidence))


def _drill_with_variants(run_dir: Path, planned: PlannedDrill) -> Drill | None:
    """The drill, if it has variants; None for any other, and for one that cannot be read."""
    try:
        drill = read_drill(drill_folder(run_dir, planned.name), planned)
    except EvidenceError:
        return None  # judging it as a drill without variants reports why
    return drill if drill.variants else None


def _judge_variants(run_dir: Path, plan: RunPlan, planned: PlannedDrill, drill: Drill, thresholds: Thresholds) -> DrillVerdict:
    """Judge each variant of a drill, and compare them."""
    verdicts: dict[str, DrillVerdict] = {}
    accounts: dict[str, parity.Account] = {}  # summaries are small, so only one history is in memory at a time
    wanted = variants.variants_of(drill)
    for each in wanted:
        folder = variant_folder(run_dir, drill.name, each)
        evidence = (folder / parquet.FILE_NAME).relative_to(run_dir).as_posix()
        try:
            variant = each.variant(drill)
            here = PlannedDrill(variant.name, digest_of(folder / DRILL_NAME, variant))
            history = recorded_of(folder, msgspec.structs.replace(plan, engine=each.engine), here, plan.seed, variant)
            verdicts[each.name] = gates.judge(variant, history, thresholds, evidence)
            accounts[each.name] = parity.account(history)
        except EvidenceError as error:
            verdicts[each.name] = salvage(folder, gates.unreadable(drill.name, str(error), evidence))
    verdict = variants.combine(drill, verdicts, accounts, f"{DRILLS}/{drill.name}/{_VARIANTS}")
    found = drill_folder(run_dir, drill.name) / _VARIANTS
    names = sorted(path.name for path in found.iterdir()) if found.is_dir() else []
    if unplanned := [name for name in names if name not in {each.name for each in wanted}]:
        trouble = f"{found / unplanned[0]}: is not a variant of this run's drill."
        return replace(verdict, checks=(gates.read_evidence(_evidence(planned.name), 0, trouble), *verdict.checks))
    return verdict


def _folder(run_dir: Path, plan: RunPlan, name: str, seed: int) -> Path:
    return drill_folder(run_dir, name) if plan.replications == 1 else replication_folder(run_dir, name, seed)


def _notes(plan: RunPlan, path: Path, sha256: str) -> tuple[str, ...]:
    ran = [drill for drill in plan.drills if not drill.not_run]
    if not ran:
        return ("No drill was run.",)
    notes = [SIMULATED[plan.engine]] if plan.engine in SIMULATED else []
    if plan.target_kind == "mock" and not notes:
        notes.append("The target was the embedded mock, so this does not describe a deployed runtime.")
    elif not notes:
        notes.append(f"The target was '{plan.target}', of kind {plan.target_kind}, as its operators have configured it.")
    if plan.replications != 1:
        last = plan.seed + plan.replications - 1
        notes.append(f"Each drill ran {plan.replications} times, with the seeds {plan.seed} to {last}; metrics are means.")
    if plan.tool_version and plan.tool_version != version("stormgate"):
        notes.append(f"Recorded by stormgate {plan.tool_version}, judged by {version('stormgate')}.")
    if sha256 != plan.thresholds_sha256:
        notes.append(f"Judged with {path}, which differs from the thresholds that this run recorded.")
    if sha256 != bounded_reads.file_sha256(DEFAULT_PATH):
        notes.append("The thresholds differ from those that this version of stormgate ships.")
    for name in (drill.name for drill in ran if not _as_shipped(drill)):
        notes.append(f"{name} differs from the drill of that name that this version of stormgate ships.")
    return tuple(notes)


def _as_shipped(planned: PlannedDrill) -> bool:
    """Whether a drill is unchanged: False for a catalogue drill with other settings. Drills of other names are not compared."""
    path = catalog.catalogue().get(planned.name)
    return path is None or load_drill(path).digest() == planned.sha256


def _evidence(name: str) -> str:
    return f"{DRILLS}/{name}/{parquet.FILE_NAME}"


def _write(path: Path, content: bytes) -> None:
    write_whole(path, content, _REMEDY)


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror}); {_REMEDY}.")
