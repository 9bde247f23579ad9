"""What will fail of a stage, found before it starts, and the calendar of the whole rollout.

Only the command line imports this.
"""
