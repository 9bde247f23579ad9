"""Rehearse the rollback: make its changes, observe each of them, and restore everything.

Imported by `report`, `hold` and the command line.
"""
