"""Faults that only a server can inject, through the operators' commands from the targets file.

A hook has one command that injects a fault and one that reverts it. They get their parameters as environment variables
(`STORMGATE_…`) and run without a shell. Their output is kept as evidence, without known secrets. Every injected fault is
reverted: after its duration, or when the drill is aborted, interrupted or fails.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sim.base import operator_command
from sim.base.errors import HookError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.fault_schedule import PlannedFault
from sim.drill.target_rules import Hook

FOLDER = "hooks"


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

    async def inject(self, fault: PlannedFault) -> float:
        """Run the command that injects a fault; return 1, because its success is the observed effect. Raise `HookError`."""
        self._unreverted[fault.index] = fault  # before it runs, because a failed command may have had a partial effect
        await self._run(fault, "inject", self._hooks[fault.kind].inject)
        return 1

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

    async def _run(self, fault: PlannedFault, action: str, command: list[str]) -> None:
        """Run one command to its end; raise `HookError` unless it succeeds."""
        limit_s = self._hooks[fault.kind].timeout_s
        began_t, began = self._now_s(), time.monotonic()
        output = Output(self._redact)
        code: int | None = None
        why = "the drill ended meanwhile"
        try:
            code, why = await operator_command.run(command, self._environment(fault, action), limit_s, output)
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

    def _environment(self, fault: PlannedFault, action: str) -> dict[str, str]:
        parameters = {name.upper(): _plain(value) for name, value in msgspec.to_builtins(fault.fault).items() if name != "kind"}
        about = {"ACTION": action, "FAULT": fault.kind, "FAULT_INDEX": str(fault.index), **self._about}
        return operator_command.with_ours({**parameters, **about})

    def _keep(self, fault: PlannedFault, action: str, output: Output) -> tuple[str, str]:
        """Write a command's output; return the name and the SHA-256 of the file."""
        name = f"{FOLDER}/{len(self.done):02d}-{fault.kind}-{action}.txt"
        return name, output.keep(self._folder / name)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
