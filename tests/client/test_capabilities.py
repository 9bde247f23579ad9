"""Sessions under any capabilities: what a server sends in any legal order is applied once, or its loss is declared."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

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
from sim.protocols.events import Next, Step, Whose
from tests.client.capability_server import TOPICS, CapabilityServer, Fault

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
