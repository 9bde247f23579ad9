"""Calibration: a system model fitted to a target that was measured, and what such a model foretells of a storm it did not see.

`probes.py` are the small drills that measure, `estimates.py` reads single numbers from what they left, `fitting.py` makes a
model of these, `files.py` writes and reads it.
"""
