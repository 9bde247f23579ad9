"""Judging: from recorded observations to checks, and from checks to the verdict of a drill.

It reads `sim.record` and `sim.analysis`, runs nothing and writes nothing. Every other package of `drills` may import it.
"""
