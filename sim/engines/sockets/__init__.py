"""The sockets engine: real processes and real WebSockets on asyncio, through a fault proxy where a drill needs one.

Imported by rollout, planning and the command line; it imports no other engine but `shared`.
"""
