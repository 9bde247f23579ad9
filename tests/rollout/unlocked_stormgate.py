"""`stormgate` whose stages need no signed stage before them, and whose holds are green: for tests of what a process shows."""

import sys

from drills.cli import main
from drills.judging.checks.verdicts import State
from drills.rollout.hold import stage_run, unlock
from drills.rollout.hold.hold import Evaluation

if __name__ == "__main__":
    unlock.require_unlocked = lambda *_: None
    stage_run.judge_of = lambda run: lambda began, ended: Evaluation((), State.PASS)
    sys.exit(main.run_words(sys.argv[1:]))
