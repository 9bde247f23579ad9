"""`make mutants`: samples mutants of the judges, the record, sessions and the server core, and says which no fast test kills.

Exit code 0: at least 95 % of the real ones were killed; 1: fewer, or not all were tried in time; 3: a path without modules;
4: the tests fail without a mutant, too; 130: interrupted.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.trials import Copy, Trial, UnchangedFailedError, equivalents

ROOT = Path(__file__).parents[2]
PATHS = ("drills/judging", "sim/analysis", "sim/client", "sim/record", "sim/server")
SCORE = 0.95  # [ours] of the real mutants
COUNT, MINUTES = 40, 10.0
ENOUGH, TOO_FEW, USAGE, RED, STOPPED = 0, 1, 3, 4, 130


def modules(root: Path, paths: Sequence[str]) -> list[str]:
    """The modules at these paths; those that only say what their package is for have nothing to change."""
    found = [
        path for name in paths for path in ([root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py")))
    ]
    return list(dict.fromkeys(path.relative_to(root).as_posix() for path in found if path.name != "__init__.py"))


def sample(root: Path, names: Sequence[str], seed: int) -> Iterator[Mutant]:
    """Mutants in random order: one of each module, then the next of each, and so on; of a module each line is as likely."""
    rng = random.Random(seed)
    left = {name: mutants_of(root, name) for name in names}
    while left := {name: mutants for name, mutants in left.items() if mutants}:
        for name in rng.sample(sorted(left), len(left)):
            line = rng.choice(sorted({mutant.line for mutant in left[name]}))
            mutant = rng.choice([mutant for mutant in left[name] if mutant.line == line])
            left[name].remove(mutant)
            if mutant.is_real():
                yield mutant


def run(root: Path, mutants: Sequence[Mutant], until: float) -> list[Trial]:
    """Try the mutants until a moment of the monotonic clock, and print each. Raises `UnchangedFailedError`."""
    reasons = equivalents(root)
    trials, real = [], []
    for mutant in mutants:
        if reason := reasons.get((mutant.module, mutant.was, mutant.becomes)):
            trials.append(Trial(mutant, "equivalent", reason))
        else:
            real.append(mutant)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(root, Path(folder))
        left = []
        with closing(copy.quick(real)) as quick:
            for mutant, trial in zip(real, quick, strict=False):
                if trial is not None:
                    trials.append(shown(trial))
                else:
                    left.append(mutant)
                    print(f"{'later':10} {mutant.module}:{mutant.line} {mutant.operator}", flush=True)
                if time.monotonic() >= until:
                    return trials
        for mutant in left:
            if time.monotonic() >= until:
                break
            trials.append(shown(copy.tried(mutant)))
    return trials


def shown(trial: Trial) -> Trial:
    """Print what came of a mutant, and of one that survived the change."""
    mutant = trial.mutant
    print(f"{trial.outcome:10} {mutant.module}:{mutant.line} {mutant.operator}  {trial.why}", flush=True)
    if trial.outcome == "survived":
        print(mutant.diff, flush=True)
    return trial


def summary(trials: Sequence[Trial], wanted: int) -> tuple[str, int]:
    """A table by package, and the exit code."""
    lines = [f"{'package':32} {'sampled':>8} {'killed':>8} {'equivalent':>11} {'survived':>9}"]
    counts = Counter((Path(trial.mutant.module).parent.as_posix(), trial.outcome) for trial in trials)
    for package in sorted({package for package, _ in counts}):
        killed, equivalent, survived = (counts[package, outcome] for outcome in ("killed", "equivalent", "survived"))
        lines.append(f"{package:32} {killed + equivalent + survived:8} {killed:8} {equivalent:11} {survived:9}")
    killed, real = (sum(trial.outcome in which for trial in trials) for which in (("killed",), ("killed", "survived")))
    lines.append(
        f"{killed} of {real} real mutants were killed" + (f" ({killed / real:.1%}); {SCORE:.0%} are wanted" if real else "")
    )
    if len(trials) < wanted:
        lines.append(f"only {len(trials)} of {wanted} mutants were tried in time")
    return "\n".join(lines), ENOUGH if real and killed >= SCORE * real and len(trials) == wanted else TOO_FEW


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Try mutants of the code that decides.")
    parser.add_argument("paths", nargs="*", default=PATHS, metavar="PATH", help="modules or folders (default: %(default)s)")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the sample, or of each of several (default: 1)")
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants of each seed (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no new mutant after these (default: %(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to mutate a copy of (default: this one)")
    asked = parser.parse_args(arguments)
    until = time.monotonic() + asked.minutes * 60
    if missing := [path for path in asked.paths if not modules(asked.root, [path]) or not (asked.root / path).exists()]:
        print(f"no modules at {', '.join(missing)}", file=sys.stderr)
        return USAGE
    samples = (sample(asked.root, modules(asked.root, asked.paths), seed) for seed in asked.seed)
    mutants = list(dict.fromkeys(chain.from_iterable(islice(each, asked.count) for each in samples)))
    try:
        text, code = summary(run(asked.root, mutants, until), len(mutants))
    except UnchangedFailedError as error:
        print(f"these tests fail without a mutant, too:\n{error}", file=sys.stderr)
        return RED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STOPPED
    print(text)
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
