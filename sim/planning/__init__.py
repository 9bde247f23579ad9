"""Planning: sweeps of a drill over parameters, and searches for the largest, smallest or best value, in simulation.

`sweep_file` is the input, `designs` its points, `runs` and `cluster` simulate them, `store` keeps the results, `tables` are the
data frames. `drills.planning`, `drills.runs` and notebooks import it; it imports the engines, the analysis and the plots.
"""
