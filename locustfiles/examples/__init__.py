"""Locustfiles for servers that others wrote: the clients speak the protocol of the target.

Nothing imports them; they import `locustfiles.load`.
"""
