"""Judge a stage from the files of its folder: gates, requirements, blockers and the decision.

It runs and writes nothing. `rollback`, `report`, `hold` and the command line import it.
"""
