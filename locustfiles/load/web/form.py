"""The form that a run is started with: its fields in a person's order and words, and what is wrong with what was typed."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from locustfiles.load.run import options
from locustfiles.load.run.capacity_ramp import CapacityRamp
from sim.base.errors import StormgateError, UsageError
from sim.drill import model as drills
from sim.drill.fault_kinds import DropSockets

# What a field is called and its unit, by group; a field that is not named here is shown as its flag is called.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "The storm": {
        "drill": ("Drill", ""),
        "pattern": ("Pattern of the cuts", ""),
        "share_dropped": ("Share of clients that each cut takes", "0 to 1"),
        "storm_at": ("First cut, after the fault phase begins", "s"),
    },
    "The clients": {
        "clients": ("Clients", ""),
        "policy": ("Client policy", ""),
        "topics_per_client": ("Topics that each client reads", ""),
        "connects_per_s": ("Connects while they arrive", "per s"),
    },
    "The load and the time": {
        "events_per_s": ("Events published, over all topics", "per s"),
        "steady_s": ("Steady phase, before anything breaks", "s"),
        "fault_s": ("Fault phase", "s"),
    },
    "Where, and how it is judged": {
        "target": ("Runtime", ""),
        "thresholds": ("Thresholds file", ""),
        "seed": ("Seed", ""),
        "growth": ("Growth of each step of the climb", "times"),
        "max_clients": ("Most clients of the climb", ""),
    },
}
_SAID_ANYWAY = re.compile(r"; (0|-1|empty): [^;]*$")  # what it is to leave a field empty, which the field itself shows
_MOST = 1_000_000  # [ours] of anything: a mistyped number must not fill a machine's memory before it fails
_LOCUSTS_OWN = {"user_count", "spawn_rate", "host", "run_time", "profile", "user_classes", "shape_class"}
_AT_WHICH = {"storm_at": options.TIMES_FROM_DRILL}  # the value of a field left empty; else it is 0


class Field(msgspec.Struct, frozen=True):
    """One field. `kind` is number, choice, text or secret; `default` is what is sent when it is left alone."""

    name: str
    label: str
    unit: str
    help: str
    kind: str
    default: str
    empty: str  # what is sent when nothing is typed
    choices: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """Fields that belong together."""

    title: str
    fields: tuple[Field, ...]


class DrillShown(msgspec.Struct, frozen=True):
    """What a drill has, for whoever leaves a field empty. `fields` are by name."""

    question: str
    seconds: float  # that a run takes, about
    fields: dict[str, str]


class Form(msgspec.Struct, frozen=True):
    """All that the page needs to draw the form."""

    groups: tuple[Group, ...]
    drills: dict[str, DrillShown]


def form(arguments: Mapping[str, Mapping[str, Any]]) -> Form:
    """The form of these arguments, as Locust lists those that its page may show."""
    named = {name for group in GROUPS.values() for name in group}
    groups = [
        Group(title, tuple(_field(name, *words, arguments[name]) for name, words in fields.items() if name in arguments))
        for title, fields in GROUPS.items()
    ]
    others = tuple(_field(name, f"--{name.replace('_', '-')}", "", arguments[name]) for name in arguments if name not in named)
    if others:
        groups.append(Group("More", others))
    return Form(tuple(groups), {name: _drill(name) for name in arguments["drill"]["choices"]})


def _field(name: str, label: str, unit: str, argument: Mapping[str, Any]) -> Field:
    default, choices = argument["default_value"], argument["choices"]
    is_number = isinstance(default, int | float)
    kind = "secret" if argument["is_secret"] else "choice" if choices else "number" if is_number else "text"
    empty = f"{_AT_WHICH.get(name, 0):g}" if is_number else ""
    shown = "" if argument["is_secret"] else f"{default:g}" if is_number else str(default)
    said = _SAID_ANYWAY.sub("", argument["help_text"] or "")
    return Field(name, label, unit, said, kind, shown, empty, tuple(choices or ()))


def _drill(name: str) -> DrillShown:
    drill = drills.load(options.path_of(name))
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


# --- what was typed ---------------------------------------------------------------------------------


def refusal(
    typed: Mapping[str, str], arguments: Mapping[str, Mapping[str, Any]], before: argparse.Namespace, *, ramps: bool
) -> str:
    """Why no run can be started from this, in a sentence; empty if one can. `before`: the options as they are without it."""
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
        raise UsageError(f"{label}: there is no '{text[:60]}'; there are: {', '.join(choice for choice in choices if choice)}.")
    if kind not in (int, float):
        return text
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{label}: expected a {'whole ' if kind is int else ''}number, got '{text[:60]}'.")
    if number < 0 and number != _AT_WHICH.get(name):
        raise UsageError(f"{label}: {text} is below 0.")
    if number > _MOST:
        raise UsageError(f"{label}: {text} is more than {_MOST}, and more than one machine can do.")
    return number
