"""One client's copy of its streams: it applies events, requests missing ones, and recovers from stale cursors.

It has the apply rules of both policies: the reference's (apply, drop a duplicate, or apply nothing and
subscribe again), and the desktop's, which skips missing events.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from sim.client.cursor import Cursor, Outcome, follow_spans, offset_of, take_spans
from sim.client.notices import Run, short_hash
from sim.client.policies import Policy
from sim.protocols.events import Batch, Hash, Head, Item, Message, Position, Snapshot, Stale
from sim.protocols.markers import NO_MARKERS, MarkerReader
from sim.protocols.payloads import payload_hash


class Replica:
    """A client's cursors by topic. `note` takes the fields of a `Notice`; `stream_id` names a topic in notices."""

    def __init__(
        self,
        topics: Iterable[str],
        policy: Policy,
        note: Callable[..., None],
        checkpoints: Mapping[str, int],
        stream_id: Callable[[str], str] = str,
        markers: MarkerReader = NO_MARKERS,
    ) -> None:
        left = {topic: checkpoints.get(topic) for topic in topics}
        self.cursors = {topic: Cursor(topic, stream_id(topic), seq, seq, restored=seq) for topic, seq in left.items()}
        self.topics = tuple(self.cursors)
        self._policy = policy
        self._note = note
        self._stream_id = stream_id
        self._markers = markers
        self._clamps = policy.asks_again and "trusts_future_checkpoints" not in policy.defects

    # --- replays ------------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Reset the state of the previous connection."""
        for cursor in self.cursors.values():
            cursor.begin_connection()

    def is_behind(self) -> bool:
        """Whether events are missing in any stream."""
        return any(cursor.is_behind for cursor in self.cursors.values())

    def has_doubts(self) -> bool:
        """Whether a checkpoint of the client's earlier process was above its stream's head."""
        return any(cursor.doubted for cursor in self.cursors.values())

    def begin_replay(self) -> dict[str, Position | None]:
        """Start replays; returns the positions to subscribe with."""
        after: dict[str, Position | None] = {}
        for cursor in self.cursors.values():
            resume_after = self._resume_after(cursor)
            after[cursor.topic] = cursor.begin_replay(resume_after)
            self._note("replay_started", cursor.stream, -1 if resume_after is None else resume_after)
        return after

    def _resume_after(self, cursor: Cursor) -> int | None:
        if cursor.doubted:
            cursor.forget()
        if self._policy.takes_snapshots:
            return cursor.watermark
        if cursor.start is not None:  # desktop, after a stale cursor
            return cursor.start
        if cursor.watermark is None and cursor.head:  # desktop: no checkpoint but a known head
            self._rebase(cursor, cursor.head)
        return cursor.watermark

    def end_replay(self, diverged: bool) -> bool:
        """End a replay; True if events are still missing, which is recorded as an error of the replay if `diverged`."""
        behind = False
        for cursor in self.cursors.values():
            self._note("replayed", cursor.stream, cursor.replayed, value=float(cursor.replayed_new))
            if not self._policy.asks_again:
                continue
            if cursor.watermark is None:  # an empty replay: continue from the head; events before it are lost
                self._write_checkpoint(cursor, self._go_on(cursor, *cursor.accept_head()))
            if cursor.is_behind:
                behind = True
                if diverged and cursor.seen:
                    self._note("gap", cursor.stream, cursor.seen, value=float(cursor.watermark or 0), detail="replay")
        return behind

    # --- heads --------------------------------------------------------------------------------------

    def learn_heads(self, message: Message) -> bool:
        """Store heads, and lower each cursor above its stream's head. True if there was one."""
        clamped = False
        for event in message:
            if isinstance(event, Head) and (cursor := self.cursors.get(event.stream)):
                clamped |= self._learn_head(cursor, offset_of(event.position))
        return clamped

    def _learn_head(self, cursor: Cursor, head: int) -> bool:
        if not (cursor.learn_head(head) and self._clamps):
            return False
        self._note("clamped", cursor.stream, head, value=float(cursor.watermark or 0))
        cursor.clamp(head)
        if not cursor.doubted:
            self._write_checkpoint(cursor, head)
        return True

    def compare_heads(self, message: Message) -> bool:
        """Compare a heartbeat's heads; True if a stream is still behind the previous heartbeat, or was clamped.

        Only this detects a lost last event of a stream. One heartbeat is not enough: it may have overtaken its events.
        """
        stuck = False
        for event in message:
            if isinstance(event, Head) and (cursor := self.cursors.get(event.stream)):
                head = offset_of(event.position)
                stuck |= cursor.compare_head(head)
                stuck |= self._learn_head(cursor, head)
        return stuck

    # --- stale cursors ------------------------------------------------------------------------------

    def has_dropped(self, signals: tuple[Stale, ...]) -> bool:
        """Whether every cursor that a stale signal names was already dropped."""
        named = [self.cursors[each.stream] for each in signals if each.stream in self.cursors]
        return self._policy.takes_snapshots and all(c.watermark is None for c in named or self.cursors.values())

    def take_stale(self, signals: tuple[Stale, ...], attempt: int) -> bool:
        """Drop the stale cursors; False if none of them was used, so a new subscribe would change nothing."""
        for each in signals:
            reason = each.reasons[0] if each.reasons else ""
            if each.stream is None:
                self._note("stale", attempt=attempt, detail=reason)
            elif cursor := self.cursors.get(each.stream):
                self._note("stale", cursor.stream, offset_of(each.asked), attempt, float(each.lag), reason)
        snapshots = {each.stream: each.snapshot for each in signals}
        stale = [cursor for cursor in self.cursors.values() if None in snapshots or cursor.topic in snapshots]
        if not self._policy.takes_snapshots:
            for cursor in stale:
                cursor.start = 0
            return True
        had_cursor = any(cursor.watermark is not None for cursor in stale)
        for cursor in stale:
            self._rebootstrap(cursor, snapshots.get(cursor.topic))
        return had_cursor

    def _rebootstrap(self, cursor: Cursor, snapshot: Snapshot | None) -> None:
        old = cursor.known
        at = offset_of(snapshot.at) if snapshot and snapshot.at else None
        if cursor.rebootstrap(at) and at is not None:
            value = math.nan if old is None else float(old)
            self._note("rebootstrapped", cursor.stream, at, value=value, detail="snapshot")
            self._write_checkpoint(cursor, at)

    def _go_on(self, cursor: Cursor, old: int, lost: int) -> int:
        """Report where a cursor continues, and what it lost; returns the watermark."""
        assert cursor.watermark is not None
        if old == -1:
            self._note("rebootstrapped", cursor.stream, cursor.watermark, detail="fresh")
            return cursor.watermark
        self._note("rebootstrapped", cursor.stream, cursor.watermark, value=float(old), detail="retained")
        if lost:
            self._note("declared_loss", cursor.stream, cursor.watermark, value=float(lost))
        return cursor.watermark

    def _rebase(self, cursor: Cursor, watermark: int) -> None:
        cursor.watermark = watermark
        self._note("rebootstrapped", cursor.stream, watermark, detail="fresh")

    # --- events -------------------------------------------------------------------------------------

    def take_batches(self, message: Message, replaying: bool, first_replay: bool) -> bool:
        """Apply all applicable events; True if an event showed a gap or had a wrong hash.

        `replaying`: a subscribe's replay is running; `first_replay`: it is the first on this connection.
        """
        batches = [event for event in message if isinstance(event, Batch)]
        self._note("received", value=float(sum(len(batch.items) for batch in batches)))
        if not self._policy.asks_again:
            self._jump_over(batches, replaying, first_replay)
            return False
        hole = False
        touched: dict[str, Cursor] = {}
        for batch in batches:
            cursor = self.cursors.get(batch.stream)
            if cursor is None:
                self._note_ungranted(batch.stream, batch.items)
                continue
            if batch.items:
                touched[batch.stream] = cursor
            for item in batch.items:
                if replaying:
                    self._count_replayed(cursor, offset_of(item.position), first_replay)
                hole |= not self._take_item(cursor, item)
        for cursor in touched.values():
            assert cursor.watermark is not None
            self._write_checkpoint(cursor, cursor.watermark)
        return hole

    def take_run(self, run: Run, replaying: bool = False) -> bool:
        """Apply a whole message, without its notices; False unless the client has exactly the earlier events."""
        return self._policy.asks_again and take_spans(self.cursors, run.spans, replaying)

    def follow(self, run: Run) -> bool:
        """Apply a run that should continue at the watermarks; False if it does not."""
        return follow_spans(self.cursors, run.spans)

    def _take_item(self, cursor: Cursor, item: Item) -> bool:
        seq = offset_of(item.position)
        if cursor.watermark is None:
            self._go_on(cursor, *cursor.accept_start(seq))
        outcome = cursor.offer(seq)
        if outcome is Outcome.DUPLICATE:
            self._take_duplicate(cursor, seq, item)
            return True
        declared = item.payload_hash
        if item.check is Hash.BAD:
            if "ignores_hashes" not in self._policy.defects:
                self._note("hash_mismatch", cursor.stream, seq, marker=self._number(cursor, item))
                return False
            declared = payload_hash(bytes(item.payload))  # of the payload that is really applied
        if outcome is Outcome.GAP and "applies_past_holes" not in self._policy.defects:
            self._note(
                "gap", cursor.stream, seq, value=float(cursor.watermark or 0), detail="live", marker=self._number(cursor, item)
            )
            return False
        cursor.watermark = seq
        self._note_applied(cursor, seq, item, declared)
        return True

    def _number(self, cursor: Cursor, item: Item) -> int:
        return self._markers.read(item.payload, cursor.stream).number

    def _note_applied(self, cursor: Cursor, seq: int, item: Item, declared: str) -> None:
        marker, problem = self._markers.read(item.payload, cursor.stream)
        self._note("applied", cursor.stream, seq, detail=short_hash(declared), marker=marker)
        if problem:
            self._note("altered", cursor.stream, seq, detail=problem, marker=marker)

    def _take_duplicate(self, cursor: Cursor, seq: int, item: Item) -> None:
        if "applies_duplicates" in self._policy.defects:
            self._note_applied(cursor, seq, item, item.payload_hash)
        else:
            self._note("duplicate_dropped", cursor.stream, seq, marker=self._number(cursor, item))

    def _count_replayed(self, cursor: Cursor, seq: int, first_replay: bool) -> None:
        # Later on a connection, this may be a legal duplicate of the live tail.
        if cursor.count_replayed(seq) and first_replay:
            self._note("replay_below_cursor", cursor.stream, seq, value=float(cursor.asked_from or 0))

    def _note_ungranted(self, topic: str, items: Iterable[Item]) -> None:
        for item in items:
            self._note("ungranted", self._stream_id(topic), offset_of(item.position))

    def _jump_over(self, batches: list[Batch], replaying: bool, first_replay: bool) -> None:
        """Apply as the desktop does: all events of a topic at once, skipping missing ones."""
        by_topic: dict[str, list[Item]] = {}
        for batch in batches:
            if batch.items:
                by_topic.setdefault(batch.stream, []).extend(batch.items)
        for topic, items in by_topic.items():
            if (cursor := self.cursors.get(topic)) is None:
                self._note_ungranted(topic, items)
                continue
            if replaying:
                for item in items:
                    self._count_replayed(cursor, offset_of(item.position), first_replay)
            self._jump_one(cursor, items)

    def _jump_one(self, cursor: Cursor, items: list[Item]) -> None:
        if cursor.watermark is None:
            self._rebase(cursor, 0)
        before = cursor.watermark
        received = {offset_of(item.position): item for item in items}
        result = cursor.jump(offset_of(item.position) for item in items)
        for seq in result.applied:
            self._note_applied(cursor, seq, received[seq], received[seq].payload_hash)
        for seq in result.duplicate:
            self._note("duplicate_dropped", cursor.stream, seq, marker=self._number(cursor, received[seq]))
        for seq in result.gap:
            marker = self._number(cursor, received[seq])
            self._note("gap", cursor.stream, seq, value=float(before or 0), detail="live", marker=marker)
        self._write_checkpoint(cursor, result.checkpoint)

    def _write_checkpoint(self, cursor: Cursor, seq: int) -> None:
        """Write the checkpoint whenever the watermark moved, because a restart resumes from it."""
        if cursor.checkpoint != seq:
            cursor.checkpoint = seq
            self._note("checkpoint_written", cursor.stream, seq)
