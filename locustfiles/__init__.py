"""Locustfiles to run, copy and change: each runs a drill as a load test, with its evidence, gates and verdict.

Nothing imports them; they import `locustfiles.load`.
"""
