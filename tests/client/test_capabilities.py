"""Sessions under any capabilities: what a server sends in any legal order is applied once, or its loss is declared."""

import random
from contextlib import nullcontext, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.base.errors import IllegalMoveError
from sim.client.transitions import CONNECTED, State
from sim.protocols.adapter import (
    Capabilities,
    CaughtUpSign,
    FreshStart,
    HeadSource,
    Liveness,
    Positions,
    Publishing,
    Refusals,
    Renewal,
    ResumingBy,
    StaleSign,
    Subscribing,
)
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    Event,
    Hash,
    Head,
    Item,
    Joined,
    Malformed,
    Next,
    Opened,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Renewed,
    Repeated,
    Resumed,
    Stale,
    Step,
    StreamEnded,
    Whose,
)
from tests.client.capability_server import NEVER, TOPICS, CapabilityServer, Fault

DENSE = Capabilities(
    positions=Positions.DENSE,
    has_epochs=False,
    head=(),
    head_of=Whose.AUTHORITY,
    caught_up=CaughtUpSign.EXPLICIT,
    stale=StaleSign.EXPLICIT,
    has_snapshots=False,
    fresh_start=FreshStart.RETAINED,
    is_one_connection=True,
    refusals=Refusals.CODES,
    liveness=Liveness.BOTH,
    hash_form="",
    can_resubscribe=True,
    resuming_by=ResumingBy.SUBSCRIBE,
    renewal=Renewal.BY_RECONNECT,
    publishing=Publishing.HTTP,
)


@st.composite
def capability_sets(draw: st.DrawFn) -> Capabilities:
    """Draw what a real protocol could have: no contradictions, such as an end of the replay by a head that nobody reports."""
    positions = draw(st.sampled_from(Positions))
    is_opaque = positions is Positions.OPAQUE
    resuming_by = draw(st.sampled_from(ResumingBy)) if is_opaque else ResumingBy.SUBSCRIBE
    is_one_connection = resuming_by is ResumingBy.JOIN or draw(st.booleans())
    head = (
        tuple(draw(st.sets(st.sampled_from([HeadSource.REPLY, HeadSource.HEARTBEATS, HeadSource.QUERY]))))
        if not is_opaque
        else ()
    )
    head_of = draw(st.sampled_from(Whose))
    signs = [CaughtUpSign.EXPLICIT, CaughtUpSign.REPLY]
    if head_of is Whose.AUTHORITY and {HeadSource.REPLY, HeadSource.QUERY} & set(head):
        signs.append(CaughtUpSign.HEAD)
    is_silent = not is_opaque and draw(st.booleans())
    return msgspec.structs.replace(
        DENSE,
        positions=positions,
        has_epochs=draw(st.booleans()),
        head=head,
        head_of=head_of,
        caught_up=draw(st.sampled_from(signs)),
        stale=StaleSign.SILENT if is_silent else draw(st.sampled_from([StaleSign.EXPLICIT, StaleSign.FLAG])),
        fresh_start=draw(st.sampled_from(FreshStart)),
        is_one_connection=is_one_connection,
        liveness=draw(st.sampled_from(Liveness)),
        can_resubscribe=draw(st.booleans()) or not is_one_connection,
        resuming_by=resuming_by,
        renewal=draw(st.sampled_from(Renewal)),
        subscribing=draw(st.sampled_from(Subscribing)) if is_one_connection else Subscribing.EACH_STREAM,
        beats_on_channel=draw(st.booleans()),
    )


def knows_its_logs(capabilities: Capabilities) -> bool:
    """Whether a client or the server notices that a log was replaced."""
    return capabilities.has_epochs or capabilities.positions is Positions.OPAQUE


def faults(capabilities: Capabilities) -> st.SearchStrategy[Fault]:
    """Draw something that happens to the server or the connection."""
    topics = st.sampled_from(TOPICS)
    steps = st.sampled_from([Step.RESUBSCRIBE, Step.RETRY, Step.REFETCH])
    options: list[st.SearchStrategy[Fault]] = [
        topics.map(lambda topic: lambda server: server.publish(topic)),
        topics.map(lambda topic: lambda server: server.publish(topic)),
        topics.map(lambda topic: lambda server: server.repeat(topic)),
        topics.map(lambda topic: lambda server: server.trim(topic)),
        st.just(lambda server: server.cut()),
        st.tuples(topics, steps).map(lambda drawn: lambda server: server.end_stream(*drawn)),
        st.floats(0.1, 40.0).map(lambda seconds: lambda server: server.wait(seconds)),
        st.sampled_from([Next(Step.RETRY), Next(Step.MINT), Next(Step.WAIT, 500.0), Next(Step.TERMINAL)]).map(
            lambda hint: lambda server: server.refusals.append(hint)
        ),
        st.just(lambda server: setattr(server, "breaks_next", True)),
    ]
    if capabilities.is_one_connection:
        options.append(st.just(lambda server: server.end_all()))
    if capabilities.positions is Positions.DENSE:
        options.append(st.just(lambda server: setattr(server, "drops_next", True)))
    if knows_its_logs(capabilities):
        options.append(topics.map(lambda topic: lambda server: server.replace_log(topic)))
    return st.one_of(options)


@settings(max_examples=300, deadline=None)
@given(st.data(), capability_sets(), st.integers(0, 2**32))
def test_every_event_is_applied_once_or_declared_lost(data: st.DataObject, capabilities: Capabilities, seed: int):
    has_item_positions = capabilities.positions is not Positions.OPAQUE or data.draw(st.booleans())
    server = CapabilityServer(capabilities, random.Random(seed), has_item_positions=has_item_positions)
    for fault in data.draw(st.lists(faults(capabilities), max_size=25)):
        fault(server)
    server.settle()


def replace(**more: object) -> Capabilities:
    return msgspec.structs.replace(DENSE, **more)


OPAQUE_JOIN = replace(positions=Positions.OPAQUE, resuming_by=ResumingBy.JOIN, caught_up=CaughtUpSign.REPLY)
POLLED = replace(
    positions=Positions.ORDERED,
    is_one_connection=False,
    subscribing=Subscribing.EACH_STREAM,
    caught_up=CaughtUpSign.REPLY,
    renewal=Renewal.ON_CONNECTION,  # so that no reconnect covers what was missed
)
BY_HEAD = msgspec.structs.replace(
    POLLED, caught_up=CaughtUpSign.HEAD, head=(HeadSource.REPLY,), stale=StaleSign.FLAG, has_epochs=True
)


@pytest.mark.parametrize(
    ("capabilities", "faults"),
    [
        # An event with a wrong hash came before the answer to the join that resumed.
        (OPAQUE_JOIN, "publish cut publish breaks_next wait"),
        (OPAQUE_JOIN, "publish end_all breaks_next publish wait"),
        # The answer that only a head completes says that the log is another one.
        (BY_HEAD, "replace_log"),
        (msgspec.structs.replace(BY_HEAD, positions=Positions.DENSE), "replace_log"),
        # The answer to a poll says that its position is stale, or starts above it without a word.
        (
            msgspec.structs.replace(POLLED, stale=StaleSign.FLAG),
            "end_stream publish publish trim",
        ),
        (msgspec.structs.replace(POLLED, stale=StaleSign.SILENT), "publish end_stream publish trim publish"),
        (msgspec.structs.replace(POLLED, stale=StaleSign.SILENT), "publish cut wait publish end_stream wait publish wait"),
    ],
)
def test_histories_that_once_were_misread(capabilities: Capabilities, faults: str):
    for seed in range(20):
        server = CapabilityServer(capabilities, random.Random(seed))
        for fault in faults.split():
            if fault in ("cut", "end_all"):
                getattr(server, fault)()
            elif fault == "breaks_next":
                server.breaks_next = True
            elif fault == "wait":
                server.wait(3.0)
            elif fault == "end_stream":
                server.end_stream(TOPICS[0], Step.RESUBSCRIBE)
            else:
                getattr(server, fault)(TOPICS[0])
        server.settle()


REFS = st.sampled_from(["", "1", "2", "3", "4", "5"])
STREAMS = st.sampled_from([*TOPICS, "foreign"])
HINTS = st.builds(Next, st.sampled_from(Step), st.none() | st.floats(0.0, 1000.0))


def any_events(capabilities: Capabilities) -> st.SearchStrategy[Event]:
    """Draw any event, with positions of the right kind."""
    is_opaque = capabilities.positions is Positions.OPAQUE
    epochs = st.sampled_from(["e1", "e2"]) if capabilities.has_epochs else st.none()
    positions = st.builds(Position, st.sampled_from("xyz") if is_opaque else st.integers(0, 9), epochs)
    maybe, named = st.none() | positions, st.none() | STREAMS
    numbers = st.integers(0, 99).map(lambda number: msgspec.Raw(str(number).encode()))
    items = st.lists(st.builds(Item, maybe if is_opaque else positions, numbers, st.just("sha256:0"), st.sampled_from(Hash)))
    return st.one_of(
        st.builds(Joined, REFS, st.text(max_size=2), resumed=st.booleans(), ping_s=st.none() | st.floats(0.0, 60.0)),
        st.builds(Renewed, REFS, st.none() | st.floats(0.0, 60.0)),
        st.builds(Refused, REFS, st.just("no"), next=HINTS, is_open=st.booleans(), streams=st.tuples() | st.tuples(STREAMS)),
        st.builds(Resumed, REFS, named, maybe, maybe),
        st.builds(Stale, named, positions, maybe, maybe, subscribed_at=maybe, ref=REFS),
        st.builds(PositionUnknown, STREAMS, maybe, maybe, st.just(""), maybe, REFS),
        st.builds(CaughtUp, named),
        st.builds(Batch, STREAMS, items.map(tuple), maybe if is_opaque else st.none(), st.none()),
        st.builds(Head, STREAMS, positions, st.sampled_from(Whose)),
        st.builds(Answer, REFS, st.booleans()),
        st.builds(StreamEnded, named, st.just("end"), HINTS),
        st.sampled_from([Opened(), Activity(), Repeated(()), Problem("p"), Malformed("m"), Closed()]),
    )


@settings(max_examples=300, deadline=None)
@given(st.data(), capability_sets())
def test_server_without_any_order_is_survived_or_named_by_the_transition_table(data: st.DataObject, capabilities: Capabilities):
    server = CapabilityServer(capabilities, random.Random(1))
    session = server.session
    for events in data.draw(st.lists(st.lists(any_events(capabilities), max_size=3), max_size=12)):
        is_lawful = session.state in CONNECTED and not any(isinstance(event, Opened | Refused | Closed) for event in events)
        with nullcontext() if is_lawful else suppress(IllegalMoveError):
            session.received(tuple(events), server.now)
        server.obey()
        server.wait(data.draw(st.floats(0.0, 3.0)))
    assert session.state in CONNECTED or session.wake_at() < NEVER or session.state is State.ENDED
