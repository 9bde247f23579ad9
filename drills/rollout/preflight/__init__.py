"""The preflight (stage 0): preconditions, and drills in processes of their own.

Imported by `verdict`, `rollback`, `report` and `hold`.
"""
