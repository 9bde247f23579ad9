"""Hand-written histories: a few rows for one invariant, or a healthy drill that a test can then damage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from drills.judging.checks import network
from drills.judging.gates import DECISIONS
from sim.base import randomness
from sim.drill.fault_kinds import DropSockets
from sim.drill.model import Drill, Expect, Fleet, Load, Phases
from sim.protocols.spacetime.negative import KINDS
from sim.record.columns import Columns
from sim.record.history import History
from sim.record.ledger import Ledger
from sim.record.observations import Kind
from sim.record.parquet import Recorder
from sim.record.run_header import RunHeader, StreamLimits, write_header

STREAM = "runtime.run.1.events"
AUDITOR = 1000
MARKED = (Kind.PUBLISHED, Kind.APPLIED, Kind.DUPLICATE_DROPPED, Kind.GAP, Kind.HASH_MISMATCH)
# Some checks belong to special drills only: see `drills/judging/checks/network.py`.
_SPECIAL = frozenset(network.DECISIONS)
GATED = tuple(name for name in DECISIONS if not name.startswith("drill.") and name not in _SPECIAL)


class Row(NamedTuple):
    t: float
    kind: Kind
    client: int = -1
    stream: str = ""
    seq: int = -1
    attempt: int = 0
    value: float = float("nan")
    detail: str = ""
    marker: int = -1


@dataclass
class Story:
    """Rows in the order of their recording, and the number of clients."""

    clients: int = 2
    rows: list[Row] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)

    def tell(self, t: float, kind: Kind, client: int = -1, stream: str = "", seq: int = -1, **more: Any) -> "Story":
        self.rows.append(Row(t, kind, client, stream, seq, **more))
        return self

    def publish(self, *seqs: int, t: float = 1.0, stream: str = STREAM, **more: Any) -> "Story":
        for seq in seqs:
            self.tell(t, Kind.PUBLISHED, -1, stream, seq, **{"value": 0.0, "detail": f"h{seq}", **more})
        return self

    def fresh(self, client: int, baseline: int = 0, t: float = 0.5, stream: str = STREAM) -> "Story":
        self.tell(t, Kind.SUBSCRIBED, client, value=20.0)
        return self.tell(t, Kind.REBOOTSTRAPPED, client, stream, baseline, detail="fresh")

    def apply(self, client: int, *seqs: int, t: float = 2.0, stream: str = STREAM) -> "Story":
        for seq in seqs:
            self.tell(t, Kind.APPLIED, client, stream, seq, detail=f"h{seq}")
            self.tell(t, Kind.CHECKPOINT_WRITTEN, client, stream, seq)
        return self

    def audit(self, *seqs: int, baseline: int = 0, t: float = 90.0, stream: str = STREAM) -> "Story":
        self.fresh(AUDITOR, baseline, t, stream).apply(AUDITOR, *seqs, t=t, stream=stream)
        return self.tell(t, Kind.REPLAY_COMPLETED, AUDITOR, value=5.0).tell(t + 0.1, Kind.SETTLED, AUDITOR)

    def without(self, unwanted: Callable[[Row], bool]) -> "Story":
        return Story(self.clients, [row for row in self.rows if not unwanted(row)], self.header)

    def changed(self, which: Callable[[Row], bool], **fields: Any) -> "Story":
        """Rows with other fields; `marker="seq"`: the row's own seq."""

        def change(row: Row) -> Row:
            return row._replace(**{**fields, **({"marker": row.seq} if fields.get("marker") == "seq" else {})})

        return Story(self.clients, [change(row) if which(row) else row for row in self.rows], self.header)

    def marked(self) -> "Story":
        """The same with markers: the n-th event of a stream has number n."""
        return self.changed(lambda row: row.kind in MARKED and row.seq >= 0 and row.marker < 0, marker="seq")

    def history(self) -> History:
        columns = Columns()
        for row in self.rows:
            columns.add(*row)
        return History(run_header(self.clients, **self.header), columns.table())

    def ledger(self) -> Ledger:
        return Ledger(self.history())

    def clocks(self, until: float) -> "Story":
        """That our wall clock was right each second."""
        for second in range(int(until) + 1):
            self.tell(float(second), Kind.MACHINE, value=0.0, detail="wall_clock")
        return self

    def busy(self, since: float, until: float, who: str = "generator") -> "Story":
        """That a process of ours wanted a core all the time."""
        for tick in range(round((until - since) * 10)):
            t = since + (tick + 1) / 10
            self.tell(t, Kind.MACHINE, attempt=100, value=0.7, detail=f"{who}_ran")
            self.tell(t, Kind.MACHINE, attempt=100, value=0.29, detail=f"{who}_waited")
        return self

    def write(self, folder: Path, drill: Drill, complete: bool = True, **header: Any) -> None:
        """Write the files that an engine writes."""
        recorder = Recorder(folder)
        for row in self.rows:
            recorder.add(*row)
        about = {"drill": drill.name, "drill_sha256": drill.digest(), "started_at": datetime.now(UTC).isoformat()}
        about["run_id"] = folder.parents[1].name
        made = run_header(self.clients, **{**self.header, **about, **header})
        if complete:
            made.observations_sha256, made.observations_rows = recorder.seal()
        else:
            recorder.flush()
            recorder._pending.put(None)
            recorder._thread.join()
        made.complete = complete
        write_header(folder, made)


# The limits of the contract, by stream.
LIMITS = {
    **{
        f"runtime.run.{run}.events": StreamLimits(20_000, True)
        for run in ("1", "2", "3", "a", "b", *(f"r{n}" for n in range(10)))
    },
    "runtime.codex.worker.events": StreamLimits(3_000, False),
}


def run_header(clients: int, **more: Any) -> RunHeader:
    fields: dict[str, Any] = {
        "drill": "storm",
        "drill_sha256": "",
        "engine": "sockets",
        "target": "mock",
        "target_kind": "mock",
        "policy": "reference",
        "seed": 7,
        "clients": clients,
        "started_at": "2026-11-23T14:05:01+00:00",
        "clock": "wall",
        "versions": {},
        "auditor": AUDITOR,
        "malformed_kinds": list(KINDS),
        "streams": LIMITS,
        "own_streams": [name for name in LIMITS if name.startswith("runtime.run.")],
        "duration_s": 60.0,
        "plan": [{"kind": "drop_sockets", "at_s": 0.0}],
    }
    return RunHeader(**{**fields, **more})


def storm_drill(clients: int = 150, checks: tuple[str, ...] = GATED, name: str = "storm", **expect: Any) -> Drill:
    return Drill(
        name=name,
        summary="Does everybody come back when everybody is cut at once?",
        checks=checks,
        fleet=Fleet(clients=clients),
        load=Load(events_per_s=5.0),
        phases=Phases(steady_s=20.0, fault_s=5.0),
        faults=(DropSockets(at_s=0.0),),
        expect=Expect(**expect),
    )


def good_storm(clients: int = 150) -> Story:
    """A healthy drill: 330 events, all clients cut at 20 s, back with full jitter, nothing missed."""
    subscriptions = {str(client): [STREAM] for client in range(clients)}
    return Story(clients, list(_good_rows(clients)), {"subscriptions": subscriptions})


@cache
def _good_rows(clients: int) -> tuple[Row, ...]:
    story = Story(clients)
    for t, phase in ((0.0, "steady"), (20.0, "fault"), (25.0, "recovery"), (26.0, "settle"), (60.0, "end")):
        story.tell(t, Kind.PHASE, detail=phase)
    story.tell(19.9, Kind.STEADY, value=1.0)
    story.tell(20.0, Kind.FAULT_INJECTED, detail="drop_sockets").tell(
        20.2, Kind.FAULT_OBSERVED, value=clients, detail="drop_sockets"
    )
    story.tell(21.0, Kind.FAULT_REVERTED, detail="drop_sockets")
    for seq in range(1, 331):
        story.tell(2.0 + seq * 0.07, Kind.PUBLISH_TRIED, -1, STREAM, attempt=1, value=2.0, detail="acknowledged")
        story.publish(seq, t=2.0 + seq * 0.07, value=2.0)
    for tick in range(120):
        story.tell(tick * 0.5, Kind.GENERATOR_LAG, value=1.0 + tick % 7)
    for client in range(clients):
        _one_client(story, client)
    story.audit(*range(1, 331), t=59.0).clocks(60.0)
    return tuple(sorted(story.rows, key=lambda row: row.t))


def _one_client(story: Story, client: int) -> None:
    begin, delay_ms = 0.01 * client, 250.0 * randomness.draw(7, "test", client)
    again = 20.1 + delay_ms / 1000
    _connect(story, client, begin, 1)
    story.tell(begin + 0.03, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="fresh")
    story.tell(20.1, Kind.DISCONNECTED, client, detail="network")
    story.tell(20.1, Kind.BACKOFF, client, attempt=1, value=delay_ms, detail="network")
    _connect(story, client, again, 2)
    story.tell(again + 0.04, Kind.REPLAY_STARTED, client, STREAM, 258)
    missed = 0
    for seq in range(1, 331):
        t = 2.0 + seq * 0.07 + 0.02
        missed += 20.1 < t < again + 0.04
        t = again + 0.04 if 20.1 < t < again + 0.04 else t
        story.tell(t, Kind.APPLIED, client, STREAM, seq, detail=f"h{seq}").tell(t, Kind.CHECKPOINT_WRITTEN, client, STREAM, seq)
    story.tell(again + 0.05, Kind.REPLAYED, client, STREAM, missed, value=float(missed))
    for tick in range(5, 60, 5):
        story.tell(tick + 0.001 * client, Kind.CLIENT_LAG, client, value=float(tick % 3))
    story.tell(58.0, Kind.SETTLED, client)


def _connect(story: Story, client: int, t: float, attempt: int) -> None:
    story.tell(t, Kind.TOKEN_MINTED, client, value=4.0).tell(t, Kind.CONNECT_ATTEMPTED, client, attempt=attempt)
    story.tell(t + 0.02, Kind.CONNECT_DONE, client, value=20.0).tell(t + 0.03, Kind.SUBSCRIBED, client, value=30.0)
    story.tell(t + 0.05, Kind.REPLAY_COMPLETED, client, value=50.0 + client % 20)


def decoded(data: bytes) -> Any:
    return msgspec.json.decode(data)
