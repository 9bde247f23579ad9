"""What a rollback pulls: operators' commands on a target, or the routes that a mock of ours has for it."""

import asyncio
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sim.base import operator_command
from sim.base.errors import HookError
from sim.base.operator_command import Output
from sim.base.redaction import Redactor
from sim.drill.target_rules import RollbackHook
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets.http import ServiceHttp

_PREFIX = "STORMGATE_"


class Lever(Protocol):
    """One thing that can be changed and put back. Both raise a `StormgateError` when they say that they did not work."""

    def apply(self) -> None:
        """Change it."""
        ...

    def restore(self) -> None:
        """Put it back, also after an `apply` that failed half-way."""
        ...

    @property
    def in_words(self) -> tuple[str, str]:
        """What applies and what restores it, as a person would type it; without secrets."""
        ...

    @property
    def evidence(self) -> tuple[str, ...]:
        """Files below the run's folder."""
        ...


class HookLever:
    """An operator's two commands. What they print is kept below `folder`, without secrets."""

    def __init__(self, name: str, hook: RollbackHook, endpoints: Endpoints, folder: Path, about: Mapping[str, str]) -> None:
        self._name = name
        self._hook = hook
        self._folder = folder
        self._redact = Redactor(endpoints.secrets)
        lane_about = {"TARGET": endpoints.name, "RUNTIME_URL": endpoints.runtime_url, "CONTROL_URL": endpoints.control_url}
        self._about = {"STEP": name, **lane_about, **about}
        self._kept: list[str] = []

    def apply(self) -> None:
        """See `Lever`."""
        self._run("apply", self._hook.apply)

    def restore(self) -> None:
        """See `Lever`."""
        self._run("restore", self._hook.restore)

    @property
    def in_words(self) -> tuple[str, str]:
        """See `Lever`."""
        return self._shown(self._hook.apply), self._shown(self._hook.restore)

    @property
    def evidence(self) -> tuple[str, ...]:
        """See `Lever`."""
        return tuple(self._kept)

    def _shown(self, command: list[str]) -> str:
        return shlex.join([self._redact.text(part) for part in command])

    def _run(self, action: str, command: list[str]) -> None:
        output = Output(self._redact)
        environment = {**os.environ, **{_PREFIX + name: value for name, value in {"ACTION": action, **self._about}.items()}}
        name = f"{self._name}-{action}.txt"
        try:
            _, why = asyncio.run(operator_command.run(command, environment, self._hook.timeout_s, output))
        finally:
            output.keep(self._folder / name)
            self._kept.append(f"{self._folder.name}/{name}")
        if why:
            raise HookError(f"the command to {action} {self._name} {why}; what it said is in {self._folder / name}.")


class MockLever:
    """A route of a mock of ours: what is put there, and what was there before."""

    def __init__(self, endpoints: Endpoints, name: str, wanted: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self._endpoints = endpoints
        self._name = name
        self._wanted, self._before = wanted, before

    def apply(self) -> None:
        """See `Lever`."""
        self._put(self._wanted)

    def restore(self) -> None:
        """See `Lever`."""
        self._put(self._before)

    @property
    def in_words(self) -> tuple[str, str]:
        """See `Lever`."""
        return self._shown(self._wanted), self._shown(self._before)

    @property
    def evidence(self) -> tuple[str, ...]:
        """See `Lever`."""
        return ()

    def _shown(self, body: Mapping[str, Any]) -> str:
        url = f"{self._endpoints.runtime_url}/_mock/{self._name}"
        return shlex.join(["curl", "-X", "PUT", "-d", msgspec.json.encode(body).decode(), url])

    def _put(self, body: Mapping[str, Any]) -> None:
        async def put() -> None:
            async with ServiceHttp(self._endpoints) as http:
                await http.ask(service_api.change, self._name, body)

        asyncio.run(put())
