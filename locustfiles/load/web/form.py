"""The form that starts a run: its fields with labels and units, and the validation of the input."""

import argparse
import math
from collections.abc import Mapping
from typing import Any

from drills.runs import catalog
from locustfiles.load.run import options, room
from locustfiles.load.run.capacity_ramp import CapacityRamp
from locustfiles.load.run.options import FIELDS, GROUPS, RAMP_FIELDS
from sim.base.errors import StormgateError, UsageError
from sim.drill import model as drills

_MAX_NUMBER = 1_000_000  # [ours] a mistyped number must not fill the machine's memory before it fails
_LOCUSTS_OWN = {"user_count", "spawn_rate", "host", "run_time", "profile", "user_classes", "shape_class"}
_EMPTY_NUMBERS = {"storm_at": FIELDS["storm_at"].default}  # the value of an empty field; 0 for others
Arguments = Mapping[str, Mapping[str, Any]]  # as Locust lists those that its page allows


def form(arguments: Arguments) -> dict[str, Any]:
    """Return what the page needs to draw the form: groups of fields, and each drill's own values for empty fields."""
    groups = {**GROUPS, "Target and verdict": (*GROUPS["Target and verdict"], *RAMP_FIELDS)}
    named = {title: [field.name for field in fields if field.name in arguments] for title, fields in groups.items()}
    if rest := [name for name in arguments if name not in FIELDS]:  # of another locustfile
        named["More"] = rest
    return {
        "groups": [
            {"title": title, "fields": [_field(name, arguments[name]) for name in names]} for title, names in named.items()
        ],
        "drills": {name: _drill(name) for name in arguments["drill"]["choices"]},
    }


def _field(name: str, argument: Mapping[str, Any]) -> dict[str, Any]:
    """One field. `default` is sent if it is not changed, `empty` if it is empty."""
    default, choices, is_secret, known = argument["default_value"], argument["choices"], argument["is_secret"], FIELDS.get(name)
    is_number = isinstance(default, int | float)
    return {
        "name": name,
        "label": known.label if known else f"--{name.replace('_', '-')}",
        "unit": known.unit if known else "",
        "help": known.help if known else argument["help_text"] or "",
        "kind": "secret" if is_secret else "choice" if choices else "number" if is_number else "text",
        "default": "" if is_secret else f"{default:g}" if is_number else str(default),
        "empty": f"{_EMPTY_NUMBERS.get(name, 0):g}" if is_number else "",
        "choices": tuple(choices or ()),
    }


def _drill(name: str) -> dict[str, Any]:
    """A drill's question, its approximate length, and its own values of the fields."""
    drill = drills.load(catalog.path_of(name))
    values = options.drill_values(drill)
    shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return {"question": drill.summary, "seconds": drills.expected_duration_s(drill), "fields": shown}


# --- validation -------------------------------------------------------------------------------------


def refusal(
    typed: Mapping[str, str], arguments: Arguments, before: argparse.Namespace, *, ramps: bool, workers: int = 0
) -> str:
    """Return why the input cannot start a run, as a sentence; empty if it can. `before`: the options without the input."""
    try:
        chosen = {name: _value(name, text, arguments, before) for name, text in typed.items() if name in arguments}
        for name in typed:
            if name not in arguments and name not in _LOCUSTS_OWN and hasattr(before, name):
                raise UsageError(f"{name}: this page cannot set it; start Locust with --{name.replace('_', '-')}.")
        asked = argparse.Namespace(**(vars(before) | chosen))
        room.require(options.plan_of(asked).drill.fleet.clients, workers)
        if ramps:
            CapacityRamp(asked)
    except StormgateError as error:
        return str(error)
    return ""


def _value(name: str, text: str, arguments: Arguments, before: argparse.Namespace) -> object:
    label = FIELDS[name].label if name in FIELDS else name
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
    if number < 0 and number != _EMPTY_NUMBERS.get(name):
        raise UsageError(f"{label}: {text} is below 0.")
    if number > _MAX_NUMBER:
        raise UsageError(f"{label}: {text} is above the limit of {_MAX_NUMBER}.")
    return number
