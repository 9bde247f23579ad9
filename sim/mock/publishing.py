"""The mock's publishing: admission, sequence numbers, group commit, then delivery and acknowledgement.

Publishes that arrive in one iteration of the event loop share one SQLite transaction. No event is delivered or acknowledged
before its transaction is committed.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.base.errors import StorageError
from sim.mock.requests import RequestRefusedError
from sim.mock.revisions import Rollout
from sim.mock.store import Store
from sim.server import misbehaviours
from sim.server.admission import Appends, PublishLimits, Refusal, failure, is_acknowledged_unwritten, no_answer
from sim.server.runtime import Runtime
from sim.server.stream_log import Appended, Entry, WrongNextSeqError


@dataclass(slots=True)
class _Publish:
    topic: str
    key: str
    payload: bytes
    expected_next_seq: int | None
    done: asyncio.Future[Appended] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Authority:
    """The only writer of the log."""

    def __init__(self, runtime: Runtime, store: Store, rollout: Rollout) -> None:
        self._runtime = runtime
        self._rollout = rollout
        self._store = store
        self._limits = PublishLimits(runtime.settings, runtime.profile)
        self._appends = Appends()
        self._waiting: list[_Publish] = []
        self.failure = ""  # why publishing is no longer possible, or empty
        self.committed: Callable[[], None] = lambda: None  # called after each commit with new events

    async def publish(self, topic: str, key: str, payload: bytes, expected_next_seq: int | None) -> Appended:
        """Append one event durably; raise `RequestRefusedError` if it is refused."""
        stalled = self._appends.begin(topic, self._runtime.switches)
        try:
            if stalled is not None:
                raise self._refused(stalled)
            return await self._publish(topic, key, payload, expected_next_seq)
        finally:
            self._appends.end(topic)

    async def _publish(self, topic: str, key: str, payload: bytes, expected_next_seq: int | None) -> Appended:
        runtime = self._runtime
        if delay_ms := runtime.switches.publish_delay_ms:
            runtime.counters.act("slow_publishes")
            await asyncio.sleep(delay_ms / 1000)
        self._admit(topic, payload)
        fault = failure(runtime.switches, runtime.counters)
        if fault is not None and is_acknowledged_unwritten(runtime.switches):
            entry = Entry(runtime.streams.head(topic) + 1, key, payload, runtime.profile.payload_hash(payload), time.time())
            return Appended(entry, duplicate=False)
        if fault is not None and not fault.is_taken:
            raise self._refused(fault)
        if "forget_idempotency_keys" in runtime.switches.defects:
            key = f"{key}, try {runtime.counters.publish_tries}"
        done = await self._append_durably(_Publish(topic, key, payload, expected_next_seq))
        if misbehaviours.is_unanswered(runtime.switches, done.entry.seq):
            fault = no_answer()
        if fault is not None:
            raise self._refused(fault)
        return done

    def _refused(self, no: Refusal) -> RequestRefusedError:
        self._runtime.counters.publish_failed += 1
        return RequestRefusedError(no.status, no.code, no.message, no.retry_after_ms)

    async def _append_durably(self, request: _Publish) -> Appended:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._waiting.append(request)
        return await request.done

    def _admit(self, topic: str, payload: bytes) -> None:
        if self.failure:
            raise RequestRefusedError(503, "log_unavailable", self.failure)
        now = time.time()
        if no := self._limits.refusal(topic, len(payload), now) or self._rollout.limits.publish_refusal(now):
            raise self._refused(no)

    def _commit(self) -> None:
        """Number and store all waiting publishes; deliver and acknowledge them when they are durable."""
        waiting, self._waiting = self._waiting, []
        heads = {request.topic: self._runtime.streams.head(request.topic) for request in waiting}
        now = time.time()
        appended = [(request, self._append(request, now)) for request in waiting]
        fresh = [
            (request.topic, outcome.entry)
            for request, outcome in appended
            if isinstance(outcome, Appended) and not outcome.duplicate
        ]
        try:
            if fresh:
                self._store.commit(fresh)
        except StorageError as error:
            self._undo(waiting, heads, str(error))
            return
        self._announce(fresh, now)
        for request, outcome in appended:
            self._answer(request, outcome)

    def _append(self, request: _Publish, now: float) -> Appended | RequestRefusedError:
        try:
            return self._runtime.streams.log(request.topic).append(request.key, request.payload, now, request.expected_next_seq)
        except WrongNextSeqError as error:
            return RequestRefusedError(409, "expected_next_seq_mismatch", str(error))

    def _undo(self, waiting: list[_Publish], heads: dict[str, int], reason: str) -> None:
        """Undo publishes that could not be stored. These events were not delivered to any client."""
        self.failure = reason
        for topic, head in heads.items():
            self._runtime.streams.log(topic).truncate(head)
        for request in waiting:
            self._runtime.counters.publish_failed += 1
            _settle(request, RequestRefusedError(503, "log_unavailable", reason))

    def _announce(self, fresh: list[tuple[str, Entry]], now: float) -> None:
        self._runtime.counters.published += len(fresh)
        for topic in dict.fromkeys(topic for topic, _ in fresh):
            self._runtime.announce(topic, now)
        self.committed()

    def _answer(self, request: _Publish, outcome: Appended | RequestRefusedError) -> None:
        if isinstance(outcome, Appended) and outcome.duplicate:
            self._runtime.counters.duplicates_suppressed += 1
        _settle(request, outcome)


def _settle(request: _Publish, outcome: Appended | RequestRefusedError) -> None:
    if request.done.done():  # its client has disconnected
        return
    if isinstance(outcome, RequestRefusedError):
        request.done.set_exception(outcome)
    else:
        request.done.set_result(outcome)
