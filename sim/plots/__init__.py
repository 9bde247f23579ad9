"""Figures of runs (`runs`), of sweeps and searches (`sweeps`), and of recovery and predictions (`planning`), with one `style`.

They draw histories and the data frames of `sim.planning.tables`, and compute nothing else. Planning, `drills` and notebooks
import them; they import the record and the analysis.
"""
