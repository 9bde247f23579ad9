"""The preflight (stage 0): preconditions, and drills in separate processes.

The packages `verdict`, `rollback`, `report` and `hold` import it.
"""
