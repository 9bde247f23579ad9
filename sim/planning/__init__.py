"""Planning: what a lane of another size, with other clients or another model, would do in a storm.

`sweeps.py` reads what is asked, `designs.py` makes its points, `runs.py` simulates them, `cluster.py` does so on other
machines, `store.py` keeps what came of each, `tables.py` makes data frames of it, `search.py` looks for the largest, smallest
or best that will do.
"""
