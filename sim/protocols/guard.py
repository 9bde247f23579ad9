"""Calls the code of a protocol that a package adds. What it does wrong is one `AdapterError`, never the target's fault.

Checked are exceptions, the types of all that it returns, and the CPU time of each call. Shipped protocols are not guarded.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from traceback import extract_tb
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from sim.base.clocks import CpuLimit, CpuLimitError
from sim.base.errors import AdapterError, StormgateError
from sim.protocols.adapter import Action, Capabilities, Connection, Credentials, Positions, TransportEnd
from sim.protocols.events import Message, Position
from sim.protocols.intents import Intent

_LIMIT = CpuLimit(5.0)  # [ours] for each call
_MAX_SHOWN = 200  # characters of what was given to a package, or of what it returned
_NOT_PRINTABLE = re.compile("[^ -~]")
T = TypeVar("T")


class GuardedConnection:
    """An adapter's `Connection`. `client` says whose it is, for errors."""

    def __init__(self, inner: Connection, protocol: str, able: Capabilities, client: str) -> None:
        self._inner = inner
        self._protocol, self._client = protocol, client
        self._has_numbers = able.positions is not Positions.OPAQUE

    def actions(self) -> list[Action]:
        """See `Connection`."""
        return self._checked(self._inner.actions, (), (), list[Action])

    def connect(self, credentials: Credentials) -> Message:
        """See `Connection`. No error shows the credentials."""
        return self._checked(self._inner.connect, (credentials,), (), Message)

    def send(self, intent: Intent) -> Message:
        """See `Connection`. An error shows the kind of an intent only, because some hold a token."""
        return self._checked(self._inner.send, (intent,), (type(intent).__name__,), Message)

    def opened(self, id: int, status: int, headers: Mapping[str, str]) -> Message:
        """See `Connection`. Errors show the names of headers only, as their values may be secret."""
        return self._checked(self._inner.opened, (id, status, headers), (id, status, *headers), Message)

    def received(self, id: int, data: bytes, is_text: bool) -> Message:
        """See `Connection`."""
        return self._checked(self._inner.received, (id, data, is_text), (id, data, is_text), Message)

    def closed(self, id: int, end: TransportEnd) -> Message:
        """See `Connection`."""
        shown = msgspec.structs.replace(end, headers={})
        return self._checked(self._inner.closed, (id, end), (id, shown), Message)

    def _checked(self, method: Callable[..., T], given: tuple[object, ...], shown: tuple[object, ...], kind: object) -> T:
        name = f"{type(self._inner).__name__}.{method.__name__}"
        with_client = f", for {self._client}" if self._client else ""
        result = _called(self._protocol, name, method, given, shown, with_client)
        if wrong := _wrong(result, kind, "", self._has_numbers):
            raise _error(self._protocol, name, f"returned {wrong}{with_client}", shown)
        return result


def _called(
    protocol: str,
    name: str,
    method: Callable[..., T],
    given: tuple[object, ...],
    shown: tuple[object, ...] = (),
    whose: str = "",
    passes: tuple[type[Exception], ...] = (),
) -> T:
    """Call a package's function. Raise `AdapterError` for what it raises, apart from `passes`, and after too much CPU time."""
    try:
        with _LIMIT:
            return method(*given)
    except CpuLimitError:
        raise _error(protocol, name, f"did not end within {_LIMIT.limit_s:g} s of CPU time{whose}", shown) from None
    except passes:
        raise
    except Exception as error:
        where = extract_tb(error.__traceback__)[-1]
        what = _short(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        at = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        raise _error(protocol, name, f"raised {what}, at {at}{whose}", shown) from error


def guarded_functions(protocol: str, forms: T) -> T:
    """Return a dataclass with each of its functions guarded, and those of the dataclasses in it.

    Our own errors pass: functions raise them on purpose, for wrong options or malformed frames.
    """

    def guarded(name: str, value: Any) -> Any:
        if is_dataclass(value):
            return guarded_functions(protocol, value)
        if callable(value) and not isinstance(value, type):
            return lambda *given: _called(protocol, name, value, given, passes=(StormgateError,))
        return value

    return replace(forms, **{each.name: guarded(each.name, getattr(forms, each.name)) for each in fields(forms)})  # type: ignore


def _error(protocol: str, name: str, did: str, shown: tuple[object, ...]) -> AdapterError:
    given = f"; it was given {_short(', '.join(map(repr, shown)))}" if shown else ""
    return AdapterError(
        f"protocol '{protocol}': {name} of its package {did}{given}. Repair that package; the target is not to blame."
    )


def _short(text: str) -> str:
    """Return text on one line of printable ASCII, of bounded length."""
    text = _NOT_PRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


# --- types ----------------------------------------------------------------------------------------------


def _wrong(value: object, kind: Any, where: str, has_numbers: bool) -> str:
    """Say where a value has another type than `kind`; empty if it has that type."""
    if kind is Any:
        return ""
    if arguments := get_args(kind):
        return _wrong_inside(value, get_origin(kind), arguments, where, has_numbers)
    if kind is float or kind is int:
        numbers = (int,) if kind is int else (int, float)
        is_right = isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
        return "" if is_right else _says(where, value, f"a finite {_name(kind)}")
    if not isinstance(value, kind):
        return _says(where, value, _name(kind))
    if isinstance(value, msgspec.Struct):
        if has_numbers and isinstance(value, Position) and not isinstance(value.offset, int):
            return _says(f"{where}.offset", value.offset, "an int, as its positions are numbers")
        for name, inner in _fields(type(value)):
            if wrong := _wrong(getattr(value, name), inner, f"{where}.{name}", has_numbers):
                return wrong
    return ""


def _wrong_inside(value: object, origin: Any, arguments: tuple[Any, ...], where: str, has_numbers: bool) -> str:
    """See `_wrong`, for a union or a container."""
    if not isinstance(origin, type) or not issubclass(origin, tuple | list | Mapping):
        return _wrong_of_union(value, arguments, where, has_numbers)
    if not isinstance(value, origin):
        return _says(where, value, _name(origin))
    for each in value:
        if wrong := _wrong(each, arguments[0], _name(type(each)), has_numbers):
            return wrong
    if isinstance(value, Mapping):
        return next(filter(None, (_wrong(each, arguments[1], where, has_numbers) for each in value.values())), "")
    return ""


def _wrong_of_union(value: object, arguments: tuple[Any, ...], where: str, has_numbers: bool) -> str:
    """See `_wrong`. A struct is judged by its own type, so that the field is named that is wrong."""
    if isinstance(value, msgspec.Struct) and type(value) in arguments:
        return _wrong(value, type(value), where, has_numbers)
    if all(_wrong(value, kind, where, has_numbers) for kind in arguments):
        return _says(where, value, " or ".join(map(_name, arguments)) if len(arguments) < 5 else "an event")
    return ""


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((name, hints[name]) for name in kind.__struct_fields__)


def _says(where: str, value: object, expected: str) -> str:
    return f"{_short(repr(value))}{where and f' as {where}'}, expected {expected}"


def _name(kind: Any) -> str:
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))
