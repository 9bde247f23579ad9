"""The fleet engine: reconnect storms of millions of clients, by compiled code over arrays.

Imported by planning, calibration and the command line; it imports no other engine but `shared`.
"""
