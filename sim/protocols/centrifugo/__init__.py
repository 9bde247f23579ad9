"""Centrifugo: many channels on one WebSocket, JSON commands and answers, positions of an offset and an epoch.

`protocol.py` registers it. Other code gets it from `sim.protocols.registry`.
"""
