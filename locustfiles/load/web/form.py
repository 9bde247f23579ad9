"""The form that starts a run: its fields with labels and units, and the validation of the input."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from drills.runs import catalog
from locustfiles.load.run import options
from locustfiles.load.run.capacity_ramp import CapacityRamp
from sim.base.errors import StormgateError, UsageError
from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets

# Label and unit of each field, by group; a field without an entry is shown by its flag.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "The storm": {
        "drill": ("Drill", ""),
        "pattern": ("Pattern of the cuts", ""),
        "share_dropped": ("Share of clients that each cut drops", "0 to 1"),
        "storm_at": ("First cut, after the start of the fault phase", "s"),
    },
    "The clients": {
        "clients": ("Clients", ""),
        "policy": ("Client policy", ""),
        "topics_per_client": ("Topics per client", ""),
        "connects_per_s": ("Connect rate at the start", "per s"),
    },
    "The load and the time": {
        "events_per_s": ("Events published over all topics", "per s"),
        "steady_s": ("Steady state before the faults", "s"),
        "fault_s": ("Fault phase", "s"),
    },
    "Target and verdict": {
        "target": ("Target", ""),
        "thresholds": ("Thresholds file", ""),
        "seed": ("Seed", ""),
        "growth": ("Growth factor of the capacity ramp", "times"),
        "max_clients": ("Maximum clients of the capacity ramp", ""),
    },
}
_EMPTY_MEANING = re.compile(r"; (0|-1|empty): [^;]*$")  # the meaning of an empty field, which the field itself shows
_MAX_NUMBER = 1_000_000  # [ours] a mistyped number must not fill the machine's memory before it fails
_LOCUSTS_OWN = {"user_count", "spawn_rate", "host", "run_time", "profile", "user_classes", "shape_class"}
_EMPTY_VALUES = {"storm_at": options.TIMES_FROM_DRILL}  # the value of an empty field; 0 for others


class Field(msgspec.Struct, frozen=True):
    """One field. `kind` is number, choice, text or secret; `default` is sent if the field is not changed."""

    name: str
    label: str
    unit: str
    help: str
    kind: str
    default: str
    empty: str  # sent if the field is empty
    choices: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """A group of fields."""

    title: str
    fields: tuple[Field, ...]


class DrillShown(msgspec.Struct, frozen=True):
    """A drill's own values, shown in empty fields. `fields` are by name."""

    question: str
    seconds: float  # approximate length of a run
    fields: dict[str, str]


class Form(msgspec.Struct, frozen=True):
    """Everything that the page needs to draw the form."""

    groups: tuple[Group, ...]
    drills: dict[str, DrillShown]


def form(arguments: Mapping[str, Mapping[str, Any]]) -> Form:
    """Build the form from the arguments that Locust allows in its page."""
    named = {name for group in GROUPS.values() for name in group}
    groups = [
        Group(title, tuple(_field(name, *words, arguments[name]) for name, words in fields.items() if name in arguments))
        for title, fields in GROUPS.items()
    ]
    rest = tuple(_field(name, f"--{name.replace('_', '-')}", "", arguments[name]) for name in arguments if name not in named)
    if rest:
        groups.append(Group("More", rest))
    return Form(tuple(groups), {name: _drill(name) for name in arguments["drill"]["choices"]})


def _field(name: str, label: str, unit: str, argument: Mapping[str, Any]) -> Field:
    default, choices = argument["default_value"], argument["choices"]
    is_number = isinstance(default, int | float)
    kind = "secret" if argument["is_secret"] else "choice" if choices else "number" if is_number else "text"
    empty = f"{_EMPTY_VALUES.get(name, 0):g}" if is_number else ""
    shown = "" if argument["is_secret"] else f"{default:g}" if is_number else str(default)
    said = _EMPTY_MEANING.sub("", argument["help_text"] or "")
    return Field(name, label, unit, said, kind, shown, empty, tuple(choices or ()))


def _drill(name: str) -> DrillShown:
    drill = drills.load(catalog.path_of(name))
    share = next((fault.share for fault in drill.faults if isinstance(fault, DropSockets)), None)
    has: dict[str, object] = {
        "clients": drill.fleet.clients,
        "policy": drill.fleet.policy,
        "topics_per_client": drill.fleet.topics_per_client,
        "connects_per_s": drill.fleet.connects_per_s or None,
        "events_per_s": drill.load.events_per_s,
        "steady_s": drill.phases.steady_s,
        "fault_s": drill.phases.fault_s,
        "storm_at": min((fault.at_s for fault in drill.faults), default=None),
        "share_dropped": share,
    }
    fields = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in has.items() if value is not None}
    return DrillShown(drill.summary, drills.expected_duration_s(drill), fields)


# --- validation -------------------------------------------------------------------------------------


def refusal(
    typed: Mapping[str, str], arguments: Mapping[str, Mapping[str, Any]], before: argparse.Namespace, *, ramps: bool
) -> str:
    """Return why the input cannot start a run, as a sentence; empty if it can. `before`: the options without the input."""
    try:
        chosen = {name: _value(name, text, arguments, before) for name, text in typed.items() if name in arguments}
        for name in typed:
            if name not in arguments and name not in _LOCUSTS_OWN and hasattr(before, name):
                raise UsageError(f"{name}: this page cannot set it; start Locust with --{name.replace('_', '-')}.")
        asked = argparse.Namespace(**(vars(before) | chosen))
        options.plan_of(asked)
        if ramps:
            CapacityRamp(asked)
    except StormgateError as error:
        return str(error)
    return ""


def _value(name: str, text: str, arguments: Mapping[str, Mapping[str, Any]], before: argparse.Namespace) -> object:
    label = next((fields[name][0] for fields in GROUPS.values() if name in fields), name)
    choices, kind = arguments[name]["choices"], type(getattr(before, name))
    if choices and text not in choices:
        raise UsageError(f"{label}: unknown value {text[:60]!r}; choose: {', '.join(choice for choice in choices if choice)}.")
    if kind not in (int, float):
        return text
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{label}: expected a {'whole ' if kind is int else ''}number, got '{text[:60]}'.")
    if number < 0 and number != _EMPTY_VALUES.get(name):
        raise UsageError(f"{label}: {text} is below 0.")
    if number > _MAX_NUMBER:
        raise UsageError(f"{label}: {text} is above the limit of {_MAX_NUMBER}.")
    return number
