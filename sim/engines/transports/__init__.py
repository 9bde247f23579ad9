"""The client's end of one connection, without I/O: a WebSocket, an SSE stream or a long poll.

The engines over sockets add the I/O. Nothing here knows sessions or protocols, and nothing waits.
"""
