"""Clients whose every connection ends as a script says: the reference never reacts wrongly, a wrong policy is named."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.analysis.endings import ConnectHistory, Ending, endings
from sim.client import policies
from sim.client.actions import ClientSettings, Connect, Mint, Send, Token
from sim.client.session import Session
from sim.client.transitions import State
from sim.protocols.events import RETRY, Closed, DisconnectReason, Joined, Next, Opened, Refused, Resumed, Step
from sim.protocols.intents import Compatibility, Join, Subscribe
from sim.protocols.spacetime.adapter import CAPABILITIES
from sim.record.columns import Columns
from sim.record.history import History
from tests.histories import run_header

TOPIC = "run:1:events"
BEGAN = 1000.0
REACTIONS = ("retried_terminal", "ignored_hint", "backoff_reset_by_accept", "reconnected_too_fast")


@dataclass(frozen=True)
class End:
    """How far a connection gets, how long it is live, and what the server says at its end."""

    reaches: str = "live"  # refused, accepted, joined, live
    live_s: float = 0.0
    hint: Next = RETRY


class ScriptedServer:
    """Serves one session, which ends each time as the script says."""

    def __init__(self, policy: str, seed: int) -> None:
        compatibility = Compatibility("drill", "20260201T000000Z", "spacetime.sync.v1", 1)
        self.session = Session(0, (TOPIC,), policies.get(policy), ClientSettings(seed, compatibility, CAPABILITIES))
        self.now, self.tokens = BEGAN, 0
        self.columns = Columns()
        self.session.start(self.now)
        self.record()

    def record(self) -> None:
        self.columns.extend(self.now - BEGAN, 0, list(self.session.notices()))

    def until_connecting(self) -> bool:
        """Let the session wait and mint until it connects; False if it gave up."""
        while self.session.state is not State.ENDED:
            for action in self.session.actions():
                if isinstance(action, Mint):
                    self.tokens += 1
                    self.session.minted(Token(f"t{self.tokens}", self.now + 1e6, self.now + 2e6), self.now)
                elif isinstance(action, Connect):
                    self.record()
                    return True
            self.record()
            if self.session.state is State.BACKOFF:
                self.now = max(self.now, self.session.wake_at())
                self.session.wake(self.now)
        return False

    def end(self, end: End) -> None:
        """Serve one connection to its end."""
        refused = Refused("", "protocol", DisconnectReason.NETWORK, end.hint, is_open=False, status=503)
        if end.reaches == "refused":
            self.session.received((refused,), self.now)
        else:
            self.session.received((Opened(),), self.now)
            self.record()
            self.answer({"accepted": (), "joined": (Join,), "live": (Join, Subscribe)}[end.reaches])
            self.now += end.live_s
            self.session.received((Closed(code=4000, next=end.hint),), self.now)
        self.record()

    def answer(self, kinds: tuple[type, ...]) -> None:
        for kind in kinds:
            sent = [action.intent for action in self.session.actions() if isinstance(action, Send)]
            (intent,) = [each for each in sent if isinstance(each, kind)]
            assert isinstance(intent, Join | Subscribe)
            reply = Joined(intent.ref) if kind is Join else Resumed(intent.ref)
            self.session.received((reply,), self.now)
        self.session.actions()
        self.record()

    def history(self) -> History:
        return History(run_header(1), self.columns.table())


def played(policy: str, script: list[End], seed: int = 1) -> ScriptedServer:
    server = ScriptedServer(policy, seed)
    for end in script:
        if not server.until_connecting():
            break
        server.end(end)
    server.until_connecting()
    return server


def wrong(policy: str, script: list[End], seed: int = 1) -> dict[str, int]:
    """The reactions that are wrong, and how often."""
    history = ConnectHistory(played(policy, script, seed).history())
    counts = {name: len(getattr(history, name)().attempts) for name in REACTIONS}
    return {name: count for name, count in counts.items() if count}


def hints(steps: tuple[Step, ...]) -> st.SearchStrategy[Next]:
    waits = st.none() | st.floats(0, 400_000)
    return st.builds(Next, st.sampled_from(steps), waits)


def scripts(*steps: Step) -> st.SearchStrategy[list[End]]:
    reaches = st.sampled_from(["refused", "accepted", "joined", "live", "live"])
    ends = st.builds(End, reaches, st.sampled_from([0.0, 0.3, 0.9, 1.1, 4.9, 5.1, 9.0]), hints(steps))
    return st.lists(ends, max_size=14)


ANY = (Step.RETRY, Step.WAIT, Step.MINT, Step.TERMINAL)
GOOD = [name for name in policies.POLICIES if name != "desktop"]  # which ignores hints


@settings(deadline=None, max_examples=150)
@given(scripts(*ANY), st.sampled_from(GOOD), st.integers(0, 1000))
def test_right_policies_never_react_wrongly(script: list[End], policy: str, seed: int):
    assert wrong(policy, script, seed) == {}


@settings(deadline=None, max_examples=60)
@given(scripts(Step.RETRY, Step.MINT), scripts(*ANY), st.integers(0, 1000))
@pytest.mark.parametrize(
    ("policy", "name", "trigger"),
    [
        ("wrong_retries_terminal", "retried_terminal", [End(hint=Next(Step.TERMINAL))]),
        ("wrong_ignores_hints", "ignored_hint", [End("accepted", hint=Next(Step.WAIT, 20_000))]),
        ("wrong_ignores_hints", "ignored_hint", [End("refused", hint=Next(Step.MINT, 20_000))]),
        ("desktop", "ignored_hint", [End("live", hint=Next(Step.WAIT, 20_000))]),
        ("wrong_resets_on_accept", "backoff_reset_by_accept", [End("joined"), End("accepted")]),
        ("wrong_reconnects_at_once", "reconnected_too_fast", [End("accepted")] * 6),
    ],
)
def test_wrong_policies_are_named(policy: str, name: str, trigger: list[End], before: list[End], after: list[End], seed: int):
    assert name in wrong(policy, [*before, *trigger, *after], seed)


def test_client_tries_once_with_a_new_token_after_a_terminal_end_and_then_gives_up():
    last = End("live", 9.0, Next(Step.TERMINAL))
    server = played("reference", [last, End("refused"), End("live", 0.5, Next(Step.TERMINAL)), End()])
    assert server.session.state is State.ENDED
    assert server.tokens == 2


def test_client_may_try_again_when_the_new_token_served_it_for_long():
    last = End("live", 9.0, Next(Step.TERMINAL))
    server = played("reference", [last, last, last])
    assert server.session.state is not State.ENDED
    assert server.tokens == 4


def test_being_accepted_does_not_reset_the_backoff():
    server = played("reference", [End("live", 0.3)] * 5)
    assert server.session.retries.attempt == 5


def test_endings_are_counted_by_code():
    script = [End("refused", hint=Next(Step.WAIT, 10)), End(), End(), End(hint=Next(Step.WAIT, 5))]
    assert endings(played("reference", script).history()) == (
        Ending("server", "4000", "retry", 2, 1),
        Ending("server", "4000", "wait", 1, 1),
        Ending("server", "503 protocol", "wait", 1, 1),
    )
