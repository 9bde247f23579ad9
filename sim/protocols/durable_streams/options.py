"""The options of a target that speaks Durable Streams."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from sim.base.errors import UsageError

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[targets.NAME.protocol_options]`."""

    live: Literal["sse", "long-poll"] = "sse"  # how clients wait for new messages
    long_poll_timeout_s: Seconds = 30.0  # the server's: it sends something at least this often
    bearer: bool = False  # send the token in the header Authorization; the server itself has no authentication


def read(options: Mapping[str, object]) -> Options:
    """Read the options of a target file. Raises `UsageError`."""
    try:
        return msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise UsageError(f"protocol_options: {error}; expected the keys {', '.join(Options.__struct_fields__)}.") from None
