"""A drill: its model, its faults and their schedule, and the runner of its phases.

All packages below `sim.drill` in the table of `tests/test_layers.py` may import it; it imports no engine.
"""
