"""The command line `stormgate`: one module per command group, over everything else in `drills` and `sim`.

It reads options, prints results and sets the exit code; the other packages do the work. Only `drills.__main__` imports it.
"""
