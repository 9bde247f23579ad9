"""Realtime servers of others, started on this machine to be drilled: how each is installed, configured, started and described.

The mock can be started in the same way, as if it were somebody else's staging service (`practice`).

One module a server, with its `RECIPE`. The commands and the tests may import this package; it imports nothing of theirs.
"""
