"""The simulated service as pure code: logs, subscriptions, fan-out, tokens, settings and misbehaviours.

It takes intents and gives events (`sim.protocols`). Served by `sim/mock` and the virtual engine; its settings are read by all.
"""
