"""The mock's WebSocket, spoken to by hand: without any of the protocol's own code on this side."""

import base64
import contextlib
import json
import socket
import threading
import time
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.served import JOIN, LIMIT_S, Raw, Served, joined, seqs, serving, updates_in

MAX_WAITING = 256  # frames that the mock keeps for a client beside its events


def topic_of(run: str) -> str:
    return f"run:{run}:events"


def refusal(mock: Served, token: str | None) -> str:
    with pytest.raises(InvalidStatus) as raised, Raw(mock, token):
        pass
    assert raised.value.response.status_code == 403
    return str(json.loads(raised.value.response.body)["error"]["code"])


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "x" * 6000, "eyJhbGciOiJub25lIn0.e30."])
def test_an_upgrade_needs_a_token(mock: Served, token: str | None):
    assert refusal(mock, token) in ("unauthorized", "invalid_token")


def test_expired_or_forged_token_is_refused_and_its_client_disconnected(tmp_path):
    with serving(tmp_path) as mock:
        token = mock.token()
        head, claims, signature = token.split(".")
        assert refusal(mock, f"{head}.{claims}.{signature[::-1]}") == "invalid_token"
        with Raw(mock, token) as raw:
            raw.join()
            mock.switch(tokens_void_before=time.time())
            assert raw.to_the_end()[-1][4]["code"] == "reauth_required"
        assert refusal(mock, token) == "token_expired"
        with joined(mock):  # with a token that is minted now
            pass
        mock.switch()
        with Raw(mock, token) as raw:
            raw.join()


def test_another_path_is_no_socket(mock: Served):
    with pytest.raises(InvalidStatus) as raised, Raw(Served(mock.process, mock.url + "/elsewhere", mock.log), "x"):
        pass
    assert raised.value.response.status_code in (403, 404)


# --- join, subscribe, replay, live ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"protocol_version": "spacetime.sync.v0"}, "unsupported_protocol_version"),
        ({"schema_version": 2}, "unsupported_schema_version"),
        ({"client_build_id": "yesterday"}, "invalid_client_build"),
    ],
)
def test_an_incompatible_client_may_not_join(mock: Served, change: dict[str, object], code: str):
    with Raw(mock, mock.token()) as raw:
        status, response, _ = raw.ask("phx_join", JOIN | change)
        assert (status, response["code"]) == ("error", code)
        status, response, _ = raw.subscribe("run:r1:events")
        assert (status, response["code"]) == ("error", "not_joined")


def test_replay_batches_precede_the_reply_and_the_live_events(mock: Served):
    run = mock.run()
    topic = topic_of(run)
    sent = [mock.publish(run, {"n": number}).json()["event"]["payload_hash"] for number in range(7)]
    with joined(mock, topic) as raw:
        status, _, before = raw.subscribe(topic, resume_after={topic: 2}, replay_batch_size=2)
        assert status == "ok"
        batches = [frame[4] for frame in before]
        assert [seqs(batch["updates"]) for batch in batches] == [[3, 4], [5, 6], [7]]
        assert [batch["replay_complete"] for batch in batches] == [False, False, True]
        assert batches[-1]["head_watermarks"] == [{"topic": topic, "watermark": 7}]
        first = batches[0]["updates"][0]
        assert set(first) >= {"topic", "doc_key", "doc_version", "payload", "payload_hash", "watermark", "hydration_required"}
        assert first["payload"] == {"run_id": run, "event_type": "run.progress", "payload": {"n": 2}}
        assert [update["payload_hash"] for update in updates_in(before)] == sent[2:]
        mock.publish(run, "live")
        (update,) = raw.updates(1)
        assert (update["watermark"], update["payload"]["payload"]) == (8, "live")


@pytest.mark.parametrize("as_list", [True, False])
def test_a_cursor_may_be_a_list_or_an_object_and_each_topic_has_its_own(mock: Served, as_list: bool):
    one, two = mock.append(mock.run(), 3), mock.append(mock.run(), 3)
    cursors = [{"topic": one, "watermark": 2}, {"topic": two, "watermark": 1}] if as_list else {one: 2, two: 1}
    with joined(mock, one, two) as raw:
        _, _, before = raw.subscribe(one, two, resume_after=cursors)
    assert [(u["topic"], u["watermark"]) for u in updates_in(before)] == [(one, 3), (two, 2), (two, 3)]


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        *({"topics": []}, {}, {"topics": [1, 2]}, {"topics": "run:r1:events"}, 7, None, [], "x"),
        {"topics": ["run:r1:events"], "resume_after": {"run:r1:events": "x"}},
    ],
)
def test_bad_subscription_is_refused_under_its_reference(mock: Served, payload: object):
    with joined(mock, "run:r1:events") as raw:
        status, response, _ = raw.ask("sync:subscribe", payload)
        assert (status, response["code"]) == ("error", "bad_subscription")
        assert raw.subscribe("run:r1:events")[0] == "ok"


def test_a_topic_that_was_not_granted_is_forbidden(mock: Served):
    with joined(mock, "run:r1:events") as raw:
        status, response, _ = raw.subscribe("run:r1:events", "run:r2:events")
        assert (status, response["code"]) == ("error", "forbidden_topic")
        assert response["forbidden_topics"] == ["run:r2:events"]


@pytest.mark.parametrize("event", ["sync:publish", "publish", "run.create", "sync:update_batch", "phx_close"])
def test_a_mutation_over_the_socket_is_refused(mock: Served, event: str):
    topic = mock.append(mock.run())
    before = mock.state()["streams"]
    with joined(mock, topic) as raw:
        status, response, _ = raw.ask(event, {"topic": topic, "event": {"event_type": "x", "payload": 1}})
        assert (status, response["code"]) == ("error", "mutation_refused")
        assert raw.subscribe(topic)[0] == "ok"
    assert mock.state()["streams"][topic] == before[topic]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{}",
        "[]",
        "null",
        '["1","2","sync:v1"]',
        "[1,2,3,4,5]",
        "[" * 5000,
        '["1","2","room:1","phx_join",{}]',
        "\u0000",
    ],
)
def test_a_malformed_frame_is_answered_and_the_socket_stays_open(mock: Served, text: str):
    with joined(mock) as raw:
        raw.socket.send(text)
        assert raw.until("sync:error")["code"] in ("malformed_frame", "unknown_topic")
        raw.socket.send(text.encode() + b"\xff\xfe")  # and as a binary frame that is no text either
        assert raw.until("sync:error")["code"]
        assert raw.ask("heartbeat", {}, "phoenix")[0] == "ok"


def test_a_websocket_protocol_error_closes_that_socket_with_its_status(mock: Served):
    huge = json.dumps(["1", "2", "sync:v1", "sync:heartbeat", {"x": "x" * 256 * 1024}])
    with joined(mock) as other:
        for sent, status in ((b'["1","2","sync:v1","sync:heartbeat",{"x":"\xff"}]', 1007), (huge, 1009)):
            with joined(mock) as raw:
                raw.socket.send(sent, text=True)
                with pytest.raises(ConnectionClosed) as raised:
                    raw.receive()
                assert raised.value.rcvd is not None
                assert raised.value.rcvd.code == status
        assert other.ask("heartbeat", {}, "phoenix")[0] == "ok"
    assert "Traceback" not in mock.log.read_text()


def test_a_request_without_a_reference_is_answered_without_one(mock: Served):
    with Raw(mock, mock.token()) as raw:
        raw.socket.send('[null,null,"phoenix","heartbeat",{}]')
        assert raw.receive() == [None, None, "phoenix", "phx_reply", {"status": "ok", "response": {}}]


def test_closed_sockets_leave_no_memory_behind(tmp_path):
    """A closed socket is in cycles: a garbage collector that runs too rarely keeps all of them."""
    with serving(tmp_path) as mock:
        address = ("127.0.0.1", httpx.URL(mock.url).port or 0)
        path = f"/sync/socket/websocket?token={mock.token()}&vsn=2.0.0"
        upgrade = f"GET {path} HTTP/1.1\r\nHost: mock\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        upgrade += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"

        def open_and_close(times: int) -> float:
            """The mock's memory afterwards, in MiB."""
            for _ in range(times):
                with socket.create_connection(address, LIMIT_S) as raw:
                    raw.sendall(upgrade.encode())
                    assert raw.recv(4096).startswith(b"HTTP/1.1 101 ")
            return psutil.Process(mock.process.pid).memory_info().rss / 2**20

        before_mib = open_and_close(2000)
        assert open_and_close(4000) - before_mib < 10


# --- heartbeats, revocation, slow readers -----------------------------------------------------------


def test_heartbeats_carry_the_heads_and_a_silent_client_is_dropped(tmp_path):
    with serving(tmp_path, {"heartbeat_interval_s": 0.2, "client_timeout_s": 1.0}) as mock:
        run = mock.run()
        mock.publish(run)
        with joined(mock, topic_of(run)) as raw:
            raw.subscribe(topic_of(run))
            assert raw.until("sync:heartbeat") == {"watermarks": [{"topic": topic_of(run), "watermark": 1}]}
            last = raw.to_the_end()[-1]
        assert (last[3], last[4]["code"]) == ("sync:error", "client_timeout")


def test_transport_heartbeat_is_answered_on_its_own_channel_before_any_join(mock: Served):
    with Raw(mock, mock.token()) as raw:
        ref = raw.send("heartbeat", {}, "phoenix")
        assert raw.receive() == [None, ref, "phoenix", "phx_reply", {"status": "ok", "response": {}}]


def test_revoked_sessions_are_notified_closed_and_refused(mock: Served):
    kept, revoked = (mock.token_response(session=f"session-{name}").json()["data"]["token"] for name in ("kept", "revoked"))
    with Raw(mock, kept) as other, Raw(mock, revoked) as raw:
        other.join()
        raw.join()
        answer = mock.http.post("/internal/v1/sync/sessions/revoke", json={"session_ids": ["session-revoked", "session-none"]})
        assert answer.json() == {"revoked": 2, "sockets_closed": 1}
        last = raw.to_the_end()[-1]
        assert (last[3], last[4]["code"]) == ("sync:error", "reauth_required")
        assert other.ask("heartbeat", {}, "phoenix")[0] == "ok"
    assert refusal(mock, revoked) == "token_revoked"


def narrow_socket(mock: Served) -> socket.socket:
    """A connection to it that holds little of what its end does not read."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    narrow.connect((mock.http.base_url.host, mock.http.base_url.port))
    return narrow


def test_a_client_that_does_not_read_is_warned_and_then_disconnected(tmp_path):
    """Large events pile up behind a socket with small buffers that its client does not read."""
    with serving(tmp_path, {"outbound_queue_events": 4, "slow_consumer_tick_s": 0.1}) as mock:
        run = mock.run()
        topic = topic_of(run)
        with Raw(mock, mock.token(topic), sock=narrow_socket(mock), max_queue=1) as raw:
            raw.join()
            raw.subscribe(topic)
            for _ in range(80):
                assert mock.publish(run, "x" * 200_000).status_code == 201
            deadline = time.monotonic() + 20
            while mock.state()["streams"][topic]["head"] < 80 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1.0)  # ten checks of the queue; three full ones in a row are enough
            frames = raw.to_the_end()
        errors = [frame[4] for frame in frames if frame[3] == "sync:error"]
        assert {error["code"] for error in errors} == {"slow_consumer"}
        # A client that reads nothing may never get the warnings: they wait behind what it did not read.
        assert [error["action"] for error in errors][-1:] == ["disconnect"]
        assert errors[-1]["queue_depth"] > errors[-1]["queue_limit"] == 4
        assert errors[-1]["reconnect_after_ms"] == 2000
        received = seqs(updates_in(frames))
        assert received == list(range(1, len(received) + 1))


def test_a_client_that_does_not_read_replies_is_not_read_until_it_does(tmp_path):
    """Each answer is as long as its question, so what sockets hold of them is soon full."""
    questions = [f"{number} {'x' * 1000}" for number in range(1500)]
    with serving(tmp_path, {"send_buffer_kib": 16}) as mock:
        with Raw(mock, mock.token(), sock=narrow_socket(mock), max_queue=1) as raw:
            asking = start_asking(raw, questions)
            assert until(mock, "held_back", 1)["longest_outbox"] == MAX_WAITING + 1
            assert [raw.receive()[1] for _ in questions] == questions
            asking.join(LIMIT_S)
            assert mock.state()["held_back"] == 0
        with Raw(mock, mock.token(), sock=narrow_socket(mock), max_queue=1) as raw:
            asking = start_asking(raw, questions)
            until(mock, "held_back", 1)
            raw.socket.socket.shutdown(socket.SHUT_RDWR)
            asking.join(LIMIT_S)
        assert until(mock, "consumers", 0)["held_back"] == 0, "a client that disconnects meanwhile is not waited for"


def start_asking(raw: Raw, questions: list[str]) -> threading.Thread:
    """Ask in a thread without reading the answers, until all is asked or the connection is gone."""

    def ask() -> None:
        with contextlib.suppress(ConnectionClosed):
            for ref in questions:
                raw.socket.send(json.dumps([None, ref, "phoenix", "heartbeat", {}]))

    asking = threading.Thread(target=ask)
    asking.start()
    return asking


def until(mock: Served, key: str, value: int) -> dict[str, Any]:
    """Wait for this value in the mock's state; returns the state."""
    deadline = time.monotonic() + LIMIT_S
    while (state := mock.state())[key] != value and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state[key] == value, state
    return state


def test_a_client_that_disconnects_affects_no_other_client(mock: Served):
    run = mock.run()
    topic = topic_of(run)
    for _ in range(40):
        mock.publish(run, "x" * 50_000)
    for _ in range(5):
        with joined(mock, topic) as raw:
            raw.send("sync:subscribe", {"topics": [topic]})
            raw.socket.socket.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionClosed):
                raw.until("phx_reply")
    with joined(mock, topic) as raw:
        assert len(updates_in(raw.subscribe(topic)[2])) == 40
    assert "Traceback" not in mock.log.read_text()


def test_no_token_is_ever_logged(tmp_path):
    with serving(tmp_path) as mock:
        token = mock.token()
        with Raw(mock, token) as raw:
            raw.join()
            raw.socket.send("malformed")
            raw.until("sync:error")
            mock.switch(tokens_void_before=time.time())
            raw.to_the_end()
        refusal(mock, token)
        refusal(mock, token[:-3])
        mock.http.get(f"/sync/socket/websocket?token={token}")
        mock.http.get(f"/nowhere?token={token}")
    assert token[:40] not in mock.log.read_text()
    assert token.split(".")[1] not in mock.log.read_text()
