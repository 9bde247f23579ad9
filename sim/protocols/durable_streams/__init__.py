"""Durable Streams: append-only streams over plain HTTP, one request for each stream, read by SSE or long polls.

Only `sim.protocols.registry` imports this package, and tests.
"""
