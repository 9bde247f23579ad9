"""The checks: their registry and thresholds, how each decides about a run, and the results that they return.

`drills.judging` runs them on a drill; `drills.rollout.verdict` uses the registry for a stage's window.
"""
