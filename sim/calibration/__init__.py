"""Calibration: a system model fitted to a target that was measured, and what such a model foretells of a storm it did not see.

`probes.py` are the small drills that measure, `measuring.py` runs them, `estimates.py` reads single numbers from what one left,
`fitting.py` makes a model of these, `agreement.py` brings it nearer to its probes, `files.py` writes and reads it.
"""
