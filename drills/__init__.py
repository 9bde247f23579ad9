"""Drill files, thresholds and stages as data, and the packages that run, judge and report them.

Imported by `locustfiles` and the notebooks; imports `sim`.
"""

from pathlib import Path

DATA = Path(__file__).parent
CATALOG = DATA / "catalog"
"""The drills that this version ships, one file each."""
EXAMPLES = DATA / "examples"
"""Drills that run by name only, example sweeps and CI files."""
