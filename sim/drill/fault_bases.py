"""The base classes of faults. All durations are in seconds. `at_s` counts from the start of the fault phase."""

import msgspec

from sim.server.settings import LiveFault, NotNegative, Positive, Share

SwitchValue = float | int | bool | str | LiveFault


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all faults."""

    at_s: NotNegative  # start of the fault, from the start of the fault phase

    @property
    def kind(self) -> str:
        """The name that drill files use."""
        return str(self.__struct_config__.tag)

    @property
    def duration_key(self) -> str:
        """Name of the parameter that holds the duration; empty for a fault without a duration."""
        return next((name for name in ("for_s", "down_s", "offline_s") if name in self.__struct_fields__), "")

    @property
    def parts(self) -> int:
        """Number of entries in the fault schedule."""
        return 1

    @property
    def lasts_s(self) -> float:
        """Time until the fault is reverted, in seconds."""
        return float(getattr(self, self.duration_key)) if self.duration_key else 0.0


class ClientFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of faults that affect a share of the clients. The seed selects them."""

    share: Share = 1.0  # share of the clients that are affected


class SwitchFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of faults that turn on switches of the server for `for_s`.

    The server counts how often each fault took effect (`Counters.acted`). This count is the observed effect.
    """

    for_s: Positive  # duration

    def switches(self) -> dict[str, SwitchValue]:
        """Return the values that the fault changes in `Switches`."""
        raise NotImplementedError
