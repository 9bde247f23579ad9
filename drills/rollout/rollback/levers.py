"""Levers make and restore the changes of a rollback: an operator's two commands on a target, or a route of our own mock."""

import asyncio
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from drills.rollout.setup.commands import hook_environment
from sim.base import operator_command
from sim.base.errors import HookError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.target_rules import RollbackHook
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp

Action = Literal["apply", "restore"]


class Lever(ABC):
    """A way to make one change and to restore it. `evidence` lists files relative to the run's folder."""

    def __init__(self) -> None:
        self.evidence: list[str] = []

    def apply(self) -> None:
        """Make the change. Raises a `StormgateError` if that fails."""
        self._set("apply")

    def restore(self) -> None:
        """Restore the state, also after an `apply` that failed halfway. Raises a `StormgateError` if that fails."""
        self._set("restore")

    @abstractmethod
    def _set(self, action: Action) -> None: ...

    @abstractmethod
    def command(self, action: Action) -> str:
        """The command line of an action, as a person would type it; without secrets."""


class HookLever(Lever):
    """An operator's two commands. Their output is kept in `folder`, without secrets."""

    def __init__(self, name: str, hook: RollbackHook, endpoints: Endpoints, folder: Path, about: Mapping[str, str]) -> None:
        super().__init__()
        self._name, self._hook, self._folder, self._endpoints = name, hook, folder, endpoints
        self._redact = Redactor(endpoints.secrets)
        self._about = {"STEP": name, **about}

    def command(self, action: Action) -> str:
        return shlex.join(self._redact.text(part) for part in getattr(self._hook, action))

    def _set(self, action: Action) -> None:
        output = Output(self._redact)
        environment = hook_environment(self._endpoints, ACTION=action, **self._about)
        name = f"{self._name}-{action}.txt"
        try:
            run = operator_command.run(getattr(self._hook, action), environment, self._hook.timeout_s, output)
            _, why = asyncio.run(run)
        finally:
            output.keep(self._folder / name)
            self.evidence.append(f"{self._folder.name}/{name}")
        if why:
            raise HookError(f"the command to {action} {self._name} {why}; its output is in {self._folder / name}.")


class MockLever(Lever):
    """A route of our own mock: PUT a new body, and restore the body from before."""

    def __init__(self, endpoints: Endpoints, name: str, wanted: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        super().__init__()
        self._endpoints, self._name = endpoints, name
        self._bodies: dict[Action, Mapping[str, Any]] = {"apply": wanted, "restore": before}

    def command(self, action: Action) -> str:
        body = msgspec.json.encode(self._bodies[action]).decode()
        return shlex.join(["curl", "-X", "PUT", "-d", body, f"{self._endpoints.runtime_url}/_mock/{self._name}"])

    def _set(self, action: Action) -> None:
        async def put() -> None:
            async with ServiceHttp(self._endpoints) as http:
                await http.ask(service_api.change, self._name, self._bodies[action])

        asyncio.run(put())
