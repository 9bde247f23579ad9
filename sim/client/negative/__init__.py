"""Negative clients: sessions that also send requests that must be refused, and record the answers.

The engines choose them by name from `registry`; `drills/judging` checks the answers.
"""
