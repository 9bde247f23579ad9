"""The setup of a stage: the stages file, its target, the record types and files of a run, and the journal.

All packages of `drills.rollout` import it.
"""
