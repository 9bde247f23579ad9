"""What every package needs: errors, counter-based randomness, clocks, atomic files, TOML settings, processes.

Imported by all packages; it imports none of them.
"""
