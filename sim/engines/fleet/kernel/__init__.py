"""The compiled code of the fleet engine: one world of arrays, advanced event by event.

Only `sim.engines.fleet` imports it.
"""
