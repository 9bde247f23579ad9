"""Logs that start over: random logs, deletions and readers, against what really happened."""

from dataclasses import astuple, dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.analysis.invariants.registry import violations
from sim.record.logs import Epochs, Events, by_positions
from sim.record.observations import Kind
from tests.histories import AUDITOR, STREAM, Story


@dataclass(frozen=True)
class Appended:
    """What really happened to one event."""

    sent_t: float
    acknowledged_t: float
    log: int
    seq: int


@st.composite
def streams(draw: st.DrawFn, *, is_dense: bool, is_serial: bool) -> list[Appended]:
    """The events of one stream in the order of their numbers; its log was deleted at any times, or never."""
    count = draw(st.integers(1, 12))
    sent_t = np.cumsum([draw(st.integers(1, 5)) for _ in range(count)])
    takes = [0.5 if is_serial else draw(st.integers(1, 12)) for _ in range(count)]
    appended_t = [sent + draw(st.floats(0, 1, width=16)) * take for sent, take in zip(sent_t, takes, strict=True)]
    deleted_t = sorted(draw(st.lists(st.integers(0, 40), max_size=2)))
    found: dict[int, tuple[int, int]] = {}
    heads: dict[int, int] = {}
    for number in np.argsort(appended_t, kind="stable").tolist():
        log = int(np.searchsorted(deleted_t, appended_t[number]))
        heads[log] = heads.get(log, 0) + (1 if is_dense else draw(st.integers(1, 4)))  # others publish in between
        found[number] = log, heads[log]
    times = zip(sent_t.tolist(), takes, strict=True)
    return [Appended(float(sent), float(sent + take), *found[number]) for number, (sent, take) in enumerate(times)]


def kinds(*, is_serial: bool) -> st.SearchStrategy[tuple[bool, list[Appended]]]:
    """Streams of dense positions (true) and of increasing ones."""
    kind = st.booleans()
    return kind.flatmap(lambda is_dense: st.tuples(st.just(is_dense), streams(is_dense=is_dense, is_serial=is_serial)))


def separated(stream: list[Appended], *, is_dense: bool) -> list[int] | None:
    columns = (np.array([getattr(event, name) for event in stream]) for name in ("seq", "sent_t", "acknowledged_t"))
    logs = by_positions(Events(np.arange(1, len(stream) + 1), *columns), are_dense=is_dense)
    return None if logs is None else logs.log.tolist()


def shows(stream: list[Appended], *, is_dense: bool) -> bool:
    """Whether an event has a lower position than one that had been acknowledged before it was sent."""
    lower = any(a.acknowledged_t < b.sent_t and a.seq > b.seq for a in stream for b in stream)
    return lower and (not is_dense or len({event.seq for event in stream}) < len(stream))


@settings(deadline=None)
@given(kinds(is_serial=False))
def test_a_log_that_started_over_is_found_if_its_positions_show_it_and_no_other(case: tuple[bool, list[Appended]]) -> None:
    is_dense, stream = case
    found = separated(stream, is_dense=is_dense)
    assert (found is not None) == shows(stream, is_dense=is_dense)
    if found is not None:
        assert len({event.log for event in stream}) > 1


@settings(deadline=None)
@given(kinds(is_serial=True))
def test_of_events_that_did_not_overlap_none_is_taken_for_one_of_another_log(case: tuple[bool, list[Appended]]) -> None:
    is_dense, stream = case
    found = separated(stream, is_dense=is_dense) or [0] * len(stream)
    for (a, b), (log, other) in zip(pairwise(stream), pairwise(found), strict=True):
        assert log <= other
        assert a.log != b.log or log == other, "one log was taken for two"
        assert log != other or a.log == b.log or a.seq <= b.seq, "positions went down within a log"


@pytest.mark.parametrize("second", [4, 3])
def test_first_events_of_a_new_log_that_were_sent_at_once_are_not_taken_for_late_ones_of_the_old(second: int) -> None:
    """Their positions were taken in the old log, which ended at about as many events."""
    old = [Appended(float(n), n + 0.5, 0, n) for n in range(1, 4)]
    new = [Appended(9.0, 10.0 + n, 1, seq) for n, seq in enumerate((2, 1, 3, second) if second == 4 else (1, 2, 3))]
    assert separated([*old, *new], is_dense=True) == [0] * len(old) + [1] * len(new)


@settings(deadline=None)
@given(kinds(is_serial=False))
def test_epochs_say_which_log_each_event_is_in(case: tuple[bool, list[Appended]]) -> None:
    is_dense, stream = case
    number, (sent_t, acknowledged_t, log, seq) = np.arange(1, len(stream) + 1), np.array([astuple(event) for event in stream]).T
    epochs = Epochs(number, np.unique(log, return_inverse=True)[1])
    found = by_positions(Events(number, seq.astype(np.int64), sent_t, acknowledged_t), are_dense=is_dense, epochs=epochs)
    if found is not None:
        assert found.log.tolist() == epochs.epoch.tolist()
    elif is_dense:
        assert len(set(log)) == 1


def test_an_epoch_that_a_position_contradicts_decides_nothing() -> None:
    """The last event cannot be in the old log, although its readers had not heard of the new one."""
    old, new = [Appended(float(n), n + 0.5, 0, n) for n in range(1, 5)], [Appended(9.0 + n, 9.5 + n, 1, n) for n in range(1, 4)]
    number = np.arange(1, 8)
    columns = (np.array([getattr(event, name) for event in [*old, *new]]) for name in ("seq", "sent_t", "acknowledged_t"))
    found = by_positions(Events(number, *columns), are_dense=True, epochs=Epochs(number, np.array([0] * 4 + [1, 1, 0])))
    assert found is not None
    assert found.log.tolist() == [0] * 4 + [1] * 3


@dataclass(frozen=True)
class Reader:
    """A client that applied the first events of the old log, and came back when the new one had some."""

    applied: int
    head_at_return: int


@dataclass(frozen=True)
class Case:
    old: int  # number of events
    new: int
    readers: tuple[Reader, ...]
    has_epochs: bool
    by_fault: bool
    form: str = "stated"  # positions in acknowledgements; seen: only clients know them; opaque

    def story(self) -> Story:
        positions = "opaque" if self.form == "opaque" else "dense"
        story = self._story({"positions": positions, "has_epochs": self.has_epochs})
        unknown = {"stated": (), "seen": (Kind.PUBLISHED,), "opaque": tuple(Kind)}[self.form]
        story = story.without(lambda row: self.form == "opaque" and row.kind is Kind.CLAMPED)
        return story.changed(lambda row: row.kind in unknown, seq=-1)

    def _story(self, capabilities: dict[str, object]) -> Story:
        story = Story(len(self.readers), header={"capabilities": capabilities})
        for seq in range(1, self.old + 1):
            story.publish(seq, t=float(seq), marker=seq)
        for seq in range(1, self.new + 1):
            story.publish(seq, t=50.0 + seq, marker=self.old + seq, detail=f"n{seq}")
        if self.by_fault:
            story.tell(40.0, Kind.FAULT_INJECTED, attempt=0, detail="recreate_log")
            story.tell(40.0, Kind.FAULT_REVERTED, attempt=0, detail="recreate_log")
        for client, reader in enumerate(self.readers):
            self._read(story, client, reader)
        story.audit(baseline=0)
        for seq in range(1, self.new + 1):
            self._apply(story, AUDITOR, seq, 90.0)
        return story

    def _apply(self, story: Story, client: int, seq: int, t: float) -> None:
        story.tell(t, Kind.APPLIED, client, STREAM, seq, detail=f"n{seq}", marker=self.old + seq)
        story.tell(t, Kind.CHECKPOINT_WRITTEN, client, STREAM, seq)

    def _read(self, story: Story, client: int, reader: Reader) -> None:
        story.fresh(client)
        for seq in range(1, reader.applied + 1):
            story.tell(float(seq), Kind.APPLIED, client, STREAM, seq, detail=f"h{seq}", marker=seq)
            story.tell(float(seq), Kind.CHECKPOINT_WRITTEN, client, STREAM, seq)
        back_t, at = 50.5 + reader.head_at_return, self.resumes_at(reader)
        if self.has_epochs:
            story.tell(back_t, Kind.EPOCH_LEARNED, client, STREAM, 0, detail="e2")
            story.tell(back_t, Kind.REBOOTSTRAPPED, client, STREAM, 0, detail="other_log")
            story.tell(back_t, Kind.DECLARED_LOSS, client, STREAM, 0)
        elif at < reader.applied:
            story.tell(back_t, Kind.CLAMPED, client, STREAM, at, value=float(reader.applied))
        for seq in range(at + 1, self.new + 1):
            self._apply(story, client, seq, max(back_t, 50.0 + seq))

    def resumes_at(self, reader: Reader) -> int:
        return 0 if self.has_epochs else min(reader.applied, reader.head_at_return)

    def lost(self) -> list[int]:
        """How many events of the new log each client lost that went on in it; 0 for one that lost none."""
        resumed = [self.resumes_at(reader) for reader in self.readers if not self.has_epochs]
        return [at for at in resumed if at < self.new]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    old, new = draw(st.integers(2, 9)), draw(st.integers(1, 12))
    reader = st.builds(Reader, st.integers(0, old), st.integers(0, new))
    readers = draw(st.lists(reader, min_size=1, max_size=4))
    form = draw(st.sampled_from(["stated", "seen", "opaque"]))
    by_fault = form != "stated" or draw(st.booleans())  # otherwise little shows it, and nothing may
    return Case(old, new, tuple(readers), draw(st.booleans()), by_fault, form)


@settings(deadline=None)
@given(cases())
@example(Case(5, 9, (Reader(5, 8), Reader(3, 1)), has_epochs=False, by_fault=True))
@example(Case(5, 9, (Reader(5, 8), Reader(3, 1)), has_epochs=True, by_fault=True))
@example(Case(5, 9, (Reader(5, 8), Reader(3, 1)), has_epochs=False, by_fault=True, form="opaque"))
def test_what_clients_lose_in_a_new_log_is_named_and_nothing_else(case: Case) -> None:
    ledger = case.story().ledger()
    found = {each.invariant: each.count for each in violations(ledger.history, ledger)}
    wanted = {} if case.by_fault else {"acknowledged_lost": case.old}
    if not case.has_epochs:
        wanted["log_recreated"] = max(len(case.lost()), 1)
        wanted["silent_loss"] = sum(case.lost())
    assert found == {name: count for name, count in wanted.items() if count}
    if case.has_epochs:
        assert ledger.dropped.count == 0


@pytest.mark.parametrize("form", ["seen", "opaque"])
def test_a_fault_that_did_nothing_is_no_reason_to_separate_logs(form: str) -> None:
    story = Story(1, header={"capabilities": {"positions": "opaque" if form == "opaque" else "dense"}}).fresh(0)
    story.tell(4.5, Kind.FAULT_INJECTED, detail="recreate_log").tell(4.5, Kind.FAULT_REVERTED, detail="recreate_log")
    for seq in range(1, 10):
        story.publish(seq, t=float(seq)).apply(0, seq, t=float(seq))
    whole = story.audit(*range(1, 10)).marked()
    unknown = tuple(Kind) if form == "opaque" else (Kind.PUBLISHED,)
    unlocated = whole.changed(lambda row: row.kind in unknown, seq=-1)
    assert unlocated.history().logs == {}
    found_less = unlocated.without(lambda row: row.client == AUDITOR and row.kind is Kind.APPLIED and row.marker <= 4)
    assert [logs.log.tolist() for logs in found_less.history().logs.values()] == [[0] * 4 + [1] * 5]
    trimmed = unlocated.without(lambda row: row.client == AUDITOR and row.kind is Kind.APPLIED and row.marker <= 2)
    assert trimmed.history().logs == {}, "events from before the fault are still in the log"


@pytest.mark.parametrize(("head_at_return", "is_known"), [(2, True), (8, False)])
def test_a_new_log_that_only_clients_saw_is_known_by_a_lower_head(head_at_return: int, is_known: bool) -> None:
    case = Case(5, 9, (Reader(5, head_at_return), Reader(0, 0)), has_epochs=False, by_fault=False, form="seen")
    history = case.story().history()
    assert [logs.log.tolist() for logs in history.logs.values()] == ([[0] * 5 + [1] * 9] if is_known else [])


def test_events_under_wrong_positions_are_of_one_log_in_spite_of_a_lower_head() -> None:
    story = Story(1, header={"capabilities": {"positions": "dense"}}).fresh(0).tell(9.0, Kind.CLAMPED, 0, STREAM, 2)
    for marker, seq in enumerate((1, 3, 2, 4), 1):
        story.publish(-1, t=float(marker), marker=marker)
        story.tell(float(marker), Kind.APPLIED, 0, STREAM, seq, marker=marker)
    assert story.history().logs == {}
    again = story.changed(lambda row: row.marker == 4 and row.kind is Kind.APPLIED, seq=1)  # two events at one position
    assert len(again.history().logs) == 1


@pytest.mark.parametrize(("fault_t", "is_its_doing"), [(2.0, False), (4.9, False), (5.0, True), (51.0, True), (51.1, False)])
def test_a_fault_deleted_a_log_only_if_it_was_active_in_between(fault_t: float, is_its_doing: bool) -> None:
    story = Case(5, 5, (Reader(5, 2),), has_epochs=False, by_fault=False).story()
    story.tell(fault_t, Kind.FAULT_INJECTED, attempt=0, detail="recreate_log")
    story.tell(fault_t, Kind.FAULT_REVERTED, attempt=0, detail="recreate_log")
    history = story.history()
    (base,) = history.logs
    assert [bool(history.deleted_by_fault()[code]) for code in history.logs_of(base)] == [is_its_doing, False]


@pytest.mark.parametrize("capabilities", [{}, {"has_epochs": False}, {"has_epochs": True}])
def test_a_replaced_log_is_a_breach_only_where_positions_do_not_name_their_log(capabilities: dict[str, object]) -> None:
    """The last two events are in another log, and no client of the protocol without epochs can notice it."""
    story = Story(1, header={"capabilities": capabilities}).fresh(0)
    for number, seq in enumerate((1, 2, 3, 1, 2), 1):
        story.publish(seq, t=float(number), marker=number)
    history = story.history()
    assert [logs.log.tolist() for logs in history.logs.values()] == [[0, 0, 0, 1, 1]]
    assert history.has_epochs == bool(capabilities.get("has_epochs"))
    names = {each.invariant for each in violations(history, story.ledger())}
    assert ("log_recreated" in names) != history.has_epochs


def in_two_logs(first: int = 1) -> Story:
    """Events 1 to 3 of a log and, from 10 s on, 4 to 6 of another one, at the same positions, from `first` on."""
    story = Story(2)
    for number in range(1, 4):
        story.publish(first + number - 1, t=float(number), marker=number)
        story.publish(first + number - 1, t=10.0 + number, marker=3 + number)
    return story


def streams_of(story: Story, kind: Kind) -> list[str]:
    """The log of each row of a kind, in the order of time."""
    history = story.history()
    return [history.streams[code] for code in history.of(kind).stream]


SECOND = f"{STREAM} (log 2)"


def test_a_row_that_names_no_event_is_of_the_log_in_which_its_client_is() -> None:
    """The first row of a client is of the log in which it goes on, never in that of the client before it."""
    story = in_two_logs()
    for client, t, marker in ((0, 11.5, 4), (1, 1.5, 1)):
        story.tell(t, Kind.REPLAY_STARTED, client, STREAM, 0)
        story.tell(t + 0.1, Kind.APPLIED, client, STREAM, 1, marker=marker)
        story.tell(t + 0.2, Kind.CHECKPOINT_WRITTEN, client, STREAM, 1)
    for kind in (Kind.REPLAY_STARTED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN):
        assert streams_of(story, kind) == [STREAM, SECOND], kind


def test_a_client_that_goes_on_in_the_old_log_is_there_although_there_is_another_one() -> None:
    story = in_two_logs()
    story.tell(12.5, Kind.REPLAY_STARTED, 0, STREAM, 0).tell(12.6, Kind.APPLIED, 0, STREAM, 1, marker=1)
    story.tell(12.5, Kind.REPLAY_STARTED, 1, STREAM, 0)  # nothing says that this one is
    assert streams_of(story, Kind.REPLAY_STARTED) == [STREAM, SECOND]


@pytest.mark.parametrize(
    ("first", "seq", "log"), [(1, 1, SECOND), (1, 2, STREAM), (1, -1, SECOND), (0, 0, SECOND), (0, 1, STREAM)]
)
def test_an_event_under_another_position_than_its_own_does_not_say_in_which_log_its_client_is(
    first: int, seq: int, log: str
) -> None:
    story = in_two_logs(first)
    story.tell(1.5, Kind.APPLIED, 0, STREAM, first, marker=1)
    story.tell(12.5, Kind.DUPLICATE_DROPPED, 0, STREAM, seq, marker=4)
    story.tell(12.6, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 2)
    assert streams_of(story, Kind.CHECKPOINT_WRITTEN) == [log]


def test_an_event_whose_position_nobody_knows_says_in_which_log_its_client_is() -> None:
    story = in_two_logs().tell(15.0, Kind.PUBLISHED, -1, STREAM, -1, value=0.0, marker=7)
    story.tell(1.5, Kind.APPLIED, 0, STREAM, 1, marker=1)
    story.tell(16.0, Kind.GAP, 0, STREAM, 9, marker=7)
    story.tell(16.1, Kind.CHECKPOINT_WRITTEN, 0, STREAM, 9)
    assert streams_of(story, Kind.CHECKPOINT_WRITTEN) == [SECOND]


@pytest.mark.parametrize(
    ("place", "sent_t", "log"),
    [
        (101, 9.0, 0),  # near the old log's last, and sent before the new one was known
        (101, 11.0, 1),
        (51, 9.0, 0),
        (50, 9.0, 1),  # the old log has it already, and passed it
        (2, 9.0, 1),
    ],
)
def test_late_event_is_of_the_log_whose_positions_are_nearer(place: int, sent_t: float, log: int) -> None:
    """The old log has the positions 40, 50 and 100, the last under way at second 9; the new one begins with 1 at second 11."""
    seq, sent = [40, 50, 100, 1, place], [0.0, 1.0, 8.9, 10.0, sent_t]
    events = Events(np.arange(1, 6), np.array(seq), np.array(sent), np.array([0.5, 1.5, 9.5, 11.0, 11.5]))
    found = by_positions(events, are_dense=False)
    assert found is not None
    assert found.log.tolist() == [0, 0, 0, 1, log]
