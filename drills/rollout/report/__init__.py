"""Write a stage's report: JSON, Markdown, HTML, JUnit, schemas, the operators' forms; verify it later, and explain checks.

It decides nothing. `hold` and the command line import it.
"""
