"""Load tests of a sync lane in Locust: a run here is a drill's run, with its evidence, gates and verdict."""
