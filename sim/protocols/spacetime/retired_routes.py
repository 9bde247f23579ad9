"""Retired routes of the runtime. They must answer 404, because an old client would trust any other answer."""

from typing import Final

RETIRED: Final = (
    ("GET", "/internal/v1/spacetime/topics/run:stormgate:events/messages"),
    ("POST", "/internal/v1/spacetime/fanout/hooks"),
    ("GET", "/internal/v1/spacetime/fanout/metrics"),
)
