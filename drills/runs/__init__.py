"""Runs: find drills and targets, run drills into a results folder, and judge that folder.

Planning, rollouts, the command line and load tests use it. It imports `sim`, `drills.judging` and `drills.reports`.
"""
