"""The machine of a run: whether processes that matter to it got the processor time that they wanted, its clocks, and how
much of that time Python's garbage collector takes.
"""
