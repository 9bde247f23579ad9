"""One client that keeps what the service sends to it, to try a target's socket."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sim.base.clocks import WallClock
from sim.client import policies
from sim.client.actions import ClientSettings, Token
from sim.client.notices import Run
from sim.client.session import Session
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.publishing import Unrecorded
from sim.engines.sockets.client import ClientDriver, MintToken
from sim.protocols.events import Batch, Closed, Event, Joined, Message, PositionUnknown, Problem, Refused, Stale

TIMEOUT_S = 10.0  # [ours] for each thing that is waited for
_REFUSALS = (Refused, Closed, Stale, PositionUnknown, Problem)
_POLL_S = 0.02
T = TypeVar("T")


class _Attentive(Session):
    """A session that keeps all events that it receives."""

    heard: list[Event]

    def received(self, message: Message, now: float) -> None:
        """See `Session`."""
        self.heard += message
        super().received(message, now)

    def follow(self, run: Run, now: float) -> bool:
        """See `Session`. Receive each message by itself."""
        return False


class Listener(ClientDriver):
    """A client that keeps all events from its connections."""

    def __init__(self, endpoints: Endpoints, topics: list[str], settings: ClientSettings, mint: MintToken) -> None:
        session = _Attentive(0, topics, policies.get("reference"), settings)
        self.events = session.heard = []
        super().__init__(session, endpoints.socket_url, mint, WallClock(), Unrecorded())

    @property
    def refusal(self) -> str:
        """The code of the last refusal or end of the connection; empty without one."""
        found = [event for event in self.events if isinstance(event, _REFUSALS)]
        if not found:
            return ""
        last = found[-1]
        return f"closed ({last.code or 'no close code'}, {last.reason})" if isinstance(last, Closed) else last.code

    @property
    def refused_status(self) -> int | None:
        """The HTTP status of the last refused connect; None without one."""
        return next((event.status for event in reversed(self.events) if isinstance(event, Refused) and event.status), None)

    @property
    def is_joined(self) -> bool:
        """Whether the service accepted a join."""
        return any(isinstance(event, Joined) for event in self.events)

    def payloads(self) -> list[bytes]:
        """Return the delivered payloads, in order. A second form of a batch is another event."""
        batches = [event for event in self.events if isinstance(event, Batch)]
        return [bytes(item.payload) for batch in batches for item in batch.items]

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return whether it did within `TIMEOUT_S`."""
        limit = asyncio.get_running_loop().time() + TIMEOUT_S
        while not condition():
            if asyncio.get_running_loop().time() > limit:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def close(self) -> None:
        """Stop the client for good."""
        self.stop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run`. Raise the first error of a client's callbacks, which nothing awaits.

    Otherwise a defect of ours, or of an adapter, would look like a service that does not answer.
    """

    async def run_all() -> T:
        loop = asyncio.get_running_loop()
        defect: asyncio.Future[T] = loop.create_future()

        def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if not defect.done():
                defect.set_exception(context.get("exception") or RuntimeError(str(context.get("message"))))

        loop.set_exception_handler(fail)
        work = asyncio.create_task(main)
        done, _ = await asyncio.wait({work, defect}, return_when=asyncio.FIRST_COMPLETED)
        return (defect if defect in done else work).result()

    return asyncio.run(run_all())


def known(token: Token) -> MintToken:
    """Return a source that always gives the same token."""

    async def mint(_: Session) -> Token:
        return token

    return mint
