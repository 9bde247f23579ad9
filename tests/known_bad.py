"""Hand-written histories for checks and invariants that no drill of `tests/mutation_table.py` turns red."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict
from sim.analysis.invariants import reactions
from sim.client.negative.malformed import MalformedFrames
from sim.client.negative.registry import EXPECTED, NEGATIVE_CLIENTS
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.protocols.spacetime.negative import KINDS
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, stream_id
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill

ENOUGH = ("delivery.dropped_deliveries", "ux.integrity")
WITH_EPOCHS = msgspec.to_builtins(msgspec.structs.replace(CAPABILITIES, has_epochs=True))
WORKERS = stream_id(CODEX_WORKER_EVENTS)
IN_THE_FAULT_S = 22.0  # while clients may be disconnected, and events late
CLIENTS = 30
WINDOW = 200  # events that a stream keeps, so that the first of the storm may be gone in the fault


@dataclass(frozen=True)
class KnownBad:
    """What turns red when this is done to a history that passes."""

    names: frozenset[str]
    spoil: Callable[[Story], Story]
    prepare: Callable[[Story], Story] = lambda story: story  # what the good history needs beside a good storm
    expect: dict[str, Any] = field(default_factory=dict)  # by the drill

    def __str__(self) -> str:
        return "+".join(sorted(self.names))

    def good(self) -> Story:
        return self.prepare(_storm().without(lambda row: False))

    def judged(self, story: Story) -> DrillVerdict:
        own = tuple(name for name in self.names if name in gates.DECISIONS and name.partition(".")[0] in gates.GATES)
        drill = storm_drill(CLIENTS, (*ENOUGH, *own), **self.expect)
        runtime = msgspec.structs.replace(drill.runtime, window_events=WINDOW)
        drill = msgspec.structs.replace(drill, runtime=runtime)
        return gates.judge(drill, story.history(), gates.load_thresholds(), "observations.parquet")


@cache
def _storm() -> Story:
    return good_storm(CLIENTS)


def told(kind: Kind, *clients: int, t: float = IN_THE_FAULT_S, **more: Any) -> Callable[[Story], Story]:
    """That something is told of these clients, too."""

    def spoil(story: Story) -> Story:
        for client in clients:
            story.tell(t, kind, client, **more)
        return story

    return spoil


def changed(kind: Kind, **fields: Any) -> Callable[[Story], Story]:
    return lambda story: story.changed(lambda row: row.kind is kind, **fields)


def known_bad(*names: str, by: Callable[[Story], Story], **more: Any) -> KnownBad:
    return KnownBad(frozenset(names), by, **more)


# --- what must be told in more than a line ------------------------------------------------------------


def falls_silent(story: Story) -> Story:
    """The publisher, after a third of its events."""
    events = (Kind.PUBLISHED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)
    return story.without(lambda row: row.seq > 100 and row.kind in events)


def applies_the_last_again(story: Story) -> Story:
    """A client that went on from a snapshot applies what that has already."""
    story.tell(57.0, Kind.REBOOTSTRAPPED, 0, STREAM, 330, detail="snapshot")
    return story.tell(57.1, Kind.APPLIED, 0, STREAM, 330, detail="h330")


def begins_at_the_head(story: Story) -> Story:
    """A client whose checkpoint is lost gets nothing of what is retained."""
    story.tell(57.0, Kind.RESTARTED, 0, STREAM, -1, value=330.0, detail="lost")
    return story.tell(57.1, Kind.REBOOTSTRAPPED, 0, STREAM, 330, detail="fresh")


def leaves_out_a_live_event(story: Story) -> Story:
    """The service does not deliver event 50 to client 0, which notices with event 51 and asks again."""
    story = story.without(
        lambda row: row.client == 0 and row.seq in (50, 51) and row.kind in (Kind.APPLIED, Kind.CHECKPOINT_WRITTEN)
    )
    story.tell(5.59, Kind.GAP, 0, STREAM, 51, value=49.0, detail="live").tell(5.59, Kind.REPLAY_STARTED, 0, STREAM, 49)
    story.apply(0, 50, 51, t=5.62)
    return story.tell(5.63, Kind.REPLAYED, 0, STREAM, 2, value=2.0)


def with_one_unanswered(story: Story) -> Story:
    """The publish of event 331 gets no answer, and everybody has the event."""
    story.tell(27.0, Kind.PUBLISH_FAILED, stream=STREAM, value=400.0, detail="unknown_outcome", marker=331)
    for client in range(CLIENTS):
        story.apply(client, 331, t=27.0)
    return story.apply(AUDITOR, 331, t=59.0).marked()


def with_workers(story: Story) -> Story:
    """A stream without snapshots, of which a client may declare events lost."""
    story.publish(*range(1, 11), t=5.0, stream=WORKERS)
    return story.audit(*range(1, 11), t=59.0, stream=WORKERS)


def with_epochs(story: Story) -> Story:
    """Each client knows which log it follows; one is told of another, and starts again."""
    story.header = {**story.header, "capabilities": {**WITH_EPOCHS}}
    for client in range(CLIENTS):
        story.tell(0.01 * client + 0.03, Kind.EPOCH_LEARNED, client, STREAM, 0, detail="e1")
    return story


def learns_another_epoch(story: Story) -> Story:
    """A client learns in the middle that its log is another one, and goes on."""
    story.tell(10.0, Kind.EPOCH_LEARNED, 3, STREAM, 114, detail="e2")
    story.rows.sort(key=lambda row: row.t)
    return story


def asks(probe: str) -> Callable[[Story], Story]:
    """One client more, that tries what must be refused, is refused, and goes on as if nothing had been."""

    def prepare(story: Story) -> Story:
        story.header = {**story.header, "negative_clients": {str(CLIENTS): probe}}
        code = next(iter(EXPECTED[probe]), "refused")
        for question in (f"{probe}:{what}" for what in KINDS) if probe == MalformedFrames.name else (probe,):
            story.tell(30.0, Kind.PROBED, CLIENTS, detail=f"{question}:refused:{code}")
        return story.tell(58.0, Kind.SETTLED, CLIENTS)

    return prepare


def law_of(probe: str) -> str:
    """The law that is broken where this probe's question is granted."""
    return reactions.of_negative_client(probe)


def granted(probe: str) -> KnownBad:
    """What must be refused is not."""
    spoil = told(Kind.PROBED, CLIENTS, t=31.0, detail=f"{probe}:accepted")
    return known_bad(
        "drill.negative_clients", law_of(probe), by=spoil, prepare=asks(probe), expect={"negative_clients": (probe,)}
    )


def stale(*clients: int) -> Callable[[Story], Story]:
    return told(Kind.STALE, *clients, stream=STREAM, seq=1, attempt=1, detail="retention_floor_breach")


def swaps_what_is_read_back(story: Story) -> Story:
    """The service returns two events in another order than all clients applied them, without positions."""
    for number, other in ((7, 999), (8, 7), (999, 8)):
        story = changed_marker(story, number, other)
    return changed(Kind.READ_BACK, seq=-1)(story)


def changed_marker(story: Story, number: int, other: int) -> Story:
    return story.changed(lambda row: row.kind is Kind.READ_BACK and row.marker == number, marker=other)


def changed_position(kind: Kind, marker: int, seq: int) -> Callable[[Story], Story]:
    return lambda story: story.changed(lambda row: row.kind is kind and row.marker == marker, seq=seq)


def read_back(story: Story) -> Story:
    """The service returned all 330 events over HTTP, in order, once."""
    story = story.marked()
    for seq in range(1, 331):
        story.tell(59.5, Kind.READ_BACK, stream=STREAM, seq=seq, marker=seq)
    return story.tell(59.5, Kind.READ_BACK_COMPLETED, stream=STREAM, value=330.0, detail="ok")


KNOWN_BAD = (
    known_bad(
        "error.stale_cursors",
        by=stale(*range(1, 22)),
        prepare=stale(0),
        expect={"stale_reasons": ("retention_floor_breach",)},
    ),
    known_bad(
        "error.token_issue_failure_ratio",
        by=told(Kind.TOKEN_REFUSED, *range(CLIENTS), detail="forbidden"),
        prepare=told(Kind.TOKEN_MINTED, *[*range(CLIENTS)] * 10, value=4.0),
    ),
    known_bad("reconnect.heartbeat_timeouts_per_s", by=told(Kind.HEARTBEAT_TIMEOUT, *range(10))),
    known_bad("delivery.slow_consumer_evictions", by=told(Kind.EVICTED, 3)),
    known_bad("drill.phases", by=told(Kind.PHASE, -1, t=25.0, detail="recovery")),
    known_bad("drill.faults_observed", by=changed(Kind.FAULT_OBSERVED, value=20.0)),
    known_bad("drill.generator_lag_ms", by=changed(Kind.GENERATOR_LAG, value=900.0)),
    known_bad("drill.wall_clocks", by=changed(Kind.MACHINE, value=30.0)),
    known_bad("drill.load", by=falls_silent),
    known_bad(
        "drill.misusers_served",
        by=lambda story: story.without(lambda row: row.kind is Kind.SETTLED and row.client == CLIENTS),
        prepare=asks("any_mutation"),
        expect={"negative_clients": ("any_mutation",)},
    ),
    known_bad(
        "drill.malformed_frames",
        by=told(Kind.PROBED, CLIENTS, detail="malformed_frames:no_json:refused:closed"),
        prepare=asks("malformed_frames"),
        expect={"negative_clients": ("malformed_frames",)},
    ),
    known_bad("checkpoint_regressed", by=told(Kind.CHECKPOINT_WRITTEN, 3, t=57.0, stream=STREAM, seq=3)),
    known_bad("checkpoint_ahead", by=told(Kind.CHECKPOINT_WRITTEN, 3, t=57.0, stream=STREAM, seq=900)),
    known_bad("incomplete_snapshot", by=told(Kind.SNAPSHOT, 3, t=57.0, stream=STREAM, seq=3, detail="empty")),
    known_bad("resumed_in_new_log", by=learns_another_epoch, prepare=with_epochs),
    known_bad(
        "partly_delivered",
        by=lambda story: story.without(lambda row: row.client == 3 and row.seq == 331),
        prepare=with_one_unanswered,
    ),
    known_bad("applied_out_of_order", "ux.integrity", by=applies_the_last_again),
    known_bad("unexplained_gap", by=leaves_out_a_live_event),
    known_bad(
        "needless_loss",
        by=told(Kind.DECLARED_LOSS, 3, stream=WORKERS, seq=8, value=5.0),
        prepare=with_workers,
        expect={"declared_loss": True},
    ),
    known_bad(
        "stored_lost",
        by=lambda story: story.without(lambda row: row.kind is Kind.READ_BACK and row.seq == 7),
        prepare=read_back,
    ),
    known_bad("stored_twice", by=told(Kind.READ_BACK, -1, t=59.5, stream=STREAM, seq=331, marker=330), prepare=read_back),
    known_bad(
        "stored_altered",
        by=lambda story: story.changed(lambda row: row.kind is Kind.READ_BACK and row.seq == 7, detail="checksum"),
        prepare=read_back,
    ),
    known_bad("stored_otherwise", by=swaps_what_is_read_back, prepare=read_back),
    known_bad("stored_otherwise", by=changed_position(Kind.READ_BACK, 7, 1007), prepare=read_back),
    known_bad("false_start", by=begins_at_the_head),
    known_bad("runtime_died", by=told(Kind.RUNTIME_DIED, -1)),
    *map(granted, NEGATIVE_CLIENTS),
)
