"""Engines: each takes a drill and gives observations; none knows of another."""
