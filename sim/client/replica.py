"""One client's copy of its streams: it applies events, requests missing ones, and recovers from stale cursors.

It has the apply rules of both policies: the reference's (apply, drop a duplicate, or apply nothing and
subscribe again), and the desktop's, which skips missing events.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping

from sim.client.actions import ClientSettings
from sim.client.cursor import KINDS, Cursor, OpaqueCursor, Outcome, Start, identity, number_of, offset_of
from sim.client.notices import HASH_DIGITS, Run, short_hash
from sim.client.policies import Policy
from sim.client.spans import take_spans
from sim.protocols.adapter import FreshStart, Positions
from sim.protocols.events import (
    Batch,
    Hash,
    Head,
    Item,
    Message,
    Position,
    PositionUnknown,
    Resumed,
    Snapshot,
    Stale,
    Whose,
)
from sim.protocols.payloads import payload_hash


class Replica:
    """A client's cursors by topic. `note` takes the fields of a `Notice`."""

    def __init__(
        self,
        topics: Iterable[str],
        policy: Policy,
        note: Callable[..., None],
        checkpoints: Mapping[str, Position],
        settings: ClientSettings,
    ) -> None:
        positions = settings.capabilities.positions
        self._head_of = settings.capabilities.head_of
        self._starts_from_now_on = settings.capabilities.fresh_start is FreshStart.FROM_NOW_ON
        self._waits_for_start = self._starts_from_now_on and positions is not Positions.OPAQUE
        self.now = 0.0  # set by the session with each message
        self._stream_id = stream_id = settings.stream_id
        self.cursors = {topic: KINDS[positions].at(topic, stream_id(topic), checkpoints.get(topic)) for topic in topics}
        self.topics = tuple(self.cursors)
        for cursor in self.cursors.values():
            cursor.heeds_epochs = "ignores_epochs" not in policy.defects
            cursor.hides_epoch = not cursor.heeds_epochs and settings.capabilities.resumes_without_epoch
        self._policy = policy
        self._note = note
        self._markers = settings.markers
        # A client can only skip or repeat by arithmetic what has dense positions.
        is_dense = positions is Positions.DENSE
        self._jumps = is_dense and not policy.asks_again
        self._takes_snapshots = policy.takes_snapshots or not is_dense
        self._clamps = not self._jumps and "trusts_future_checkpoints" not in policy.defects

    def _begins_at(self) -> float:
        """Return when a client that restarts began to receive; what was acknowledged before is not sent to it."""
        return self.now if self._starts_from_now_on else -math.inf

    # --- replays ------------------------------------------------------------------------------------

    def begin_connection(self) -> None:
        """Reset the state of the previous connection."""
        for cursor in self.cursors.values():
            cursor.begin_connection()

    def behind(self) -> list[str]:
        """Return the streams in which events are missing."""
        return [topic for topic, cursor in self.cursors.items() if cursor.is_behind]

    def has_doubts(self) -> bool:
        """Whether a checkpoint of the client's earlier process was above its stream's head."""
        return any(cursor.doubted for cursor in self.cursors.values())

    def begin_replay(self, topics: Iterable[str]) -> dict[str, Position | None]:
        """Start replays; returns the positions to subscribe with."""
        after: dict[str, Position | None] = {}
        for topic in topics:
            cursor = self.cursors[topic]
            resume_after = self._resume_after(cursor)
            after[topic] = cursor.begin_replay(resume_after)
            self._note("replay_started", cursor.stream, cursor.shown(resume_after))
        return after

    def poll(self, topic: str) -> Position | None:
        """Continue a stream whose poll ended; returns the position to subscribe with."""
        cursor = self.cursors[topic]
        cursor.asked_from = cursor.watermark
        return cursor.position

    def _resume_after(self, cursor: Cursor) -> int | None:
        if cursor.doubted:
            cursor.forget()
        if self._takes_snapshots:
            return cursor.watermark
        if cursor.start is not None:  # desktop, after a stale cursor
            return cursor.start
        if cursor.watermark is None and cursor.head:  # desktop: no checkpoint but a known head
            self._rebase(cursor, cursor.head)
        return cursor.watermark

    def end_replay(self, topics: Iterable[str], diverged: bool) -> bool:
        """End a replay; True if events are still missing, which is recorded as an error of the replay if `diverged`."""
        behind = False
        for cursor in [self.cursors[topic] for topic in topics]:
            self._note("replayed", cursor.stream, cursor.replayed, value=float(cursor.replayed_new))
            if self._jumps:
                continue
            if cursor.watermark is None and self._waits_for_start and not cursor.head:
                continue  # nobody has said where it starts: the first event does
            if cursor.watermark is None:  # an empty replay: continue from the head; events before it are lost
                self._go_on(cursor, cursor.accept_head())
                self._write_checkpoint(cursor)
            if cursor.is_behind:
                behind = True
                if diverged and cursor.seen:
                    self._note_gap(cursor, cursor.seen, "replay")
        return behind

    def has_reached_head(self, topic: str) -> bool:
        """Whether a stream has received everything up to the last reported head."""
        return self.cursors[topic].has_reached_head

    # --- answers to a subscribe ---------------------------------------------------------------------

    def resume(self, event: Resumed) -> bool:
        """Take where the server starts a stream; True if events are missing that only another subscribe brings."""
        if (cursor := self.cursors.get(event.stream or "")) is None:
            return False
        at, head = event.at, event.head
        if cursor.is_other_log(at or head):
            self._note_unknown(cursor, "other_log")
            cursor.lose_log()
            if at is not None and head is not None and number_of(at) > number_of(head):
                return True  # the server waits at a position that the new log does not have yet
        elif at is not None and cursor.is_below(at):
            self._note("stale", cursor.stream, cursor.shown(cursor.asked_from), detail="silent")
        if at is not None and (cursor.watermark is None or cursor.is_below(at)):
            self._continue_at(cursor, at)
        cursor.learn_epoch(at or head)
        self._note_epoch(cursor)
        return head is not None and self._take_head(cursor, Head(cursor.topic, head, self._head_of))

    def take_unknown(self, event: PositionUnknown) -> bool:
        """Take that the server does not know a position; False if the client had none, so a new subscribe changes nothing."""
        if (cursor := self.cursors.get(event.stream)) is None:
            return False
        had_position = cursor.position is not None
        is_other_log = cursor.is_other_log(event.head or event.subscribed_at)
        self._note_unknown(cursor, event.reason or ("other_log" if is_other_log else "position_unknown"))
        at = event.subscribed_at
        known = event.head if at is None else at
        if not cursor.heeds_epochs:
            cursor.learn_epoch(known)
            self._note_epoch(cursor)
        if known is None or cursor.is_other_log(known):
            cursor.lose_log()
        elif cursor.is_above(known):
            self._clamp(cursor, number_of(known))
            if cursor.doubted:
                cursor.lose_log()
        elif at is None and cursor.heeds_epochs:
            cursor.lose_log()
        if at is not None and (cursor.watermark is None or not cursor.is_at(at)):
            self._continue_at(cursor, at)
        if at is not None and event.head is not None:
            self._take_head(cursor, Head(cursor.topic, event.head, self._head_of))
        return had_position

    def refetch(self, topic: str) -> None:
        """Drop the position of a stream that must be read from its retained events again."""
        self.cursors[topic].rebootstrap(None)

    def lose_session(self) -> None:
        """Take that the server does not know the session whose streams would resume with it."""
        for cursor in self.cursors.values():
            if cursor.known is not None:
                self._note_unknown(cursor, "session_unknown")
                cursor.lose_log()

    def _note_epoch(self, cursor: Cursor) -> None:
        """Report the log that the cursor's position is of, when it is another one."""
        if cursor.epoch is not None and cursor.epoch != cursor.noted_epoch:
            cursor.noted_epoch = cursor.epoch
            self._note("epoch_learned", cursor.stream, cursor.shown(cursor.known), detail=cursor.epoch)

    def _note_unknown(self, cursor: Cursor, reason: str) -> None:
        self._note("stale", cursor.stream, cursor.shown(cursor.known), detail=reason)

    def _continue_at(self, cursor: Cursor, at: Position) -> None:
        """Continue at the position where the server starts, and report what is lost."""
        self._go_on(cursor, cursor.continue_at(at))
        self._note_epoch(cursor)
        self._write_checkpoint(cursor)

    # --- heads --------------------------------------------------------------------------------------

    def learn_baselines(self, message: Message) -> None:
        """Store the heads of streams that have no position yet, before an answer in the same message ends their replay."""
        for event in message:
            if isinstance(event, Head) and (cursor := self.cursors.get(event.stream)) and cursor.watermark is None:
                cursor.head = max(number_of(event.position), 0)

    def learn_heads(self, message: Message) -> bool:
        """Store heads, and lower each cursor above its stream's head. True if there was one."""
        clamped = False
        for event in message:
            if isinstance(event, Head) and (cursor := self.cursors.get(event.stream)):
                clamped |= self._take_head(cursor, event)
        return clamped

    def _take_head(self, cursor: Cursor, head: Head) -> bool:
        seq = number_of(head.position)
        if seq < 0 or cursor.is_other_log(head.position):  # the events, or the next subscribe, bring the other log
            return False
        if head.whose is Whose.SOCKET:  # what this connection was sent, which proves nothing about the log
            cursor.head = seq
            return False
        if not (cursor.learn_head(seq) and self._clamps):
            return False
        self._clamp(cursor, seq)
        return True

    def _clamp(self, cursor: Cursor, head: int) -> None:
        self._note("clamped", cursor.stream, head, value=float(cursor.watermark or 0))
        cursor.clamp(head)
        if not cursor.doubted:
            self._write_checkpoint(cursor)

    def compare_heads(self, message: Message) -> bool:
        """Compare a heartbeat's heads; True if a stream is still behind the previous heartbeat, or was clamped.

        Only this detects a lost last event of a stream. One heartbeat is not enough: it may have overtaken its events.
        """
        stuck = False
        for event in message:
            if isinstance(event, Head) and (cursor := self.cursors.get(event.stream)):
                if event.whose is Whose.AUTHORITY and not cursor.is_other_log(event.position):
                    stuck |= cursor.compare_head(number_of(event.position))
                stuck |= self._take_head(cursor, event)
        return stuck

    # --- stale cursors ------------------------------------------------------------------------------

    def has_dropped(self, signals: tuple[Stale, ...]) -> bool:
        """Whether every cursor that a stale signal names was already dropped."""
        named = [self.cursors[each.stream] for each in signals if each.stream in self.cursors]
        return self._takes_snapshots and all(c.watermark is None for c in named or self.cursors.values())

    def take_stale(self, signals: tuple[Stale, ...], attempt: int) -> bool:
        """Drop the stale cursors; False if none of them was used, so a new subscribe would change nothing."""
        for each in signals:
            reason = each.reasons[0] if each.reasons else ""
            if each.stream is None:
                self._note("stale", attempt=attempt, detail=reason)
            elif cursor := self.cursors.get(each.stream):
                self._note("stale", cursor.stream, number_of(each.asked), attempt, float(each.lag), reason)
                if each.snapshot is not None:
                    self._note(
                        "snapshot", cursor.stream, number_of(each.snapshot.at), detail=_problem_of(each) or _digest_of(each)
                    )
                if each.subscribed_at is not None:
                    self._continue_at(cursor, each.subscribed_at)
                    if each.head is not None:
                        self._take_head(cursor, Head(cursor.topic, each.head, self._head_of))
        snapshots = {each.stream: each.snapshot for each in signals if each.subscribed_at is None}
        stale = [cursor for cursor in self.cursors.values() if None in snapshots or cursor.topic in snapshots]
        if not self._takes_snapshots:
            for cursor in stale:
                cursor.start = 0
            return True
        had_cursor = any(cursor.watermark is not None for cursor in stale)
        for cursor in stale:
            self._rebootstrap(cursor, snapshots.get(cursor.topic))
        return had_cursor

    def _rebootstrap(self, cursor: Cursor, snapshot: Snapshot | None) -> None:
        old = cursor.known
        at = number_of(snapshot.at) if snapshot else -1
        cursor.marks.restart(since=self._begins_at())
        if cursor.rebootstrap(None if at == -1 else at):
            value = math.nan if old is None else float(old)
            self._note("rebootstrapped", cursor.stream, at, value=value, detail="snapshot")
            self._write_checkpoint(cursor)

    def _go_on(self, cursor: Cursor, start: Start) -> None:
        """Report where a cursor continues, and what it lost (NaN: an unknown number)."""
        at = cursor.shown(cursor.watermark)
        old = math.nan if start.old is None else float(start.old)
        cursor.marks.restart(max(at, 0), self._begins_at())
        self._note("rebootstrapped", cursor.stream, at, value=old, detail=start.how)
        if start.lost:
            last = at if start.last is None else start.last
            self._note("declared_loss", cursor.stream, last, value=float(start.lost))

    def _rebase(self, cursor: Cursor, watermark: int) -> None:
        cursor.watermark = watermark
        cursor.marks.restart(watermark, self._begins_at())
        self._note("rebootstrapped", cursor.stream, watermark, detail="fresh")

    # --- events -------------------------------------------------------------------------------------

    def take_batches(self, message: Message, replaying: Collection[str], first_replay: bool) -> bool:
        """Apply all applicable events; True if an event showed a gap or had a wrong hash.

        `replaying`: the streams whose replay is running; `first_replay`: it is the first on this connection.
        """
        batches = [event for event in message if isinstance(event, Batch)]
        self._note("received", value=float(sum(len(batch.items) for batch in batches)))
        if self._jumps:
            self._jump_over(batches, replaying, first_replay)
            return False
        hole = False
        touched: dict[str, Cursor] = {}
        for batch in batches:
            cursor = self.cursors.get(batch.stream)
            if cursor is None:
                self._note_ungranted(batch.stream, batch.items)
                continue
            if batch.items or batch.after is not None:
                touched[batch.stream] = cursor
            hole |= batch.is_after_gap and self._take_gap(cursor, batch)
            for item in batch.items:
                hole |= not self._take_item(cursor, item, batch.stream in replaying, first_replay)
            cursor.end_batch(batch.after)
        for cursor in touched.values():
            self._write_checkpoint(cursor)
        return hole

    def take_run(self, run: Run, replaying: bool = False) -> bool:
        """Apply a whole message, without its notices; False unless the client has exactly the earlier events."""
        return not self._jumps and take_spans(self.cursors, run.spans, replaying) and self._take_marks(run)

    def _take_marks(self, run: Run) -> bool:
        for topic, first, last, numbers in run.marks:
            marks = self.cursors[topic].marks
            if marks.high == first - 1 and not numbers:
                marks.high = last
            else:
                marks.take(numbers or range(first, last + 1))
        return True

    def _take_item(self, cursor: Cursor, item: Item, replaying: bool, first_replay: bool) -> bool:
        if item.position is not None and item.position.epoch is not None:
            if cursor.is_other_log(item.position):
                self._note_unknown(cursor, "other_log")
                cursor.lose_log()
            cursor.learn_epoch(item.position)
            self._note_epoch(cursor)
        seq = cursor.seq_of(item)
        if replaying:
            self._count_replayed(cursor, seq, first_replay)
        if cursor.watermark is None:
            self._go_on(cursor, cursor.accept_start(seq))
        outcome, shown = cursor.offer(seq), cursor.shown(seq)
        if outcome is Outcome.DUPLICATE:
            return self._take_duplicate(cursor, shown, item)
        declared = item.payload_hash
        if item.check is Hash.BAD:
            if "ignores_hashes" not in self._policy.defects:
                self._note("hash_mismatch", cursor.stream, shown, marker=self._number(cursor, item))
                cursor.reject()
                return False
            declared = payload_hash(bytes(item.payload))  # of the payload that is really applied
        if outcome is Outcome.GAP and "applies_past_holes" not in self._policy.defects:
            self._note_gap(cursor, seq, "live", self._identify(cursor, shown, item))
            return False
        cursor.apply(seq, item)
        self._note_applied(cursor, shown, item, declared)
        return True

    def _number(self, cursor: Cursor, item: Item) -> int:
        return self._markers.read(item.payload, cursor.stream).number

    def _identify(self, cursor: Cursor, shown: int, item: Item) -> int:
        """Return the number of an event that is not applied. What it contains must be right all the same."""
        marker, problem = self._markers.read(item.payload, cursor.stream)
        if problem:
            self._note("altered", cursor.stream, shown, detail=problem, marker=marker)
        return marker

    def _note_applied(self, cursor: Cursor, shown: int, item: Item, declared: str) -> None:
        marker, problem = self._markers.read(item.payload, cursor.stream)
        self._note("applied", cursor.stream, shown, detail=short_hash(declared), marker=marker)
        if marker > 0:
            cursor.marks.take((marker,))
            if isinstance(cursor, OpaqueCursor):
                cursor.recent[identity(item)] = marker
        if problem:
            self._note("altered", cursor.stream, shown, detail=problem, marker=marker)

    def _take_duplicate(self, cursor: Cursor, shown: int, item: Item) -> bool:
        """Drop an event that the client has, but record what this copy contains. Return True: nothing is missing."""
        if "applies_duplicates" in self._policy.defects:
            self._note_applied(cursor, shown, item, item.payload_hash)
        elif item.check is Hash.BAD and "ignores_hashes" not in self._policy.defects:
            self._note("hash_mismatch", cursor.stream, shown, marker=self._number(cursor, item))
        else:
            marker = self._identify(cursor, shown, item)
            if isinstance(cursor, OpaqueCursor) and 0 < marker != cursor.recent[identity(item)] > 0:
                self._note("altered", cursor.stream, shown, detail="position", marker=marker)
            if item.position is None and marker > 0:  # recognized by its payload: after a new start, the client still has it
                cursor.marks.take((marker,))
            self._note("duplicate_dropped", cursor.stream, shown, detail=short_hash(item.payload_hash), marker=marker)
        return True

    def _count_replayed(self, cursor: Cursor, seq: int, first_replay: bool) -> None:
        # Later on a connection, this may be a legal duplicate of the live tail.
        if cursor.count_replayed(seq) and first_replay:
            self._note("replay_below_cursor", cursor.stream, seq, value=float(cursor.asked_from or 0))

    def _note_gap(self, cursor: Cursor, seq: int, detail: str, marker: int = -1) -> None:
        value = float(cursor.shown(cursor.watermark or 0))
        self._note("gap", cursor.stream, cursor.shown(seq), value=value, detail=detail, marker=marker)

    def _take_gap(self, cursor: Cursor, batch: Batch) -> bool:
        """Apply nothing until a replay has brought the missing events. Return True."""
        cursor.reject()
        if not batch.items:  # otherwise each of its events shows the gap
            self._note_gap(cursor, -1, "live")
        return True

    def _note_ungranted(self, topic: str, items: Iterable[Item]) -> None:
        for item in items:
            self._note("ungranted", self._stream_id(topic), number_of(item.position))

    def _jump_over(self, batches: list[Batch], replaying: Collection[str], first_replay: bool) -> None:
        """Apply as the desktop does: all events of a topic at once, skipping missing ones."""
        by_topic: dict[str, list[Item]] = {}
        for batch in batches:
            if batch.items:
                by_topic.setdefault(batch.stream, []).extend(batch.items)
        for topic, items in by_topic.items():
            if (cursor := self.cursors.get(topic)) is None:
                self._note_ungranted(topic, items)
                continue
            if topic in replaying:
                for item in items:
                    self._count_replayed(cursor, offset_of(item.position), first_replay)
            self._jump_one(cursor, items)

    def _jump_one(self, cursor: Cursor, items: list[Item]) -> None:
        if cursor.watermark is None:
            self._rebase(cursor, 0)
        before = cursor.watermark
        received: dict[int, list[Item]] = {}
        for item in items:
            received.setdefault(offset_of(item.position), []).append(item)
        result = cursor.jump(offset_of(item.position) for item in items)
        for seq in result.applied:
            item = received[seq].pop(0)
            self._note_applied(cursor, seq, item, item.payload_hash)
        for seq in result.duplicate:
            item = received[seq].pop(0)
            marker = self._identify(cursor, seq, item)
            self._note("duplicate_dropped", cursor.stream, seq, detail=short_hash(item.payload_hash), marker=marker)
        for seq in result.gap:
            marker = self._identify(cursor, seq, received[seq].pop(0))
            self._note("gap", cursor.stream, seq, value=float(before or 0), detail="live", marker=marker)
        self._write_checkpoint(cursor)

    def _write_checkpoint(self, cursor: Cursor) -> None:
        """Write the checkpoint whenever the position moved, because a restart resumes from it."""
        if cursor.write_checkpoint():
            self._note("checkpoint_written", cursor.stream, cursor.shown(cursor.checkpoint))


def _problem_of(stale: Stale) -> str:
    """Return why an offered snapshot does not cover what it claims, one of `SNAPSHOT_PROBLEMS`; empty if nothing shows that."""
    assert stale.snapshot is not None
    at, events = number_of(stale.snapshot.at), stale.snapshot.content.get("events")
    if at < 0 or not stale.snapshot.content or (events == 0 and at > 0):
        return "empty"
    if at < number_of(stale.floor):
        return "below_floor"
    if 0 <= number_of(stale.head) < at:
        return "above_head"
    return "unfit" if isinstance(events, int) and events != at else ""


def _digest_of(stale: Stale) -> str:
    """Return a few characters of the digest of a snapshot that is made of events; empty for another one."""
    assert stale.snapshot is not None
    content = stale.snapshot.content
    digest = content.get("digest")
    return digest[-HASH_DIGITS:] if isinstance(digest, str) and isinstance(content.get("events"), int) else ""
