"""Code that engines share: targets, service requests, fault actions, publishing and stop conditions, mostly without I/O.

All engines, `drills` and `locustfiles` may import it; it imports no engine.
"""
