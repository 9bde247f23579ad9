"""The record of a run: observations in columns and Parquet files, the run header, and views for analysis.

`history` gives observations as arrays, `ledger` matches deliveries with publishes, `tally` holds the counts of a fleet run.
Engines, analysis and everything below them import it; it imports only `sim.base`.
"""
