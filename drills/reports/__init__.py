"""Reports: a verdict as JSON, as Markdown and on a terminal, and the progress of a run. They decide nothing.

Every package that shows verdicts to people may import it. It imports `drills.judging`.
"""
