"""The description of a target: a new annotated file, and a check that tries every item of it once.

`drills/rollout/preflight` checks its preconditions with the same requests; `drills/cli` prints the results.
"""
