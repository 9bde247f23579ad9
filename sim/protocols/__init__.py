"""The seam between sessions and servers: positions, intents, events, capabilities, and one package for each protocol.

Only a protocol's own package knows its wire names. Everything but `sim/base` may import it.
"""
