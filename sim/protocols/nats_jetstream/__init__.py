"""NATS JetStream over the server's WebSocket listener: one ephemeral push consumer a subscription, positions of the stream.

`protocol.py` registers it. Other code gets it from `sim.protocols.registry`.
"""
