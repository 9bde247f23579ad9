"""Killed in the middle of many publishes: everything acknowledged is there again, and no seq ever had two payloads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.served import Raw, Served, joined, serving, updates_in

PUBLISHERS = 12


class Publisher(threading.Thread):
    """Publishes to one run as fast as it can, until the runtime is gone; keeps what was acknowledged."""

    def __init__(self, url: str, run: str, number: int) -> None:
        super().__init__(daemon=True)
        self.address, self.number = f"{url}/internal/v1/runs/{run}/events", number
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self.tried: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=10.0, trust_env=False) as http:
            while True:
                key = f"{self.number}-{len(self.tried)}"
                self.tried.append(key)
                body = {"event_type": "e", "payload": key, "idempotency_key": key}
                try:
                    answer = http.post(self.address, json=body)
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    event = answer.json()["event"]
                    self.acknowledged[key] = (event["seq"], event["payload_hash"])


class Reader(threading.Thread):
    """Reads one topic live until the runtime is gone."""

    def __init__(self, served: Served, topic: str) -> None:
        super().__init__(daemon=True)
        self.raw, self.topic = Raw(served, served.token(topic)), topic
        self.seen: list[tuple[int, str]] = []

    def run(self) -> None:
        try:
            with self.raw as raw:
                raw.join()
                raw.send("sync:subscribe", {"topics": [self.topic]})
                while True:
                    self.seen += [(u["watermark"], u["payload_hash"]) for u in updates_in([raw.receive()])]
        except (WebSocketException, TimeoutError, OSError):
            pass


def storm_and_kill(mock: Served, run: str, after_s: float) -> tuple[list[Publisher], Reader]:
    reader = Reader(mock, f"run:{run}:events")
    publishers = [Publisher(mock.url, run, number) for number in range(PUBLISHERS)]
    reader.start()
    for publisher in publishers:
        publisher.start()
    until = time.monotonic() + 20
    while sum(len(publisher.acknowledged) for publisher in publishers) < 100 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(after_s)
    mock.kill()
    for thread in (*publishers, reader):
        thread.join(20)
        assert not thread.is_alive()
    return publishers, reader


def replayed(mock: Served, topic: str) -> Iterator[tuple[int, str]]:
    with joined(mock, topic) as raw:
        _, _, before = raw.subscribe(topic)
        yield from ((update["watermark"], update["payload_hash"]) for update in updates_in(before))


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.011, 0.05])
def test_acknowledged_events_survive_a_sigkill(tmp_path: Path, after_s: float):
    settings = {"publishes_per_s": 100_000, "window_events": 100_000}
    with serving(tmp_path, settings) as mock:
        run = mock.run()
        publishers, reader = storm_and_kill(mock, run, after_s)
    acknowledged = {key: place for publisher in publishers for key, place in publisher.acknowledged.items()}
    assert len(acknowledged) >= 100
    with serving(tmp_path, settings) as mock:
        kept = list(replayed(mock, f"run:{run}:events"))
        assert [seq for seq, _ in kept] == list(range(1, len(kept) + 1))
        assert set(acknowledged.values()) <= set(kept)
        delivered = {*kept, *reader.seen, *acknowledged.values()}
        assert len({seq for seq, _ in delivered}) == len(delivered), "one seq with two payloads"
        assert len(kept) <= sum(len(publisher.tried) for publisher in publishers)
        again = {key: mock.publish(run, "other", "e", idempotency_key=key).json()["event"] for key in list(acknowledged)[::10]}
        assert {key: (event["seq"], event["payload_hash"]) for key, event in again.items()} == {
            key: acknowledged[key] for key in again
        }
        assert mock.publish(run).json()["event"]["seq"] == len(kept) + 1


def test_tokens_survive_a_restart_and_a_defect_loses_the_log(tmp_path: Path):
    with serving(tmp_path) as mock:
        run = mock.run()
        mock.publish(run, 1)
        token = mock.token(f"run:{run}:events")
        mock.kill()
    with serving(tmp_path) as mock, Raw(mock, token) as raw:
        raw.join()
        assert len(updates_in(raw.subscribe(f"run:{run}:events")[2])) == 1
    with serving(tmp_path, defects=["lose_log_on_restart"]) as mock:
        assert mock.publish(run, 2).json()["event"]["seq"] == 1
