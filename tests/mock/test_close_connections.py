"""The mock ends connections as the fault `close_connections` orders, in both protocols, byte for byte on the wire."""

import json

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from sim.mock.process import BlockingMockProcess
from sim.mock.server import ServeOptions
from sim.protocols import registry
from sim.server.settings import RuntimeSettings, Switches

PROTOCOLS = ("spacetime", "phoenix_sync")
DEVICE, OTHER = "device-1", "device-2"
LIMIT_S = 20.0


class Mock:
    def __init__(self, url: str, protocol: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False)
        self.states_refusals = registry.server_forms(protocol).profile.states_refusals
        self.socket = f"{url.replace('http', 'ws')}{registry.wire_forms(protocol).socket_path}"

    def connect(self, device: str = DEVICE) -> ClientConnection:
        asked = {"topics": ["runtime.codex_worker_events"], "device_id": device}
        answer = self.http.post("/api/spacetime/token", headers={"Authorization": "Bearer session-a"}, json=asked)
        token = answer.json()["data"]["token"]
        return connect(f"{self.socket}?vsn=2.0.0&token={token}", ping_interval=None, proxy=None)

    def order(self, code: int | None, **more: float) -> int:
        """Close the connections of `DEVICE` with this code; None: end the fault. Returns the number of closed connections."""
        codes = {} if code is None else {DEVICE: code}
        answer = self.http.put("/_mock/closes", json={"fault": 0, "codes": codes, **more})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["sockets_closed"])

    def acted(self) -> int:
        return int(self.http.get("/_mock/state").json()["acted"].get("close_connections", 0))


@pytest.fixture(scope="module", params=PROTOCOLS)
def mock(request, tmp_path_factory):
    log = tmp_path_factory.mktemp("mock") / "mock.log"
    process = BlockingMockProcess(ServeOptions(RuntimeSettings(), Switches(), protocol=request.param), log)
    yield Mock(process.url, request.param)
    process.stop()
    assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def reverted(mock):
    yield
    mock.order(None)


def end_of(socket: ClientConnection) -> tuple[int | None, str]:
    """How the server closed: its code, None without a close frame, and its reason."""
    try:
        while True:
            socket.recv(timeout=LIMIT_S)
    except ConnectionClosed as closed:
        return (None, "") if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, 4000, 4500, 4999])
def test_open_connection_is_closed_with_the_code(mock: Mock, code: int):
    with mock.connect() as socket:
        assert mock.order(code) == 1
        assert end_of(socket) == (code, "")
    with mock.connect() as again:
        assert again.ping().wait(LIMIT_S)  # only open connections are closed


def test_close_frame_without_a_code_and_no_close_frame(mock: Mock):
    for code, seen in ((1005, 1005), (1006, None)):
        with mock.connect() as socket:
            mock.order(code)
            assert end_of(socket)[0] == seen


def test_hint_is_in_the_reason(mock: Mock):
    with mock.connect() as socket:
        mock.order(1013, retry_after_ms=2000)
        code, reason = end_of(socket)
    assert (code, json.loads(reason)) == (1013, {"retry_after_ms": 2000})


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_upgrade_is_refused_with_the_status_and_the_hint(mock: Mock, status: int):
    with mock.connect() as socket:
        mock.order(status, retry_after_ms=1500)
        assert end_of(socket)[0] is None
    with pytest.raises(InvalidStatus) as refused:
        mock.connect()
    answer = refused.value.response
    assert answer.status_code == status
    assert answer.headers["Retry-After"] == "2"
    body = json.dumps({"error": {"retry_after_ms": 1500}}, separators=(",", ":"))
    assert (answer.body or b"").decode() == (body.replace("1500", "1500.0") if mock.states_refusals else "")
    mock.order(None)
    with mock.connect() as again:
        assert again.ping().wait(LIMIT_S)


def test_new_connection_is_accepted_and_then_closed(mock: Mock):
    before = mock.acted()
    mock.order(1011, after_ms=200)
    for _ in range(2):
        with mock.connect() as socket:
            assert end_of(socket)[0] == 1011
    assert mock.acted() == before + 2


def test_other_clients_stay(mock: Mock):
    with mock.connect(OTHER) as other:
        mock.order(4500, after_ms=50)
        with mock.connect() as socket:
            assert end_of(socket)[0] == 4500
        assert other.ping().wait(LIMIT_S)
