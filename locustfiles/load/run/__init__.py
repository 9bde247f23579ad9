"""One run as a load test: options, phases, faults, verdict; and the conductor that connects it to Locust.

Imported by `locustfiles.load.web` and `locustfiles.load`.
"""
