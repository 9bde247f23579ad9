"""Socket.IO 4 with connection state recovery: one WebSocket, opaque positions, and a join that resumes all streams at once.

`protocol.py` registers it. Other code gets it from `sim.protocols.registry`.
"""
