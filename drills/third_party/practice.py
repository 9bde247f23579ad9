"""The mock as somebody else's staging service: with a hook for each fault, two revisions and a rollback, to practise with.

To stormgate it is a target like any other: what it knows of it stands in the target's description.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

from drills.third_party.recipe import Parameters, Place, Recipe, Report, Variant
from sim.base import bounded_reads
from sim.base.errors import TargetError
from sim.drill.fault_bases import SwitchFault
from sim.drill.fault_kinds import AnyFault, CloseConnections, ExpireTokens, RecreateLog, RollingDeploy, ShrinkWindow
from sim.mock.app import DEFAULT_ADMIN_TOKEN
from sim.mock.server import ADMIN_TOKEN_VARIABLE, ServeOptions
from sim.server.closing import CloseOrder
from sim.server.deployment import Deployment
from sim.server.settings import RuntimeSettings, Switches
from sim.service.paths import MOCK_PATH, SIGN_IN_PATH

NEW, GOOD = "mock-r2", "mock-r1"  # the deployed revision, and the last known good one
_ANSWER_S = 5.0  # [ours]
_BURST, _PUBLISHES_PER_S = 300, 60.0  # [ours] of the throttle: more than a canary check publishes, and far below a burst
_BEFORE = "before-rollback.json"  # in the server's folder: what a rollback has changed, as it was
_RUN_TOPICS = "run:"
# [ours] What the catalogue's drills expect: a service that soon notices silence, and clients that do not read.
_SETTINGS = RuntimeSettings(heartbeat_interval_s=2.0, client_timeout_s=4.0, send_buffer_kib=16)
_INJECTED_BY_HOOK = (
    *("close_connections", "rolling_deploy", "expire_tokens", "slow_mint", "mint_outage", "skew_control"),
    *("fail_publishes", "slow_publishes", "stop_delivery", "skip_deliveries", "duplicate_deliveries", "jumble_deliveries"),
    *("malform_frames", "reorder_deliveries", "delay_deliveries", "shrink_window", "recreate_log", "shrink_replay_budget"),
)

_TARGET = """\
[targets.practice]
kind = "staging"
runtime_url = "{url}"
control_url = "{url}"
admin_token_env = "{admin_token_env}"
caps = {{ clients = 400, connects_per_s = 2000.0, events_per_s = 400.0 }}

[[targets.practice.sign_in]]
path = "{sign_in}"
body = {{ account = "{{account}}" }}
values = {{ session = "/session" }}

[targets.practice.revoke]

[targets.practice.service]
heartbeat_interval_s = {heartbeat_interval_s}
client_timeout_s = {client_timeout_s}

"""
_ROLLBACK = """
[targets.practice.rollback]
check = {check}

[targets.practice.rollback.traffic]
{change}control_revision = "{good}"
runtime_revision = "{good}"

[targets.practice.rollback.throttle]
{change}burst = {burst}

[targets.practice.rollback.cohort]
{change}"""


def _url(place: Place) -> str:
    return f"http://127.0.0.1:{place.ports[0]}"


def _command(place: Place) -> list[str]:
    revisions = Deployment(NEW, GOOD) if place.settings["has_both_revisions"] else Deployment(GOOD, "")
    options = ServeOptions(
        _SETTINGS,
        Switches(),
        port=place.ports[0],
        state=str(place.folder / "log.sqlite"),
        deployment=revisions,
    )
    own = f"{ADMIN_TOKEN_VARIABLE}={DEFAULT_ADMIN_TOKEN}"  # everybody knows it
    return ["env", own, sys.executable, "-P", "-m", "sim.mock.server", msgspec.json.encode(options).decode()]


def _target(place: Place) -> str:
    hooks = {kind: place.hook("inject", "revert") for kind in _INJECTED_BY_HOOK}
    hooks |= {"kill_runtime": place.hook("kill", "start"), "expire_tokens": place.hook("inject")}
    own = {key: getattr(_SETTINGS, key) for key in ("heartbeat_interval_s", "client_timeout_s")}
    text = _TARGET.format(url=_url(place), admin_token_env=ADMIN_TOKEN_VARIABLE, sign_in=SIGN_IN_PATH, **own)
    text += "\n".join(f"[targets.practice.hooks.{kind}]\n{keys}" for kind, keys in hooks.items())
    if not place.settings["has_both_revisions"]:
        return text
    change = "".join(f"{key} = {json.dumps([*place.control, 'change'])}\n" for key in ("apply", "restore"))
    return text + _ROLLBACK.format(check=json.dumps([*place.control, "armed"]), change=change, good=GOOD, burst=_BURST)


# --- faults -----------------------------------------------------------------------------------------


def fault_of(parameters: Parameters) -> AnyFault:
    """Return the fault that a hook is asked for, from the hook's variables."""
    values: dict[str, object] = {**parameters, "kind": parameters["fault"]}
    if "codes" in values:
        values["codes"] = [int(code) for code in parameters["codes"].split(",")]
    kinds = {kind.__struct_config__.tag: kind for kind in AnyFault.__args__}
    known = {key: value for key, value in values.items() if key in (*kinds[parameters["fault"]].__struct_fields__, "kind")}
    fault: AnyFault = msgspec.convert(known, AnyFault, strict=False)
    return fault


def _inject(place: Place, parameters: Parameters) -> Report:
    fault, topics = fault_of(parameters), parameters.get("topics", "").split(",")
    devices = [client["device"] for client in json.loads(parameters.get("input") or "{}").get("clients", ())]
    match fault:
        case SwitchFault():
            return _switch(place, fault.switches())
        case ExpireTokens():
            return _switch(place, {"tokens_void_before": time.time()})
        case CloseConnections():
            codes = {device: fault.code_of(n) for n, device in enumerate(devices)}
            order = CloseOrder(int(parameters["fault_index"]), codes, fault.after_ms, float(fault.retry_after_ms))
            return _put(place, "closes", msgspec.to_builtins(order))
        case RollingDeploy():
            return _put(place, "sockets", {"devices": devices})
        case ShrinkWindow():
            runs = [topic for topic in topics if topic.startswith(_RUN_TOPICS)]
            others = [topic for topic in topics if topic not in runs] if fault.worker_events else []
            for topic in (*runs[: fault.streams], *others):
                _put(place, "window", {"topic": topic, "keep_events": fault.keep_events})
        case RecreateLog():
            for topic in topics:
                _put(place, "log", {"topic": topic})
        case _:
            raise TargetError(f"the practice service cannot inject {fault.kind}.")
    return {}


def _revert(place: Place, parameters: Parameters) -> Report:
    fault = fault_of(parameters)
    if isinstance(fault, CloseConnections):
        return _put(place, "closes", msgspec.to_builtins(CloseOrder(int(parameters["fault_index"]))))
    if isinstance(fault, SwitchFault):
        healthy = msgspec.to_builtins(Switches())
        return _switch(place, {name: healthy[name] for name in fault.switches()})
    return {}


def _switch(place: Place, changes: Mapping[str, object]) -> Report:
    return _put(place, "switches", {**_state(place)["switches"], **msgspec.to_builtins(changes)})


# --- the rollback -----------------------------------------------------------------------------------


def _change(place: Place, parameters: Parameters) -> Report:
    """Apply a step of the rollback, or restore what it has changed."""
    step, kept = parameters["step"], place.folder / _BEFORE
    before: dict[str, Any] = json.loads(bounded_reads.file_text(kept)) if kept.exists() else {}
    if parameters["action"] == "restore":
        if step in before:
            _put(place, step, before.pop(step))
            kept.write_text(json.dumps(before))
        return {}
    now = _state(place)["traffic"]
    usual = {"traffic": {"revision": now["serving"]}, "throttle": now["throttle"], "cohort": {"percent": now["cohort_percent"]}}
    kept.write_text(json.dumps({**before, step: usual[step]}))
    rolled_back = {
        "traffic": {"revision": GOOD},
        "throttle": {"publishes_per_s": _PUBLISHES_PER_S},
        "cohort": {"percent": round(float(parameters.get("percent", 0)))},
    }
    return _put(place, step, rolled_back[step])


def _require_armed(place: Place, _: Parameters) -> Report:
    if _state(place)["deployment"]["previous_revision"] != GOOD:
        raise TargetError(f"revision {GOOD} can no longer be served.")
    return {}


# --- requests ---------------------------------------------------------------------------------------


def _state(place: Place) -> dict[str, Any]:
    state: dict[str, Any] = httpx.get(_url(place) + MOCK_PATH.format(name="state"), timeout=_ANSWER_S).json()
    return state


def _put(place: Place, name: str, body: object) -> Report:
    answer = httpx.put(_url(place) + MOCK_PATH.format(name=name), json=body, timeout=_ANSWER_S)
    if answer.status_code != httpx.codes.OK:
        raise TargetError(f"the practice service refused {name}: {answer.text}")
    found: Report = answer.json()
    return found


RECIPE = Recipe(
    name="practice",
    title="The mock as a staging service",
    version="of this stormgate",
    says="it has a hook for every fault, revisions, a cohort and a rollback, so that a rollout can be practised",
    settings={"has_both_revisions": True},
    variants={
        "previous": Variant("Only the previous revision is deployed: the control of a canary.", {"has_both_revisions": False}),
    },
    command=_command,
    ready_url=lambda place: f"{_url(place)}/readyz",
    target=_target,
    environment={ADMIN_TOKEN_VARIABLE: DEFAULT_ADMIN_TOKEN},
    actions={"inject": _inject, "revert": _revert, "change": _change, "armed": _require_armed},
)
