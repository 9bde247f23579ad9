"""Processes that the proofs start: each has a time limit, and reverts its faults before it ends."""

import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

END_S = 30.0  # [ours] for a drill that is to end, to revert its faults
_LOOK_EVERY_S = 0.1


def bounded(command: Sequence[str], log: Path, limit_s: float, stop: threading.Event) -> int | None:
    """Run a command for at most `limit_s`, or until `stop`, with its output in `log`.

    Return its exit code, or None if it was ended.
    """
    began = time.monotonic()
    with log.open("w") as output:
        # In a session of its own, for Ctrl-C to reach it once and by us.
        child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        while child.poll() is None and time.monotonic() - began < limit_s and not stop.wait(_LOOK_EVERY_S):
            pass
        code = child.poll()
        if code is None:
            child.terminate()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    return code
