"""What one client has of its streams: applying updates, closing holes, recovering from a stale cursor.

Both policies live here side by side: the reference's apply rule (apply, drop a duplicate, or apply
nothing and ask again), and the desktop's, which jumps over holes.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from sim.client import desktop
from sim.client.cursor import Cursor
from sim.client.notices import short_hash
from sim.client.policies import Policy
from sim.client.shared_frames import Run
from sim.protocols.spacetime.frames import Body, Update, Watermark
from sim.protocols.spacetime.streams import stream_id
from sim.server.stream_log import is_intact, payload_hash


class Replica:
    """A client's cursors, one a topic. `note` takes the fields of a `Notice`."""

    def __init__(
        self,
        topics: Iterable[str],
        policy: Policy,
        note: Callable[..., None],
        checkpoints: Mapping[str, int],
        is_intact: Callable[[Update], bool] = is_intact,
    ) -> None:
        left = {topic: checkpoints.get(topic) for topic in topics}
        self.cursors = {topic: Cursor(topic, seq, seq, restored=seq) for topic, seq in left.items()}
        self.topics = tuple(self.cursors)
        self._policy = policy
        self._note = note
        self._is_intact = is_intact
        self._clamps = policy.asks_again and "trusts_future_checkpoints" not in policy.defects

    # --- replays ------------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """A socket is open; nothing came over it yet."""
        for cursor in self.cursors.values():
            cursor.begin_connection()

    def is_behind(self) -> bool:
        """Whether any stream is known to miss something below what it brought."""
        return any(cursor.is_behind for cursor in self.cursors.values())

    def has_doubts(self) -> bool:
        """Whether a checkpoint of an earlier life turned out to be above its stream's head."""
        return any(cursor.doubted for cursor in self.cursors.values())

    def begin_replay(self) -> dict[str, int]:
        """The cursors to subscribe with; a topic that has none is left out."""
        resume_after: dict[str, int] = {}
        for cursor in self.cursors.values():
            after = self._resume_after(cursor)
            cursor.begin_replay(after)
            self._note("replay_started", cursor.stream, -1 if after is None else after)
            if after is not None:
                resume_after[cursor.topic] = after
        return resume_after

    def _resume_after(self, cursor: Cursor) -> int | None:
        if cursor.doubted:
            cursor.forget()
        if self._policy.takes_snapshots:
            return cursor.watermark
        if cursor.start is not None:  # desktop, after a stale cursor
            return cursor.start
        if cursor.watermark is None and cursor.head > 0:  # desktop: no checkpoint but a known head
            self._rebase(cursor, cursor.head)
        return cursor.watermark

    def end_replay(self, diverged: bool) -> bool:
        """A replay is over; True when it left a hole, which is noted as the replay's own fault if `diverged`."""
        behind = False
        for cursor in self.cursors.values():
            self._note("replayed", cursor.stream, cursor.replayed, value=float(cursor.replayed_new))
            if not self._policy.asks_again:
                continue
            if cursor.watermark is None:  # it brought nothing: go on from the head, what lies between is lost
                self._write_checkpoint(cursor, self._accept_start(cursor, cursor.head + 1))
            if cursor.is_behind:
                behind = True
                if diverged and cursor.seen:
                    self._note("gap", cursor.stream, cursor.seen, value=float(cursor.watermark or 0), detail="replay")
        return behind

    # --- heads --------------------------------------------------------------------------------------

    def learn_heads(self, marks: Iterable[Watermark]) -> bool:
        """A cursor above its stream's head cannot be right: it is taken back to the head. True when one was.

        A head below what this connection already brought is old news, and takes nothing back.
        """
        clamped = False
        for mark in marks:
            if cursor := self.cursors.get(mark.topic):
                cursor.head = head = mark.watermark
                if cursor.watermark is not None and cursor.seen <= head < cursor.watermark and self._clamps:
                    self._note("clamped", cursor.stream, head, value=float(cursor.watermark))
                    cursor.clamp(head)
                    clamped = True
                    if not cursor.doubted:
                        self._write_checkpoint(cursor, head)
        return clamped

    def compare_heads(self, marks: Iterable[Watermark]) -> bool:
        """Heads from a heartbeat; True when a stream that was behind the heartbeat before still is, or was clamped.

        Only that shows an event lost at the very end of a stream; one heartbeat alone may have overtaken its updates.
        """
        stuck = False
        for mark in marks:
            if cursor := self.cursors.get(mark.topic):
                stuck |= cursor.watermark is not None and cursor.watermark < cursor.head_before
                cursor.head_before = mark.watermark
                stuck |= self.learn_heads((mark,))
        return stuck

    # --- stale cursors ------------------------------------------------------------------------------

    def has_dropped(self, body: Body) -> bool:
        """Whether every cursor that a stale signal names was dropped already."""
        named = [self.cursors[topic.topic] for topic in body.stale_topics if topic.topic in self.cursors]
        return self._policy.takes_snapshots and all(c.watermark is None for c in named or self.cursors.values())

    def take_stale(self, body: Body, attempt: int) -> bool:
        """Drop the stale cursors; False when asking again would change nothing, as none of them was in use."""
        for topic in body.stale_topics:
            if cursor := self.cursors.get(topic.topic):
                reason = topic.reason or "+".join(body.reason_codes)
                self._note("stale", cursor.stream, topic.resume_after, attempt, float(topic.replay_lag), reason)
        if not body.stale_topics:
            self._note("stale", attempt=attempt, detail="+".join(body.reason_codes))
        names = {topic.topic for topic in body.stale_topics} or set(self.cursors)
        stale = [cursor for cursor in self.cursors.values() if cursor.topic in names]
        if not self._policy.takes_snapshots:
            for cursor in stale:
                cursor.start = 0
            return True
        marks = {entry.topic: entry.snapshot for entry in body.snapshot_plan.topics} if body.snapshot_plan else {}
        had_cursor = any(cursor.watermark is not None for cursor in stale)
        for cursor in stale:
            self._rebootstrap(cursor, _snapshot_watermark(marks.get(cursor.topic)))
        return had_cursor

    def _rebootstrap(self, cursor: Cursor, snapshot_watermark: int | None) -> None:
        old = cursor.known
        cursor.rebootstrap(snapshot_watermark)
        if snapshot_watermark is not None and snapshot_watermark > (old or 0):
            value = math.nan if old is None else float(old)
            self._note("rebootstrapped", cursor.stream, snapshot_watermark, value=value, detail="snapshot")
            self._write_checkpoint(cursor, snapshot_watermark)

    def _accept_start(self, cursor: Cursor, first_seq: int) -> int:
        """Go on from the event before `first_seq`; returns the watermark."""
        old, lost = cursor.accept_start(first_seq)
        assert cursor.watermark is not None
        if old < 0:
            self._note("rebootstrapped", cursor.stream, cursor.watermark, detail="fresh")
            return cursor.watermark
        self._note("rebootstrapped", cursor.stream, cursor.watermark, value=float(old), detail="retained")
        if lost > 0:
            self._note("declared_loss", cursor.stream, cursor.watermark, value=float(lost))
        return cursor.watermark

    def _rebase(self, cursor: Cursor, watermark: int) -> None:
        cursor.watermark = watermark
        self._note("rebootstrapped", cursor.stream, watermark, detail="fresh")

    # --- updates ------------------------------------------------------------------------------------

    def take_updates(self, updates: tuple[Update, ...], replaying: bool, first_replay: bool) -> bool:
        """Apply what can be applied; True when something showed a hole or could not be believed.

        `replaying`: a subscribe's replay is running; `first_replay`: and nothing else came over this connection before.
        """
        self._note("received", value=float(len(updates)))
        if not self._policy.asks_again:
            self._jump_over(updates, replaying, first_replay)
            return False
        hole = False
        touched: dict[str, Cursor] = {}
        for update in updates:
            cursor = self.cursors.get(update.topic)
            if cursor is None:
                self._note("ungranted", stream_id(update.topic), update.watermark)
                continue
            touched[update.topic] = cursor
            if replaying:
                self._count_replayed(cursor, update.watermark, first_replay)
            hole |= not self._take_update(cursor, update)
        for cursor in touched.values():
            assert cursor.watermark is not None
            self._write_checkpoint(cursor, cursor.watermark)
        return hole

    def take_run(self, run: Run, replaying: bool = False) -> bool:
        """Take a whole frame at once, its notices left to the caller; False unless the client has just what came before it."""
        if not self._policy.asks_again:
            return False
        cursors = self.cursors
        for topic, after, last, _ in run.spans:
            cursor = cursors.get(topic)
            if cursor is None or cursor.watermark != after or cursor.checkpoint == last:
                return False
            if replaying and after < (cursor.asked_from or 0):
                return False
        if replaying:
            for topic, after, last, _ in run.spans:
                cursors[topic].replayed += last - after
                cursors[topic].replayed_new += last - after
        return self.follow(run)

    def follow(self, run: Run) -> bool:
        """`take_run` of a run that was foreseen to go on from here; False if it does not after all, and nothing is right."""
        for topic, after, last, head in run.spans:
            cursor = self.cursors[topic]
            if cursor.watermark != after:
                return False
            cursor.watermark = cursor.checkpoint = last
            cursor.head = head
            if cursor.seen < last:
                cursor.seen = last
        return True

    def _take_update(self, cursor: Cursor, update: Update) -> bool:
        seq = update.watermark
        watermark = cursor.watermark
        if watermark is None:
            watermark = self._accept_start(cursor, seq)
        if seq <= watermark:
            self._take_duplicate(cursor, update)
            return True
        if seq > cursor.seen:
            cursor.seen = seq
        declared = update.payload_hash
        if not self._is_intact(update):
            if "ignores_hashes" not in self._policy.defects:
                self._note("hash_mismatch", cursor.stream, seq)
                return False
            declared = payload_hash(bytes(update.payload))  # of what it really applies
        if seq > watermark + 1 and "applies_past_holes" not in self._policy.defects:
            self._note("gap", cursor.stream, seq, value=float(watermark), detail="live")
            return False
        cursor.watermark = seq
        self._note("applied", cursor.stream, seq, detail=short_hash(declared))
        return True

    def _take_duplicate(self, cursor: Cursor, update: Update) -> None:
        if "applies_duplicates" in self._policy.defects:
            self._note("applied", cursor.stream, update.watermark, detail=short_hash(update.payload_hash))
        else:
            self._note("duplicate_dropped", cursor.stream, update.watermark)

    def _count_replayed(self, cursor: Cursor, seq: int, first_replay: bool) -> None:
        cursor.replayed += 1
        cursor.replayed_new += cursor.watermark is None or seq > cursor.watermark
        # Later on a connection this may be the live tail's lawful duplicate.
        if first_replay and cursor.asked_from is not None and seq <= cursor.asked_from:
            self._note("replay_below_cursor", cursor.stream, seq, value=float(cursor.asked_from))

    def _jump_over(self, updates: tuple[Update, ...], replaying: bool, first_replay: bool) -> None:
        """The desktop's apply: batch by batch, jumping over holes."""
        by_topic: dict[str, list[Update]] = {}
        for update in updates:
            by_topic.setdefault(update.topic, []).append(update)
        for topic, batch in by_topic.items():
            cursor = self.cursors.get(topic)
            if cursor is None:
                for update in batch:
                    self._note("ungranted", stream_id(topic), update.watermark)
                continue
            if replaying:
                for update in batch:
                    self._count_replayed(cursor, update.watermark, first_replay)
            self._jump_one(cursor, batch)

    def _jump_one(self, cursor: Cursor, batch: list[Update]) -> None:
        if cursor.watermark is None:
            self._rebase(cursor, 0)
        assert cursor.watermark is not None
        before = cursor.watermark
        hashes = {update.watermark: update.payload_hash for update in batch}
        result = desktop.apply_batch(before, [update.watermark for update in batch])
        cursor.start, cursor.watermark = None, result.checkpoint
        for seq in result.applied:
            self._note("applied", cursor.stream, seq, detail=short_hash(hashes[seq]))
        for seq in result.duplicate:
            self._note("duplicate_dropped", cursor.stream, seq)
        for seq in result.gap:
            self._note("gap", cursor.stream, seq, value=float(before), detail="live")
        self._write_checkpoint(cursor, result.checkpoint)

    def _write_checkpoint(self, cursor: Cursor, seq: int) -> None:
        """The checkpoint is what counts after a restart, so it is written whenever the watermark moved."""
        if cursor.checkpoint != seq:
            cursor.checkpoint = seq
            self._note("checkpoint_written", cursor.stream, seq)


def _snapshot_watermark(snapshot: Mapping[str, object] | None) -> int | None:
    watermark = (snapshot or {}).get("watermark")
    return watermark if isinstance(watermark, int) and watermark >= 0 else None
