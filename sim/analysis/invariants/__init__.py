"""Invariants: what must hold in every run, whatever the thresholds. One module for each subject, one table of all: `registry`.

Pure functions of a history and its ledger, over the rest of `sim.analysis`. `drills` imports them.
"""
