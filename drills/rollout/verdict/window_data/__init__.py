"""The evidence of a stage's window, and the ways to decide on it: by servers' counters or by what clients observed.

`window_checks` and the rest of `verdict` import it.
"""
