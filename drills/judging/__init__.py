"""Judge recorded observations: compute the checks, and combine them into the verdict of a drill.

It reads `sim.record` and `sim.analysis`, runs nothing and writes nothing. Every other package of `drills` may import it.
"""
