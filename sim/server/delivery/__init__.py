"""What each connection of the simulated service gets next: fan-out, replays, and faults of live updates. No input or output.

The runtimes of `sim.server` import it.
"""
