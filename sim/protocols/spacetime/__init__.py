"""The protocol `spacetime`: Phoenix Channels with the `sync:v1` channel, its client and server sides, and its HTTP names.

`adapter` and `server` translate between `frames` and intents or events; `codec` has the JSON. Imported by drivers and the mock.
"""
