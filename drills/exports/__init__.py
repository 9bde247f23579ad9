"""What a running drill or hold shows to other tools: metrics and its state over HTTP, and traces of what was recorded.

It reads the record only, and decides nothing. `drills.rollout.hold` and `drills.cli` may import it.
"""
