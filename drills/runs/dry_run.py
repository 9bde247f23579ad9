"""The dry run: show what a run would do, in words or as JSON."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from drills.runs import variants
from drills.runs.checking import Checked
from drills.runs.request import Request
from sim.drill import fault_schedule
from sim.drill.target_rules import Stop
from sim.engines.shared.metrics_book import is_asked

if TYPE_CHECKING:
    from rich.console import Console

    from sim.drill.model import Drill
    from sim.engines.shared.endpoints import Endpoints


def as_json(request: Request, checked: Checked) -> None:
    """Print one JSON object."""
    endpoints = checked.endpoints
    body: dict[str, Any] = {
        "dry_run": True,
        "target": request.target,
        "engine": request.engine,
        "seed": request.seed,
        "drills": {
            drill.name: [fault.describe() for fault in fault_schedule.plan(drill, request.seed)] for drill in request.drills
        },
    }
    if several := {drill.name: _variant_names(drill) for drill in request.drills if drill.variants}:
        body["variants"] = several
    if checked.not_run:
        body["not_run"] = checked.not_run
    if endpoints is not None:
        body["target_plan"] = _endpoints(endpoints)
        body["remarks"] = _remarks(request, endpoints)
    sys.stdout.write(msgspec.json.encode(body).decode() + "\n")


def in_words(request: Request, checked: Checked, console: "Console") -> None:
    """Print every drill with its faults; for a named target also its addresses and rules."""
    from drills.reports.terminal import say

    endpoints = checked.endpoints
    if endpoints is not None:
        for line in _target_lines(endpoints):
            say(console, line)
    for drill in request.drills:
        if why := checked.not_run.get(drill.name):
            say(console, f"{drill.name} is not run: {why}")
            continue
        fleet = f"{drill.fleet.clients} {drill.fleet.policy} clients, {drill.load.events_per_s:g} events/s"
        say(console, f"{drill.name} on {request.target} by {request.engine}: {fleet}", "bold")
        if drill.variants:
            say(console, f"  on {len(_variant_names(drill))} variants: {', '.join(_variant_names(drill))}")
        for fault in fault_schedule.plan(drill, request.seed):
            parameters = ", ".join(f"{key} {value}" for key, value in fault.describe().items() if key != "kind")
            say(console, f"  {fault.kind}: {parameters}")
            if endpoints is not None and fault.kind in endpoints.rules.hooks:
                # commands stay on one line, to be copied
                console.print(f"    by hook: {_hook(endpoints, fault.kind)}", soft_wrap=True, markup=False)
        if not drill.faults:
            console.print("  no faults; the drill only observes")
    for remark in _remarks(request, endpoints) if endpoints is not None else ():
        say(console, remark)


def _variant_names(drill: "Drill") -> list[str]:
    return [variant.name for variant in variants.variants_of(drill)]


def _remarks(request: Request, endpoints: "Endpoints") -> list[str]:
    from sim.engines.shared import permission

    return list(dict.fromkeys(remark for drill in request.drills for remark in permission.remarks(drill, endpoints)))


def _endpoints(endpoints: "Endpoints") -> dict[str, Any]:
    """A target, without its secrets."""
    rules = msgspec.to_builtins(endpoints.rules)
    for kind in rules["hooks"]:
        rules["hooks"][kind] |= {action: _shown(endpoints, rules["hooks"][kind][action]) for action in ("inject", "revert")}
    return {
        "name": endpoints.name,
        "kind": endpoints.kind,
        "runtime_url": endpoints.runtime_url,
        "control_url": endpoints.control_url,
        "socket_url": endpoints.socket_url,
        **rules,
    }


def _target_lines(endpoints: "Endpoints") -> list[str]:
    lines = [
        f"target {endpoints.name} ({endpoints.kind})",
        f"  runtime {endpoints.runtime_url}, control service {endpoints.control_url}, sockets {endpoints.socket_url}",
    ]
    rules = endpoints.rules
    if rules.caps is not None:
        caps = rules.caps
        lines.append(f"  caps: {caps.clients} clients, {caps.connects_per_s:g} connects/s, {caps.events_per_s:g} events/s")
    conditions = {key: value for key, value in msgspec.to_builtins(rules.stop).items() if value != getattr(Stop(), key)}
    if conditions:
        lines.append("  stops at: " + ", ".join(f"{key} {value}" for key, value in conditions.items()))
    is_read = is_asked(endpoints)
    lines.append(
        f"  metrics: {rules.metrics_profile} profile, every {rules.metrics_every_s:g} s" if is_read else "  metrics: not read"
    )
    return lines


def _hook(endpoints: "Endpoints", kind: str) -> str:
    hook = endpoints.rules.hooks[kind]
    revert = f"reverted by {shlex.join(_shown(endpoints, hook.revert))}" if hook.revert else "reverts by itself"
    return f"{shlex.join(_shown(endpoints, hook.inject))}; {revert}; {hook.timeout_s:g} s each at most"


def _shown(endpoints: "Endpoints", command: list[str]) -> list[str]:
    from sim.base.redaction import Redactor

    redact = Redactor(endpoints.secrets)
    return [redact.text(part) for part in command]
