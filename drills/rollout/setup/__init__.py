"""What a stage is set up with: the stages file, its target, the record types and files of a run, the journal.

Imported by all packages of `drills.rollout`.
"""
