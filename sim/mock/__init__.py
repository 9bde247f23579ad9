"""The embedded mock: the simulated service of `sim/server` behind real HTTP and WebSocket, with its log in SQLite.

Engines, the command line and load tests import it; it imports no engine.
"""
