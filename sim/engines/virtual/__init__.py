"""The virtual engine: real sessions and the simulated service in simulated time, on SimPy.

Imported by planning, calibration and the command line; it imports no other engine but `shared`.
"""
