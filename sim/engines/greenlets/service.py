"""The lane's HTTP for greenlets: pooled connections that are kept alive, apart for tokens, events and everything else."""

import ssl
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from sim.client.actions import Token
from sim.client.session import ClientSession
from sim.engines.shared import service as forms
from sim.engines.shared.service import (
    MINTS_AT_ONCE,
    PUBLISHES_AT_ONCE,
    UNKNOWN_OUTCOME,
    Answer,
    Endpoints,
    MintFailedError,
    NoAnswerError,
    NothingThereError,
    PublishedEvent,
    PublishFailedError,
    Request,
    UntrustedError,
)
from sim.server.settings import Switches
from sim.server.tokens import device_id

REQUEST_TIMEOUT_S = 10.0
_SPARE = 16  # connections for everything else


class Pool:
    """So many connections at most to one base URL; whoever finds all of them taken waits."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self._http = HTTPClient(
            str(parts.hostname),
            parts.port,
            ssl=parts.scheme == "https",
            concurrency=connections,
            connection_timeout=REQUEST_TIMEOUT_S,
            network_timeout=REQUEST_TIMEOUT_S,
        )

    def request(self, request: Request) -> Answer:
        """Ask; raises `NoAnswerError`."""
        body = request.content if request.json is None else msgspec.json.encode(request.json)
        headers = {"Content-Type": "application/json", **request.headers} if body is not None else request.headers
        target = urlsplit(request.url)
        try:
            answer = self._http.request(
                request.method, target.path + (f"?{target.query}" if target.query else ""), body, headers
            )
            content = bytes(answer.read())
            kind = str(answer.get("content-type", "no content type")).partition(";")[0]
            return Answer(answer.status_code, kind, content)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(str(error)) from None
        except ConnectionRefusedError as error:
            raise NothingThereError(str(error)) from None
        except (OSError, HTTPParseError, gevent.Timeout) as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class ServiceRequests:
    """All that a run asks of a lane; `close` it."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        # Apart, so that no event waits behind a storm of mints, and what a drill itself asks waits behind neither.
        self._mints = Pool(endpoints.control_url, MINTS_AT_ONCE)
        self._publishes = Pool(endpoints.runtime_url, PUBLISHES_AT_ONCE)
        self._others = Pool(endpoints.runtime_url, _SPARE)

    def close(self) -> None:
        """Close all connections."""
        for pool in (self._mints, self._publishes, self._others):
            pool.close()

    def mint(self, session: ClientSession) -> Token:
        """A token for this client and its topics; raises `MintFailedError`."""
        try:
            answer = self._mints.request(forms.mint(self.endpoints, session))
        except NoAnswerError:
            raise MintFailedError("network") from None
        return forms.minted(answer)

    def create_run(self, worker_id: str) -> str:
        """A new run; returns its id. Raises `TargetError`."""
        return forms.created_run(self.endpoints, self._ask(forms.create_run(self.endpoints, worker_id)))

    def publish(self, run_id: str, event_type: str, payload: object, key: str) -> PublishedEvent:
        """Append one event; raises `PublishFailedError`."""
        try:
            answer = self._publishes.request(forms.publish(self.endpoints, run_id, event_type, payload, key))
        except NoAnswerError:
            raise PublishFailedError(UNKNOWN_OUTCOME) from None
        return forms.published(self.endpoints, answer, run_id, event_type, payload)

    def check(self) -> None:
        """Raise `TargetError`, one sentence, unless runtime and control service answer as the contract says."""
        for number, request in enumerate(forms.checks(self.endpoints)):
            forms.require_checked(number, request.url, self._ask(request))

    def set_switches(self, switches: Switches) -> int:
        """Put faults in force; returns how many sockets were told to authenticate again."""
        answer = self._mock("PUT", "switches", content=msgspec.json.encode(switches))
        return int(answer["sockets_told_to_reauthenticate"])

    def shrink_window(self, topic: str, keep_events: int) -> int:
        """Make the runtime forget; returns how many events it forgot."""
        return int(self._mock("PUT", "window", {"topic": topic, "keep_events": keep_events})["events_forgotten"])

    def hang_up(self, clients: tuple[int, ...]) -> int:
        """Make the runtime close these clients' sockets; returns how many it closed."""
        return int(self._mock("PUT", "sockets", {"devices": [device_id(client) for client in clients]})["sockets_closed"])

    def mock_state(self) -> dict[str, Any]:
        """What the mock says of itself."""
        return self._mock("GET", "state")

    def switches(self) -> Switches:
        """The faults and defects in force."""
        return msgspec.convert(self.mock_state()["switches"], Switches)

    def _mock(self, method: str, name: str, json: object = None, content: bytes | None = None) -> dict[str, Any]:
        request = forms.mock_route(self.endpoints, method, name, json, content)
        return forms.mock_said(request.url, self._ask(request))

    def _ask(self, request: Request) -> Answer:
        pool = self._others if request.url.startswith(self.endpoints.runtime_url) else self._mints
        try:
            return pool.request(request)
        except NoAnswerError as error:
            raise forms.no_answer(request.url, error) from None
