"""`stormgate plan`: sweeps and searches judged by the gates, their reports and figures, and the calibration of a target.

Only `drills.cli` imports it. It imports `sim.planning`, `sim.calibration`, `sim.plots`, `drills.judging` and `drills.runs`.
"""
