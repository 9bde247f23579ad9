"""The clients of one Locust process, and what they observe.

Imported by `locustfiles.load.workers` and `locustfiles.load.run`.
"""
