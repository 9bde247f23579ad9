"""Benchmarks: how fast mock and engine are, side by side in one run with plain `websockets` clients."""
