"""Shared runs: a client that shares the result of a message has the same notices as one that reads it itself."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.client.cursor import Cursor
from sim.client.notices import Run, run_of
from sim.client.spans import Span, go_on, take_spans
from sim.protocols.markers import NO_MARKERS
from sim.protocols.spacetime.adapter import SpacetimeConnection
from sim.protocols.spacetime.frames import HeartbeatPush, ServerFrame, Update, UpdateBatch, Watermark
from sim.protocols.spacetime.streams import stream_id
from tests.client.session_driver import RUN, WORKER, SessionDriver, batch, update


def wrong(update: Update) -> Update:
    return msgspec.structs.replace(update, payload_hash="sha256:" + "0" * 64)


def run_in(frame: ServerFrame) -> Run | None:
    return run_of(SpacetimeConnection("").read(frame), stream_id, NO_MARKERS)


def live(policy: str, shares: bool) -> SessionDriver:
    """A client of two topics that went live with the first two events of each."""
    driver = SessionDriver(policy, topics=(RUN, WORKER))
    driver.session.settings = replace(driver.session.settings, shares_runs=shares)
    subscribe = driver.begin()
    driver.receive(batch(1, 2, complete=False))
    driver.replay(subscribe, batch(1, 2, topic=WORKER))
    driver.actions()  # also collects the notices so far
    return driver


def state(driver: SessionDriver) -> object:
    session = driver.session
    cursors = [
        (c.topic, c.watermark, c.checkpoint, c.head, c.seen, c.replayed, c.replayed_new)
        for c in session.replica.cursors.values()
    ]
    return session.state, session.wake_at(), session.is_caught_up, cursors, [repr(notice) for notice in driver.notices]


@st.composite
def scripts(draw: st.DrawFn) -> list[ServerFrame]:
    """Mostly the next events in order, with every kind of faulty frame between them."""
    following = {RUN: 3, WORKER: 3}
    return [draw(frames(following)) for _ in range(draw(st.integers(0, 10)))]


@st.composite
def frames(draw: st.DrawFn, following: dict[str, int]) -> ServerFrame:
    topic = draw(st.sampled_from((RUN, RUN, WORKER)))
    first = following[topic] if draw(st.integers(0, 4)) else draw(st.integers(1, 9))
    seqs = list(range(first, first + draw(st.integers(0, 3))))
    following[topic] = max((*seqs, following[topic] - 1)) + 1
    if draw(st.integers(0, 5)) == 0:
        seqs = draw(st.permutations(seqs + draw(st.lists(st.integers(1, 12), max_size=2))))
    updates = [update(seq, topic) for seq in seqs]
    if updates and draw(st.integers(0, 7)) == 0:
        updates[-1] = wrong(updates[-1])
    if draw(st.integers(0, 7)) == 0:
        updates.append(update(first, draw(st.sampled_from((RUN, WORKER, "run:elsewhere:events")))))
    head = max(seqs, default=0) + draw(st.sampled_from((0, 0, 0, 2, -3)))
    marks = (Watermark(topic, max(head, 0)),) * draw(st.sampled_from((1, 1, 1, 0, 2)))
    if draw(st.integers(0, 2)) == 0:  # both topics in one frame
        other = WORKER if topic == RUN else RUN
        updates.append(update(following[other], other))
        marks = (*marks, Watermark(other, following[other] + draw(st.sampled_from((0, 0, 1, -1)))))
        following[other] += 1
    if draw(st.integers(0, 9)) == 0:
        return HeartbeatPush(marks)
    return UpdateBatch(tuple(updates), draw(st.booleans()), marks)


@given(scripts(), st.sampled_from(("reference", "desktop")), st.booleans())
def test_sharing_runs_changes_nothing(script: list[ServerFrame], policy: str, reads_each: bool):
    drivers = [live(policy, shares) for shares in (False, True)]
    for frame in script:
        for driver in drivers:
            driver.now += 0.01
            if driver.session.is_live:
                driver.receive(frame)
            if reads_each:
                driver.notices += driver.session.notices()
    for driver in drivers:
        driver.actions()
    assert state(drivers[0]) == state(drivers[1])


@given(scripts(), st.sampled_from(("reference", "desktop")))
def test_following_a_run_equals_receiving_its_frames(script: list[ServerFrame], policy: str):
    """An engine that knows a run calls `follow` and takes the notices from the run."""
    drivers = [live(policy, shares) for shares in (False, True)]
    for frame in script:
        for driver, follows in zip(drivers, (False, True), strict=True):
            session = driver.session
            driver.now += 0.01
            run = run_in(frame) if isinstance(frame, UpdateBatch) else None
            if follows and run is not None and session.follow(run, driver.now):
                driver.notices += run.notices
            elif session.is_live:
                driver.receive(frame)
            driver.notices += session.notices()
    for driver in drivers:
        driver.actions()
    assert state(drivers[0]) == state(drivers[1])


def test_run_that_does_not_continue_is_not_followed():
    driver = live("reference", shares=True)
    before, run = state(driver), run_in(batch(4))
    assert run is not None
    assert not driver.session.follow(run, driver.now)
    assert state(driver) == before


def test_notices_keep_their_order():
    drivers = [live("reference", shares) for shares in (False, True)]
    for driver in drivers:
        for frame in (batch(3), batch(2), batch(4)):
            driver.receive(frame)
        driver.actions()
    assert state(drivers[0]) == state(drivers[1])


def test_clients_share_notices_of_the_same_run():
    one, other = live("reference", shares=True), live("reference", shares=True)
    other.session.settings = one.session.settings
    message = one.wire.read(batch(3, 4, head=5))
    for driver in (one, other):
        driver.session.notices()
        driver.session.received(message, driver.now)
    notices = one.session.notices()
    assert notices is other.session.notices()
    assert [(notice.kind, notice.seq) for notice in notices] == [
        *(("received", -1), ("applied", 3), ("applied", 4), ("checkpoint_written", 4)),
    ]
    assert not one.session.notices()


@pytest.mark.parametrize(
    "frame",
    [
        batch(),
        batch(3, 5),
        batch(4, 3),
        batch(3, 3),
        batch(3, head=2),
        UpdateBatch((update(3),), True, (Watermark(WORKER, 3),)),
        UpdateBatch((update(3), update(4, WORKER)), True, (Watermark(RUN, 4),)),
        UpdateBatch((update(3), update(3, WORKER)), True, (Watermark(RUN, 3), Watermark(RUN, 3))),
        UpdateBatch((wrong(update(3)),), True, (Watermark(RUN, 3),)),
    ],
)
def test_frame_that_is_not_a_run_returns_none(frame: UpdateBatch):
    assert run_in(frame) is None


def test_frame_without_heads_is_a_run():
    run = run_in(UpdateBatch((update(3), update(4)), True, ()))
    assert run is not None
    assert run.spans == (Span(RUN, 2, 4, -1),)


def test_notices_of_several_runs_are_all_kept():
    driver = live("reference", shares=True)
    for frame in (batch(3), batch(4), batch(5)):
        driver.receive(frame)
    assert driver.seqs("applied")[-3:] == [3, 4, 5]


def test_run_at_or_below_the_requested_position_is_read_event_by_event():
    """A head lowered the cursor during the replay: each event that comes again is counted as below the requested one."""
    for asked_from, is_taken in ((3, True), (4, False)):
        cursor = Cursor(RUN, "stream", watermark=3)
        cursor.begin_replay(asked_from)
        assert take_spans({RUN: cursor}, (Span(RUN, 3, 4, -1),), replaying=True) == is_taken
        assert cursor.watermark == (4 if is_taken else 3)


@pytest.mark.parametrize("after", [(2,), (2, 5)])
def test_spans_go_on_if_each_continues_at_its_topics_place(after: tuple[int, ...]):
    spans = tuple(Span(topic, at, at + 3, -1) for topic, at in zip((RUN, WORKER), after, strict=False))
    places = {span.topic: span.after for span in spans}
    assert go_on(spans, places)
    assert places == {span.topic: span.last for span in spans}
    elsewhere = {**places, spans[-1].topic: 1}
    before = dict(elsewhere)
    assert not go_on(spans, elsewhere)
    assert elsewhere == before, "no place moves"


@pytest.mark.parametrize("replaying", [False, True])
def test_only_events_of_a_replay_are_counted_as_replayed(replaying: bool):
    cursor = Cursor("a", "a", watermark=3, checkpoint=3, replayed=1, replayed_new=1)
    assert take_spans({"a": cursor}, (Span("a", 3, 7, 9),), replaying)
    assert (cursor.watermark, cursor.checkpoint, cursor.head, cursor.seen) == (7, 7, 9, 7)
    assert (cursor.replayed, cursor.replayed_new) == ((5, 5) if replaying else (1, 1))
