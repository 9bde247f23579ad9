"""The lane's HTTP as a drill needs it, on asyncio: tokens, runs, events, readiness, and the mock's fault switches."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from sim.base.errors import TargetError
from sim.client.actions import Token
from sim.client.session import ClientSession
from sim.engines.shared import service as forms
from sim.engines.shared.service import (
    MINTS_AT_ONCE,
    PUBLISHES_AT_ONCE,
    UNKNOWN_OUTCOME,
    Answer,
    MintFailedError,
    NoAnswerError,
    Request,
)
from sim.engines.shared.service import Endpoints as Endpoints
from sim.engines.shared.service import PublishedEvent as PublishedEvent
from sim.engines.shared.service import PublishFailedError as PublishFailedError
from sim.engines.sockets.http import Http
from sim.server.settings import Switches
from sim.server.tokens import device_id

_SPARE = 16  # connections for everything else


class ServiceHttp:
    """One HTTP client for a whole run; `close` it."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        at_once = MINTS_AT_ONCE + PUBLISHES_AT_ONCE + _SPARE
        self._http = Http(at_once)
        # Limited apart, so that no event waits behind a storm of mints: that wait would be ours, and count as the
        # runtime's. What a drill itself asks (readiness, switches) waits behind neither.
        self._minting = asyncio.Semaphore(MINTS_AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    # --- what clients need --------------------------------------------------------------------------

    async def mint(self, session: ClientSession) -> Token:
        """A token for this client and its topics; raises `MintFailedError`."""
        request = forms.mint(self._endpoints, session)
        try:
            async with self._minting:
                answer = await self._send(request)
        except NoAnswerError:
            raise MintFailedError("network") from None
        return forms.minted(answer)

    async def any_token(self) -> str:
        """A token for no topic in particular. Raises `TargetError`."""
        request = forms.any_token(self._endpoints)
        return forms.token_in(request.url, await self._ask(request))

    # --- publishing ---------------------------------------------------------------------------------

    async def create_run(self, worker_id: str) -> str:
        """A new run; returns its id. Raises `TargetError`."""
        return forms.created_run(self._endpoints, await self._ask(forms.create_run(self._endpoints, worker_id)))

    async def publish(self, run_id: str, event_type: str, payload: object, key: str) -> PublishedEvent:
        """Append one event; raises `PublishFailedError`."""
        try:
            answer = await self._send(forms.publish(self._endpoints, run_id, event_type, payload, key))
        except NoAnswerError:
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        return forms.published(self._endpoints, answer, run_id, event_type, payload)

    async def revoke(self, sessions: list[str]) -> int:
        """Revoke sessions; returns how many the runtime says it revoked. Raises `TargetError`."""
        if self._endpoints.kind != "mock":  # whose sessions are its users', and the operator's own
            raise TargetError(f"sessions are only ever revoked on stormgate's own mock, not on {self._endpoints.name}.")
        url = f"{self._endpoints.runtime_url}/internal/v1/sync/sessions/revoke"
        answer = await self._ask(Request("POST", url, {"session_ids": sessions}))
        try:
            return int(answer.json()["revoked"])
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{url} answered {forms.shown(answer)} where sessions were to be revoked.") from None

    # --- is it there, and does it speak the protocol? -----------------------------------------------

    async def check(self) -> None:
        """Raise `TargetError`, one sentence, unless runtime and control service answer as the contract says."""
        for number, request in enumerate(forms.checks(self._endpoints)):
            forms.require_checked(number, request.url, await self._ask(request))

    async def status_of(self, method: str, path: str) -> int:
        """What the runtime answers to a request without a body: its HTTP status, 0 for nothing."""
        try:
            return (await self._send(Request(method, self._endpoints.runtime_url + path))).status_code
        except NoAnswerError:
            return 0

    async def is_ready(self) -> bool:
        """Whether the runtime answers 200 on /readyz."""
        return await self.status_of("GET", "/readyz") == 200

    async def _ask(self, request: Request) -> Answer:
        try:
            return await self._send(request)
        except NoAnswerError as error:
            raise forms.no_answer(request.url, error) from None

    async def _send(self, request: Request) -> Answer:
        return await self._http.request(
            request.method, request.url, headers=request.headers, json=request.json, content=request.content
        )

    # --- the mock's own routes ----------------------------------------------------------------------

    async def set_switches(self, switches: Switches) -> int:
        """Put faults in force; returns how many sockets were told to authenticate again."""
        answer = await self._mock("PUT", "switches", content=msgspec.json.encode(switches))
        return int(answer["sockets_told_to_reauthenticate"])

    async def shrink_window(self, topic: str, keep_events: int) -> int:
        """Make the runtime forget; returns how many events it forgot."""
        answer = await self._mock("PUT", "window", json={"topic": topic, "keep_events": keep_events})
        return int(answer["events_forgotten"])

    async def change_keys(self, *, rotate: bool) -> str:
        """Sign with a new key, or let the old ones go; returns the id of the key that signs."""
        return str((await self._mock("PUT", "keys", json={"rotate": rotate}))["kid"])

    async def hang_up(self, clients: Iterable[int]) -> int:
        """Make the runtime close these clients' sockets; returns how many it closed."""
        answer = await self._mock("PUT", "sockets", json={"devices": [device_id(client) for client in clients]})
        return int(answer["sockets_closed"])

    async def change(self, name: str, body: object) -> None:
        """Change something of a mock's rollout: its traffic, throttle or cohort. Raises `TargetError`."""
        await self._mock("PUT", name, json=body)

    async def switches(self) -> Switches:
        """The faults and defects in force."""
        return msgspec.convert((await self.mock_state())["switches"], Switches)

    async def mock_state(self) -> dict[str, Any]:
        """What the mock says of itself."""
        return await self._mock("GET", "state")

    async def _mock(self, method: str, name: str, json: object = None, content: bytes | None = None) -> dict[str, Any]:
        request = forms.mock_route(self._endpoints, method, name, json, content)
        return forms.mock_said(request.url, await self._ask(request))
