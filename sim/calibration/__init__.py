"""Calibration: fitting a system model to a measured target.

`drills` defines small drills, `measuring` runs them, `estimates` reads numbers from their histories, `fitting` makes a model of
these, `agreement` corrects it by simulating the same drills, `files` reads and writes it. Only `drills` and notebooks import
it; it imports the drill model, the record and the analysis.
"""
