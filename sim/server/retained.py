"""The streams of one runtime: their logs, and what a cursor that these no longer cover is told."""

from sim.protocols.spacetime.frames import Body, SnapshotPlan, SnapshotTopic, StaleTopic
from sim.protocols.spacetime.streams import topic_class
from sim.server import misbehaviours
from sim.server.continuity import RETENTION_FLOOR_BREACH, effective_budget
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import StreamLog


class Streams:
    """All logs by topic, and the snapshots taken of them."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self.logs: dict[str, StreamLog] = {}
        self._settings = settings
        self._snapshots: dict[str, dict[str, object]] = {}

    def log(self, topic: str) -> StreamLog:
        """The topic's log, made when it is first asked for."""
        if topic not in self.logs:
            self.logs[topic] = StreamLog(self._settings.window_events, topic_class(topic).retention_s)
        return self.logs[topic]

    def head(self, topic: str) -> int:
        """The topic's last seq, 0 when it has none."""
        log = self.logs.get(topic)
        return log.head if log else 0

    def refusal(self, topics: tuple[str, ...], resume_after: dict[str, int], switches: Switches, now: float) -> Body | None:
        """The `stale_cursor` answer to a subscribe, or None when every cursor can be resumed from."""
        stale: dict[str, tuple[str, ...]] = {}
        for topic in topics:
            after, log = resume_after.get(topic), self.logs.get(topic)
            if after is not None and log is not None:
                budget = self._budget(topic, switches.shrunk_budget_events)
                reasons = misbehaviours.stale_reasons(switches, after, log.window(), budget)
                if reasons:
                    stale[topic] = reasons
        return self._body(stale, resume_after, switches, now) if stale else None

    def fell_off(self, topic: str, position: int, switches: Switches, now: float) -> Body:
        """What a live subscriber is told whose next event the window no longer holds."""
        return self._body({topic: (RETENTION_FLOOR_BREACH,)}, {topic: position}, switches, now)

    def _budget(self, topic: str, shrunk_budget_events: int) -> int:
        own = self._settings.replay_budget_events or topic_class(topic).replay_budget_events
        return effective_budget(shrunk_budget_events or own)

    def _body(self, stale: dict[str, tuple[str, ...]], cursors: dict[str, int], switches: Switches, now: float) -> Body:
        shrunk = switches.shrunk_budget_events
        return Body(
            code="stale_cursor",
            message="a replay no longer covers the cursor; take the snapshot and subscribe without one",
            full_resync_required=True,
            reason_codes=tuple(dict.fromkeys(reason for reasons in stale.values() for reason in reasons)),
            stale_topics=tuple(
                self._stale_topic(topic, reasons[0], cursors[topic], shrunk) for topic, reasons in stale.items()
            ),
            snapshot_plan=SnapshotPlan(
                tuple(SnapshotTopic(topic, self.head(topic), self._snapshot(topic, switches, now)) for topic in stale)
            ),
        )

    def _stale_topic(self, topic: str, reason: str, after: int, shrunk: int) -> StaleTopic:
        log = self.logs[topic]
        return StaleTopic(
            topic=topic,
            reason=reason,
            qos_tier=topic_class(topic).qos,
            resume_after=after,
            retention_floor=log.oldest - 1,
            head_watermark=log.head,
            replay_lag=max(log.head - after, 0),
            replay_budget_events=self._budget(topic, shrunk),
        )

    def _snapshot(self, topic: str, switches: Switches, now: float) -> dict[str, object] | None:
        """The topic's newest snapshot, taken anew when it is due or no longer reaches the retained window."""
        every_s = topic_class(topic).snapshot_every_s
        if every_s is None:
            return None
        log, kept = self.logs[topic], self._snapshots.get(topic)
        if kept is None or now - float(str(kept["taken_at"])) >= every_s or int(str(kept["watermark"])) < log.oldest - 1:
            kept = self._snapshots[topic] = log.snapshot(now)
        return {**kept, "watermark": log.oldest // 2} if "old_snapshots" in switches.defects else kept
