"""The options of a rollout. The journal keeps those of each stage run, so that later commands need none of them."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from drills.rollout.hold import rollouts
from drills.rollout.setup.journal import Entry
from drills.runs import targets
from sim.base.errors import UsageError


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line names. An empty value: not given, or, in the journal, the default."""

    target: str = ""
    targets: str = ""  # this path and the following are absolute
    stages: str = ""
    thresholds: str = ""

    @classmethod
    def given(cls, target: str, targets: Path | None, stages: Path | None, thresholds: Path | None) -> "Options":
        """Return the options of a command line."""
        paths = {"targets": targets, "stages": stages, "thresholds": thresholds}
        return cls(target=target, **{name: str(path.resolve()) if path else "" for name, path in paths.items()})


def settled(given: Options, entries: Sequence[Entry], stage: str) -> Options:
    """Complete the given options by those that the rollout's journal has.

    A hold that is under way keeps its options: another value raises `UsageError` with both. In a new run, a given option
    counts, and the others are those of the latest run.
    """
    left = rollouts.under_way(entries, stage)
    if left is not None:
        kept = _kept(left.started)
        for name in Options.__struct_fields__:
            new, old = getattr(given, name), getattr(kept, name)
            if new and new != old:
                raise UsageError(
                    f"--{name} {new}: the hold that is under way ({left.run_id}) was started with {old or 'the default'}; "
                    f"leave --{name} out to resume it."
                )
        return kept
    kept = latest(entries)
    chosen = {name: getattr(given, name) or getattr(kept, name) for name in Options.__struct_fields__}
    return _with_file_of_targets(Options(**chosen))


def latest(entries: Sequence[Entry]) -> Options:
    """Return the options of the rollout's latest run; all empty before the first."""
    runs = rollouts.runs(entries)
    return _kept(runs[-1].started) if runs else Options()


def _with_file_of_targets(options: Options) -> Options:
    """Name the targets file that a target without one is looked up in: a resumed hold may run in another folder."""
    if options.targets or options.target in ("", targets.EMBEDDED) or "://" in options.target:
        return options
    return msgspec.structs.replace(options, targets=str(targets.DEFAULT_FILE.resolve()))


def _kept(started: Entry) -> Options:
    return msgspec.convert(started.body.get("options", {}), Options)
