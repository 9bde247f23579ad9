"""The embedded mock: the simulated service of `sim/server` behind real HTTP and WebSocket, its log in SQLite.

Imported by engines, the command line and load tests; it imports no engine.
"""
