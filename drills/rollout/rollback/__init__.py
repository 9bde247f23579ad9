"""Rehearsing the rollback: what is changed, how each change is observed, and that everything is restored.

Imported by `report`, `hold` and the command line.
"""
