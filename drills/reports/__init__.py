"""Reports: a verdict as JSON, Markdown and on a terminal, and the progress of a run. Nothing here decides anything.

Everything that shows verdicts to people may import it. It imports `drills.judging`.
"""
