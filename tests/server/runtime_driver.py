"""A runtime on a virtual clock, driven frame by frame, and readers of what it sends."""

import msgspec

from sim.protocols.intents import Compatibility
from sim.protocols.payloads import canonical_json, hash_matches
from sim.protocols.spacetime.frames import ClientFrame, Join, ServerFrame, Subscribe, Update, UpdateBatch
from sim.protocols.spacetime.profile import PROFILE
from sim.protocols.spacetime.server import frame_of, intent_of
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from tests.client import server_double
from tests.client.server_double import COMPATIBILITY, KEYRING, START

A, B, C, D, E = (run_events(name) for name in "abcde")

WORKER = CODEX_WORKER_EVENTS

ALL = (A, B, C, D, E, WORKER)


def token(device: str = "d", topics: tuple[str, ...] = ALL, at: float = START) -> str:
    return server_double.token(device, topics, at)


class RuntimeDriver:
    """A runtime and its clock."""

    def __init__(self, switches: Switches | None = None, **changes: object) -> None:
        self.runtime = Runtime(RuntimeSettings(**changes), KEYRING, PROFILE, switches)  # type: ignore[arg-type]
        self.now = START

    def publish(self, topic: str, count: int = 1) -> None:
        for _ in range(count):
            log = self.runtime.streams.log(topic)
            log.append(f"{topic}{log.next_seq}", canonical_json({"n": log.next_seq}), self.now)
            self.runtime.announce(topic, self.now)

    def open(self, device: str = "d", topics: tuple[str, ...] = ALL) -> int:
        return self.runtime.open(token(device, topics, self.now), COMPATIBILITY, self.now)

    def joined(self, device: str = "d") -> int:
        number = self.open(device)
        (reply,) = self.ask(number, Join("1", COMPATIBILITY))
        assert reply.ok
        return number

    def live(self, *topics: str, device: str = "d", **after: int) -> int:
        """A joined connection with its replay pulled."""
        number = self.joined(device)
        self.ask(number, Subscribe("2", topics, after))
        return number

    def ask(self, number: int, frame: ClientFrame) -> list:
        """Hand in a frame and pull all answers."""
        self.send(number, frame)
        return self.pull(number)

    def send(self, number: int, frame: ClientFrame) -> None:
        """Hand in a frame."""
        self.runtime.received(number, intent_of(frame), self.now)

    def next(self, number: int) -> ServerFrame | None:
        """Pull a frame."""
        message = self.runtime.pull(number, self.now)
        return None if message is None else frame_of(message)

    def pull(self, number: int) -> list:
        """Pull all frames."""
        return list(iter(lambda: self.next(number), None))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.runtime.wake_at() <= until:
            self.now = max(self.now, self.runtime.wake_at())
            self.runtime.wake(self.now)
        self.now = until


def is_intact(update: Update) -> bool:
    return hash_matches(bytes(update.payload), update.payload_hash)


def seqs(frames: list, topic: str | None = None) -> list[int]:
    batches = [frame for frame in frames if isinstance(frame, UpdateBatch)]
    return [u.watermark for b in batches for u in b.updates if topic in (None, u.topic)]


def compatibility(**changes: object) -> Compatibility:
    return msgspec.structs.replace(COMPATIBILITY, **changes)
