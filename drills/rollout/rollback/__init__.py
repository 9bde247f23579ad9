"""Rehearse the rollback: make its changes, observe each of them, and restore everything.

The packages `report` and `hold` and the command line import it.
"""
