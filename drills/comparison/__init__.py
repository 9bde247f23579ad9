"""Compare runs, sets of replications and stages: what got better or worse, with intervals, under equal conditions.

It reads records only and runs nothing. Only the command line imports it.
"""
