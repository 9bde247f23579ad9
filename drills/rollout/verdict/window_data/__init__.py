"""The evidence of a stage's window, and the ways to decide: by servers' counters or by the observations of clients.

`window_checks` and the other modules of `verdict` import it.
"""
