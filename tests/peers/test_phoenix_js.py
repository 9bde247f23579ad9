"""Phoenix's own JavaScript client, unchanged from npm, as a peer of the embedded runtime: real processes on both sides."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from sim.protocols.payloads import hash_matches
from sim.protocols.spacetime.streams import run_events
from tests.commands import free_port
from tests.served import LIMIT_S, Served, serving

HERE = Path(__file__).parent
HEARTBEAT_MS = 200
Said = dict[str, Any]


class Peer:
    """A running Node process with the client in it. `said` is everything it told, in order."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: Queue[str] = Queue()
        self.said: list[Said] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def next(self) -> Said:
        self.said.append(json.loads(self._lines.get(timeout=LIMIT_S)))
        return self.said[-1]

    def until(self, what: str, where: Callable[[Said], bool] = lambda said: True) -> Said:
        """The next thing told of this kind that fits; others are kept in `said`."""
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:  # its heartbeats alone would go on for ever
            if (said := self.next())["what"] == what and where(said):
                return said
        pytest.fail(f"it never told of '{what}'")

    def order(self, order: str, **more: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **more}) + "\n")
        self._process.stdin.flush()

    def seqs(self, topic: str) -> list[int]:
        return [said["seq"] for said in self.said if said["what"] == "update" and said["topic"] == topic]

    def told(self, *kinds: str) -> list[Said]:
        return [said for said in self.said if said["what"] in kinds]


@contextmanager
def phoenix(mock: Served, *topics: str, **resume_after: int) -> Iterator[Peer]:
    """The client, connected, joined and subscribing; it ends with its pipe, whatever happens to us."""
    node = shutil.which("node")
    assert node, "Node.js is missing: install it, then run `make test`"
    assert (HERE / "node_modules/phoenix").is_dir(), "the client is not installed: run `make test`, or `make peers`"
    options = {
        "url": mock.url.replace("http", "ws", 1),
        "token": mock.token(*topics),
        "topics": topics,
        "resume_after": resume_after,
        "heartbeat_ms": HEARTBEAT_MS,
    }
    pipe = subprocess.PIPE
    command = [node, str(HERE / "phoenix_peer.js"), json.dumps(options)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        try:
            yield Peer(process)
        finally:
            process.stdin.close()
            try:
                process.wait(LIMIT_S)
            finally:
                process.kill()


def published(mock: Served, run: str, numbers: range) -> None:
    for number in numbers:
        assert mock.publish(run, {"number": number}).status_code == 201


@pytest.mark.parametrize("frames", [False, True], ids=["update_batch", "frame"])
def test_it_joins_and_gets_what_follows_its_cursor_and_then_the_live_tail(tmp_path: Path, frames: bool):
    with serving(tmp_path, {"sync_frames": frames, "replay_batch_size": 3}) as mock:
        run = mock.run()
        topic = run_events(run)
        published(mock, run, range(1, 11))
        with phoenix(mock, topic, **{topic: 4}) as peer:
            assert peer.until("joined")["response"]["allowed_topics"] == [topic]
            peer.until("subscribed")
            assert peer.seqs(topic) == [5, 6, 7, 8, 9, 10]  # the replay comes before the subscribe's reply
            published(mock, run, range(11, 14))
            peer.until("update", lambda said: said["seq"] == 13)
            assert peer.seqs(topic) == list(range(5, 14))
    for update in peer.told("update"):
        assert update["payload"]["payload"] == {"number": update["seq"]}
        assert hash_matches(json.dumps(update["payload"]).encode(), update["payload_hash"])
    assert peer.told("error", "refused", "timeout", "channel_error", "close") == []


def test_its_heartbeats_are_answered_and_it_stays_connected(tmp_path: Path):
    with serving(tmp_path, {"heartbeat_interval_s": 0.3, "client_timeout_s": 1.0}) as mock:
        run = mock.run()
        topic = run_events(run)
        with phoenix(mock, topic) as peer:
            peer.until("subscribed")
            for _ in range(10):  # twice as long as a silent client is kept
                beat = peer.until("heartbeat")
                assert (beat["event"], beat["join_ref"], beat["status"]) == ("phx_reply", None, "ok")
            assert peer.until("heads")["watermarks"] == [{"topic": topic, "watermark": 0}]
            assert len({beat["ref"] for beat in peer.told("heartbeat")}) >= 10
            assert peer.told("close", "channel_error", "timeout") == []


def test_it_survives_a_restart_of_the_runtime_without_loss(tmp_path: Path):
    """SIGKILL in mid-traffic, and the same log on the same port: the library reconnects and rejoins by itself."""
    port = free_port()
    with serving(tmp_path, port=port) as mock:
        run = mock.run()
        topic = run_events(run)
        published(mock, run, range(1, 6))
        with phoenix(mock, topic) as peer:
            peer.until("subscribed")
            published(mock, run, range(6, 9))
            peer.until("update", lambda said: said["seq"] == 6)
            mock.kill()
            assert peer.until("close")["code"] == 1006
            with serving(tmp_path, port=port) as again:
                published(again, run, range(9, 12))  # some of them before it is back
                peer.until("joined")
                peer.until("subscribed")
                published(again, run, range(12, 15))
                peer.until("update", lambda said: said["seq"] == 14)
                peer.until("heartbeat")
    assert peer.seqs(topic) == list(range(1, 15))
    assert [update["payload"]["payload"]["number"] for update in peer.told("update")] == list(range(1, 15))
    assert len(peer.told("joined")) == 2
    assert peer.told("error", "refused", "timeout") == []


def test_it_leaves_and_joins_again_over_the_same_socket(tmp_path: Path):
    with serving(tmp_path) as mock:
        run = mock.run()
        topic = run_events(run)
        published(mock, run, range(1, 4))
        with phoenix(mock, topic) as peer:
            peer.until("subscribed")
            peer.order("leave_and_join")
            peer.until("left")
            peer.until("subscribed")
            published(mock, run, range(4, 6))
            peer.until("update", lambda said: said["seq"] == 5)
            assert peer.seqs(topic) == [1, 2, 3, 4, 5]
            assert peer.told("close", "timeout") == []


def test_it_is_told_of_a_stale_cursor(tmp_path: Path):
    with serving(tmp_path, {"window_events": 4, "replay_budget_events": 2}) as mock:
        run = mock.run()
        topic = run_events(run)
        published(mock, run, range(1, 11))
        with phoenix(mock, topic, **{topic: 1}) as peer:
            assert peer.until("error")["body"]["code"] == "stale_cursor"
            response = peer.until("refused")["response"]
            assert response["reason_codes"] == ["retention_floor_breach", "replay_budget_exceeded"]
            assert response["snapshot_plan"]["topics"][0]["snapshot"]["watermark"] == 10
            assert peer.seqs(topic) == []


def test_what_it_may_not_do_over_the_socket_is_refused(tmp_path: Path):
    with serving(tmp_path) as mock:
        run = mock.run()
        topic = run_events(run)
        with phoenix(mock, topic) as peer:
            peer.until("subscribed")
            peer.order("push", event="publish", payload={"topic": topic, "payload": 1})
            assert peer.until("push_refused")["response"]["code"] == "mutation_refused"
        assert mock.state()["streams"].get(topic, {"head": 0})["head"] == 0


def test_after_a_revocation_it_reconnects_and_stays_shut_out(tmp_path: Path):
    """The library comes back after any close of the server's; with the revoked token every upgrade is refused."""
    with serving(tmp_path) as mock:
        run = mock.run()
        topic = run_events(run)
        with phoenix(mock, topic) as peer:
            peer.until("subscribed")
            mock.http.post("/internal/v1/sync/sessions/revoke", json={"session_ids": ["session-ann"]})
            assert peer.until("error")["body"]["code"] == "reauth_required"
            peer.until("close", lambda said: said["code"] == 1000)
            peer.until("close", lambda said: said["code"] == 1006)  # the upgrade refused
            published(mock, run, range(1, 3))
            assert peer.seqs(topic) == []
            assert len(peer.told("open")) == 1
