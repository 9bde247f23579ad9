"""The operators' sync runtime on Phoenix Channels: four shared topics, one WebSocket, positions of the authority's log.

`protocol.py` registers it. Other code gets it from `sim.protocols.registry`.
"""
