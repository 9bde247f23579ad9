"""Distributed runs: typed messages between master and workers, the shared clock, the transport of observations.

Imported by `locustfiles.load.run`.
"""
