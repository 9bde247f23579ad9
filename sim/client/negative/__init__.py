"""Negative clients: sessions that also try what must be refused, and note the answer.

The engines choose them by name from `registry`; `drills/judging` reads which answers are right.
"""
