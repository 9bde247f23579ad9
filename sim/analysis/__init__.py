"""Analysis of a recorded run: invariants, metrics, samples for checks, statistics, and the comparison of variants.

Pure functions of a `History`; none of them decides pass or fail. Plots, planning, calibration and `drills` import it.
It imports `sim.record`, and must not import an engine.
"""
