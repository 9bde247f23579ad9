"""What runs that were killed left behind: seen, cleaned up where nobody can miss it, and told in a sentence each.

A run that ends in any other way leaves nothing. One that is killed (SIGKILL, the machine) leaves its runtime's temporary
folder, which has signing keys in it and is removed, and its own unfinished folder, which is evidence and is kept. Runs that
are still going on are known by the locks they hold, and are let alone.
"""

from pathlib import Path

from sim.base.ownership import MARK_NAME, STATE_PREFIX, Mark, is_left_over, remove_leftovers


def mark(run_dir: Path) -> Mark:
    """Say that a run is going on in its folder, until the mark is removed."""
    return Mark(run_dir / MARK_NAME)


def clean_up(out: Path) -> list[str]:
    """Clean up after killed runs, those with folders under `out` among them; returns what there was, a sentence each."""
    found = []
    if gone := remove_leftovers(STATE_PREFIX):
        found.append(f"removed what a killed run left behind: {', '.join(map(str, gone))}.")
    for left in sorted(out.glob(f"*/{MARK_NAME}")):
        if is_left_over(left):
            left.unlink(missing_ok=True)  # told once
            found.append(f"{left.parent}: this run was killed before its end; `stormgate judge` shows what it had.")
    return found
