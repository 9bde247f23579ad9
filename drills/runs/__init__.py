"""Runs: which drills and targets there are, running them into a results folder, and judging that folder.

Planning, rollouts, the command line and load tests use it. It imports `sim`, `drills.judging` and `drills.reports`.
"""
