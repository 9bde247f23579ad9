"""Retired routes of the runtime, which must answer 404: an old client that finds one would trust its answer."""

from typing import Final

RETIRED: Final = (
    ("GET", "/internal/v1/spacetime/topics/run:stormgate:events/messages"),
    ("POST", "/internal/v1/spacetime/fanout/hooks"),
    ("GET", "/internal/v1/spacetime/fanout/metrics"),
)
