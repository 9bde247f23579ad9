"""Realtime servers of others, started on this machine to be drilled: how each is installed, configured, started and described.

One module a server, with its `RECIPE`. The commands and the tests may import this package; it imports nothing of theirs.
"""
