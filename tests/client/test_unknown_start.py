"""A client that gets events from now on, of a server that does not say where it starts: the first event says it."""

import msgspec
import pytest

from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.session import Session
from sim.client.transitions import State
from sim.protocols.adapter import CaughtUpSign, FreshStart, HeadSource, Positions, Refusals, Subscribing
from sim.protocols.events import Batch, Item, Joined, Opened, Position, Refused, Resumed
from sim.protocols.intents import Compatibility
from sim.protocols.spacetime.adapter import CAPABILITIES
from tests.client.session_driver import RUN


def session(positions: Positions) -> Session:
    """A client that is subscribed, and was told nothing else."""
    able = msgspec.structs.replace(
        CAPABILITIES,
        positions=positions,
        head=(HeadSource.NONE,),
        caught_up=CaughtUpSign.NONE,
        fresh_start=FreshStart.FROM_NOW_ON,
        refusals=Refusals.CODES,
        subscribing=Subscribing.EACH_STREAM,
    )
    client = Session(0, [RUN], policies.get("reference"), ClientSettings(1, Compatibility(), able))
    client.start(0.0)
    client.wake(100.0)
    client.minted(Token("t", 1e6, 2e6), 100.0)
    client.received((Opened(),), 100.0)
    client.received((Joined(client._join_ref),), 100.0)
    (subscribe,) = [action.intent for action in client.actions() if hasattr(action, "intent")][-1:]
    client.received((Resumed(subscribe.ref, RUN),), 100.1)
    return client


@pytest.mark.parametrize("positions", [Positions.DENSE, Positions.ORDERED])
def test_first_event_is_the_start_and_nothing_before_it_is_missing(positions: Positions) -> None:
    client = session(positions)
    assert client.is_live
    client.received((Batch(RUN, (Item(Position(93), msgspec.Raw(b"{}")),)),), 101.0)
    cursor = client.replica.cursors[RUN]
    assert (cursor.watermark, client.replica.behind()) == (93, [])
    kinds = [notice.kind for notice in client.notices()]
    assert "gap" not in kinds
    assert "declared_loss" not in kinds


def test_refusal_that_ends_the_connection_after_the_join_is_a_disconnect() -> None:
    client = session(Positions.DENSE)
    client.received((Refused("", "unauthorized", is_open=False),), 101.0)
    assert client.state is State.BACKOFF
