"""Faults that only a server can inject, through the operators' commands from the targets file.

A hook has one command that injects a fault and one that reverts it. They get their parameters as environment variables
(`STORMGATE_…`), and the affected clients as JSON on their input. They run without a shell. Their output is kept as evidence,
without known secrets; its last line may report what the command did. Every injected fault is reverted: after its duration, or
when the drill is aborted, interrupted or fails.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sim.base import operator_command
from sim.base.errors import HookError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.fault_schedule import PlannedFault
from sim.drill.target_rules import Hook, HookReport
from sim.service.templates import NOWHERE, find

FOLDER = "hooks"
_MAX_SHOWN = 100  # characters of a wrong report


@dataclass
class Done:
    """The record of one finished command in a run's header."""

    fault: int  # index in the fault schedule
    kind: str
    action: str  # inject or revert
    argv: list[str]
    t: float  # seconds since the start of the run
    duration_s: float
    exit_code: int | None  # None: killed at its time-out or at the end of the drill
    why: str  # reason of a failure, or empty
    output: str  # path of the output file, relative to the drill's folder
    output_bytes: int  # bytes printed; the file keeps at most `operator_command.MAX_OUTPUT_BYTES`
    sha256: str  # SHA-256 of the file
    reported: dict[str, object] = field(default_factory=dict)  # what the hook reported, by key of `HookReport`


@dataclass(frozen=True)
class HookClient:
    """A client that a hook's fault affects."""

    device: str
    account: str
    session_id: str  # empty: its token states none


@dataclass(frozen=True)
class Reported:
    """What a hook reported. None: it reports no such thing."""

    count: float | None = None
    devices: frozenset[str] | None = None
    sessions: frozenset[str] | None = None
    key_id: str = ""

    @property
    def effect(self) -> float:
        """How often the fault took effect. The success of a command without a report counts as 1."""
        named = max((len(each) for each in (self.devices, self.sessions) if each is not None), default=1)
        return float(named) if self.count is None else self.count

    def names(self, client: HookClient) -> bool:
        """Return whether it affected this client: one that it names, or any if it names none."""
        if self.devices is None and self.sessions is None:
            return True
        return client.device in (self.devices or ()) or client.session_id in (self.sessions or ())


class Hooks:
    """The hooks of one target for one run. `about` holds further environment variables, without their prefix."""

    def __init__(
        self,
        hooks: Mapping[str, Hook],
        about: Mapping[str, str],
        redact: Redactor,
        folder: Path,
        now_s: Callable[[], float],
    ) -> None:
        self._hooks = hooks
        self._about = about
        self._redact = redact
        self._folder = folder
        self._now_s = now_s  # seconds since the start of the run
        self._unreverted: dict[int, PlannedFault] = {}
        self.done: list[Done] = []

    def has(self, kind: str) -> bool:
        """Return whether a hook injects this kind of fault."""
        return kind in self._hooks

    async def inject(self, fault: PlannedFault, clients: Sequence[HookClient] = ()) -> Reported:
        """Run the command that injects a fault for these clients; return what it reported. Raise `HookError`."""
        self._unreverted[fault.index] = fault  # before it runs, because a failed command may have had a partial effect
        hook = self._hooks[fault.kind]
        content = await self._run(fault, "inject", hook.inject, msgspec.json.encode({"clients": clients}))
        if not hook.reports.is_read:
            return Reported()
        done = self.done[-1]
        try:
            reported = read_report(hook.reports, content)
        except ValueError as error:
            where = self._folder / done.output
            raise HookError(f"the hook to inject {fault.kind} reported {error}; its output is in {where}.") from None
        done.reported = {name: value for name, value in msgspec.to_builtins(reported).items() if value not in (None, "")}
        return reported

    async def revert(self, fault: PlannedFault) -> float:
        """Run the command that reverts a fault, if there is one; return 0. Raise `HookError` if it fails."""
        if command := self._hooks[fault.kind].revert:
            await self._run(fault, "revert", command)
        del self._unreverted[fault.index]
        return 0

    async def revert_all(self) -> None:
        """Revert every fault that is not reverted, even after a failure; raise the first `HookError`."""
        failed: HookError | None = None
        for fault in list(self._unreverted.values()):
            try:
                await self.revert(fault)
            except HookError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def _run(self, fault: PlannedFault, action: str, command: list[str], given: bytes = b"") -> bytes:
        """Run one command to its end; return what is kept of its output. Raise `HookError` unless it succeeds."""
        hook = self._hooks[fault.kind]
        began_t, began = self._now_s(), time.monotonic()
        output = Output(self._redact, keeps_end=hook.reports.is_read)
        code: int | None = None
        why = "the drill ended meanwhile"
        try:
            code, why = await operator_command.run(
                command, self._environment(fault, action), hook.timeout_s, output, given=given
            )
        finally:
            name, digest = self._keep(fault, action, output)
            argv = [self._redact.text(part) for part in command]
            took_s = time.monotonic() - began
            self.done.append(
                Done(fault.index, fault.kind, action, argv, began_t, took_s, code, why, name, output.total, digest)
            )
        if why:
            still = " The target may still be broken." if action == "revert" else ""
            raise HookError(f"the hook to {action} {fault.kind} {why}; its output is in {self._folder / name}.{still}")
        return output.content

    def _environment(self, fault: PlannedFault, action: str) -> dict[str, str]:
        parameters = {name.upper(): _plain(value) for name, value in msgspec.to_builtins(fault.fault).items() if name != "kind"}
        about = {"ACTION": action, "FAULT": fault.kind, "FAULT_INDEX": str(fault.index), **self._about}
        return operator_command.with_ours({**parameters, **about})

    def _keep(self, fault: PlannedFault, action: str, output: Output) -> tuple[str, str]:
        """Write a command's output; return the name and the SHA-256 of the file."""
        name = f"{FOLDER}/{len(self.done):02d}-{fault.kind}-{action}.txt"
        return name, output.keep(self._folder / name)


def read_report(form: HookReport, output: bytes) -> Reported:
    """Return what the last line of an output that is a JSON table reports. Raise `ValueError` with what is wrong with it."""
    lines = [line for line in output.splitlines() if line.lstrip().startswith(b"{")]
    try:
        document = msgspec.json.decode(lines[-1])
    except (IndexError, msgspec.DecodeError, RecursionError):
        raise ValueError("nothing: no line of its output is a JSON table") from None
    found = {name: find(document, getattr(form, name)) for name in form.__struct_fields__}
    missing = [name for name in form.__struct_fields__ if getattr(form, name) != NOWHERE and found[name] is None]
    if missing:
        raise ValueError(f"no {missing[0]} at {getattr(form, missing[0])}")
    count = len(found["count"]) if isinstance(found["count"], list) else found["count"]
    if count is not None and (isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < math.inf):
        raise ValueError(f"a count that is neither a number from 0 nor a list: {str(count)[:_MAX_SHOWN]}")
    lists = {name: found[name] for name in ("devices", "sessions")}
    for name, value in lists.items():
        if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise ValueError(f"{name} that are no list of texts: {str(value)[:_MAX_SHOWN]}")
    devices, sessions = (None if each is None else frozenset(each) for each in lists.values())
    return Reported(None if count is None else float(count), devices, sessions, str(found["key_id"] or ""))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
