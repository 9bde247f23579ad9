"""Ask the target's servers for metrics, revisions and the routing of the cohort.

The packages preflight, verdict, rollback, report and hold of `drills.rollout` import it.
"""
