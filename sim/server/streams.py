"""The streams of one runtime: their logs, and the answers to stale cursors."""

import msgspec

from sim.protocols.events import Message, Position, Snapshot, Stale
from sim.protocols.intents import Subscribe
from sim.protocols.profile import ServerProfile
from sim.server import misbehaviours
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import RETENTION_FLOOR_BREACH, StreamLog, Window, effective_budget, replay_lag


class Streams:
    """All logs by topic, and their snapshots."""

    def __init__(self, settings: RuntimeSettings, profile: ServerProfile) -> None:
        self.logs: dict[str, StreamLog] = {}
        self._settings = settings
        self.hash_of = profile.payload_hash
        self._class_of = profile.topics.topic_class
        self._snapshots: dict[str, dict[str, object]] = {}
        self._sent = 0  # snapshots with a digest of their own, by a defect
        self.life = 1  # of the process that has lost no log since
        self._recreated: dict[str, int] = {}  # how often, by topic

    def log(self, topic: str) -> StreamLog:
        """Return the topic's log, which is created on first use."""
        if topic not in self.logs:
            self.logs[topic] = StreamLog(self._settings.window_events, self._class_of(topic).retention_s, self.hash_of)
        return self.logs[topic]

    def recreate(self, topic: str) -> int:
        """Replace the topic's log by an empty one, whose positions start over; returns how many events are gone."""
        old = self.logs.pop(topic, None)
        self._snapshots.pop(topic, None)
        self.log(topic)
        self._recreated[topic] = self._recreated.get(topic, 0) + 1
        return old.head if old else 0

    def follow(self, before: "Streams", *, is_kept: bool) -> None:
        """Follow the streams of the process before; `is_kept`: with their logs."""
        self.life, self._recreated = before.life, before._recreated
        if is_kept:
            self.logs.update(before.logs)
        else:
            self.life += 1

    def epoch(self, topic: str) -> str:
        """Return what identifies the topic's log, in protocols with epochs."""
        return f"log-{self.life}.{self._recreated.get(topic, 0)}"

    def head(self, topic: str) -> int:
        """Return the topic's last seq; 0 without events."""
        log = self.logs.get(topic)
        return log.head if log else 0

    def refusal(self, intent: Subscribe, switches: Switches, now: float) -> tuple[Stale, ...]:
        """Return a stale signal for each position of a subscribe that cannot be resumed; empty: all can."""
        stale = []
        for topic, position in intent.after.items():
            if position is not None and (log := self.logs.get(topic)) is not None:
                after, budget = int(position.offset), self._budget(topic, switches)
                if reasons := misbehaviours.stale_reasons(switches, after, log.window(), budget):
                    stale.append(self._stale(topic, after, reasons, switches, now))
        return tuple(stale)

    def fell_off(self, topic: str, position: int, switches: Switches, now: float) -> tuple[Stale, ...]:
        """Return the stale signal for a live subscriber whose next event is no longer retained."""
        return (self._stale(topic, position, (RETENTION_FLOOR_BREACH,), switches, now),)

    def _budget(self, topic: str, switches: Switches) -> int:
        own = self._settings.replay_budget_events or self._class_of(topic).replay_budget_events
        return effective_budget(switches.shrunk_budget_events or own)

    def _stale(self, topic: str, after: int, reasons: tuple[str, ...], switches: Switches, now: float) -> Stale:
        log, content = self.logs[topic], self._snapshot(topic, switches, now)
        return Stale(
            topic,
            asked=Position(after),
            floor=Position(log.oldest - 1),
            head=Position(log.head),
            reasons=reasons,
            lag=replay_lag(after, Window(log.oldest, log.head)),
            budget=self._budget(topic, switches),
            snapshot=None if content is None else Snapshot(Position(int(str(content["watermark"]))), content),
        )

    def _snapshot(self, topic: str, switches: Switches, now: float) -> dict[str, object] | None:
        """Return the topic's newest snapshot. A new one is taken if it is due, or if the old one ends before the window."""
        every_s = self._class_of(topic).snapshot_every_s
        if every_s is None:
            return None
        log, kept = self.logs[topic], self._snapshots.get(topic)
        if kept is None or now - float(str(kept["taken_at"])) >= every_s or int(str(kept["watermark"])) < log.oldest - 1:
            kept = self._snapshots[topic] = log.snapshot(now)
        if "unsteady_digests" in switches.defects:
            self._sent += 1
            return {**kept, "digest": str(self._sent)}
        if "hollow_snapshots" in switches.defects:
            return {**kept, "events": 0}
        return {**kept, "watermark": log.oldest // 2} if "old_snapshots" in switches.defects else kept


def answering(stale: Message, ref: str) -> Message:
    """Return the stale signals as the answer to a subscribe."""
    return tuple(msgspec.structs.replace(each, ref=ref) for each in stale if isinstance(each, Stale))
