"""The machine that a run is on: whether processes that matter to it got the processor time that they wanted, and its clocks."""
