from pathlib import Path

CATALOG = Path(__file__).with_name("catalog")
"""The drills that this version ships, one file each."""
