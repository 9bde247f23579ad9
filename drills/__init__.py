"""Drill files, thresholds and stages as data, and the packages that run, judge and report them.

`locustfiles` and the notebooks import it. It imports `sim`.
"""

from pathlib import Path

DATA = Path(__file__).parent
CATALOG = DATA / "catalog"
"""The drills that this version ships, one file each."""
BY_NAME = CATALOG / "by_name"  # drills that delete what a service stores
EXAMPLES = DATA / "examples"
"""Example drills, which run only by name, example sweeps and CI files."""
