"""The sockets engine: real processes and real WebSockets on asyncio, through a fault proxy where a drill needs one.

Rollout, planning and the command line import it; it imports no other engine except `shared`.
"""
