"""What the target's servers report: sampled metrics, revisions, the cohort's routing.

Imported by the packages of `drills.rollout` below: preflight, verdict, rollback, report, hold.
"""
