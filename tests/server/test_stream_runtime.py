"""Servers that answer the subscribe of each stream by itself: where they start, what they say, and how they end connections."""

import pytest

from sim.protocols import registry
from sim.protocols.events import (
    Activity,
    Answer,
    Batch,
    CaughtUp,
    Closed,
    Event,
    Head,
    Joined,
    Message,
    Position,
    PositionUnknown,
    Problem,
    Refused,
    Renewed,
    Resumed,
    Stale,
    Step,
    StreamEnded,
)
from sim.protocols.intents import AskHead, Beat, Compatibility, Intent, Join, Leave, Raw, Renew, Subscribe, Unsubscribe
from sim.protocols.payloads import canonical_json
from sim.server.runtime import Runtime
from sim.server.runtimes import runtime_of
from sim.server.settings import LiveFault, RuntimeSettings, Switches
from sim.server.stream_runtime import StreamRuntime
from sim.server.tokens import AUDIENCE, ISSUER, Claims, mint
from tests.client.server_double import KEYRING, START
from tests.protocol_findings import SIMULATED

TTL_S = 300


def token(at: float = START, device: str = "d") -> str:
    times = at, at, at + TTL_S
    return mint(Claims(ISSUER, AUDIENCE, "user:u", *times, "id", "u", "org", "session-u", device, ("read",)), KEYRING.primary)


class Driver:
    """A runtime of a protocol, with its clock."""

    def __init__(self, protocol: str, switches: Switches | None = None, **settings: object) -> None:
        forms = registry.server_forms(protocol)
        chosen = RuntimeSettings(**settings)  # type: ignore[arg-type]
        self.runtime = runtime_of(chosen, KEYRING, forms.profile, switches or Switches())
        self.now = START

    def publish(self, stream: str, count: int = 1) -> None:
        for _ in range(count):
            log = self.runtime.streams.log(stream)
            log.append(f"{stream}{log.next_seq}", canonical_json({"n": log.next_seq}), self.now)
            self.runtime.announce(stream, self.now)

    def open(self, device: str = "d") -> int:
        return self.runtime.open(token(self.now, device), Compatibility(), self.now)

    def joined(self, session: str | None = None, device: str = "d") -> int:
        number = self.open(device)
        assert any(isinstance(each, Joined) for each in self.ask(number, self.join(session)))
        return number

    def join(self, session: str | None = None) -> Join:
        return Join("1", Compatibility(), token(self.now), session)

    def reading(self, *streams: str) -> int:
        number = self.joined()
        self.ask(number, Subscribe("2", dict.fromkeys(streams)))
        return number

    def ask(self, number: int, intent: Intent) -> list[Event]:
        self.runtime.received(number, intent, self.now)
        return self.pull(number)

    def pull(self, number: int) -> list[Event]:
        found: list[Message] = list(iter(lambda: self.runtime.pull(number, self.now), None))
        return [event for message in found for event in message]

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.runtime.wake_at() <= until:
            self.now = max(self.now, self.runtime.wake_at())
            self.runtime.wake(self.now)
        self.now = until

    def position(self, stream: str, number: int) -> Position:
        return Position(number, self.runtime.streams.epoch(stream))


def numbers(events: list[Event]) -> list[int | str | None]:
    items = [item for event in events if isinstance(event, Batch) for item in event.items]
    return [item.position.offset if item.position else None for item in items]


@pytest.fixture
def centrifugo() -> Driver:
    driver = Driver("centrifugo")
    driver.publish("a", 5)
    return driver


@pytest.fixture
def nats() -> Driver:
    driver = Driver("nats_jetstream")
    driver.publish("a", 5)
    return driver


# --- positions, an epoch, and a flag for what was not recovered ------------------------------------------


def test_a_client_without_a_position_goes_on_from_now(centrifugo: Driver) -> None:
    head = centrifugo.position("a", 5)
    number = centrifugo.joined()
    assert centrifugo.ask(number, Subscribe("2", {"a": None})) == [Resumed("2", "a", head, head)]
    centrifugo.publish("a", 2)
    (batch,) = centrifugo.pull(number)
    assert isinstance(batch, Batch)
    assert [item.position for item in batch.items] == [centrifugo.position("a", 6), centrifugo.position("a", 7)]


def test_missed_events_come_before_the_answer(centrifugo: Driver) -> None:
    asked = centrifugo.position("a", 2)
    events = centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": asked}))
    assert numbers(events) == [3, 4, 5]
    assert events[-1] == Resumed("2", "a", asked, centrifugo.position("a", 5))


def test_an_answer_states_the_head_after_what_was_published_meanwhile(centrifugo: Driver) -> None:
    number = centrifugo.joined()
    centrifugo.runtime.received(number, Subscribe("2", {"a": centrifugo.position("a", 2)}), centrifugo.now)
    centrifugo.publish("a", 2)
    events = centrifugo.pull(number)
    assert numbers(events) == [3, 4, 5, 6, 7]
    assert [each.head for each in events if isinstance(each, Resumed)] == [centrifugo.position("a", 7)]


def test_each_stream_of_a_subscribe_has_its_own_answer(centrifugo: Driver) -> None:
    centrifugo.publish("b", 1)
    both = {"a": centrifugo.position("a", 5), "b": centrifugo.position("b", 1)}
    answers = centrifugo.ask(centrifugo.joined(), Subscribe("2", both))
    assert [(each.stream, each.ref) for each in answers if isinstance(each, Resumed)] == [("a", "2"), ("b", "2")]


def test_a_gap_above_the_limit_is_not_recovered(centrifugo: Driver) -> None:
    centrifugo.publish("a", 400)
    asked, head = centrifugo.position("a", 104), centrifugo.position("a", 405)
    (answer,) = centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": asked}))
    assert answer == Stale("a", asked, None, head, ("not_recovered",), 301, subscribed_at=head, ref="2")
    assert centrifugo.runtime.counters.stale_cursors == 1
    assert len(numbers(centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": centrifugo.position("a", 105)})))) == 300


def test_trimmed_events_are_not_recovered(centrifugo: Driver) -> None:
    centrifugo.runtime.shrink_window("a", 2)
    (answer,) = centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": centrifugo.position("a", 2)}))
    assert isinstance(answer, Stale)
    assert numbers(centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": centrifugo.position("a", 3)}))) == [4, 5]


@pytest.mark.parametrize(("offset", "epoch", "reason"), [(2, "another log", "other_log"), (9, "", "above_head")])
def test_an_unknown_position_goes_on_from_the_head(centrifugo: Driver, offset: int, epoch: str, reason: str) -> None:
    asked, head = Position(offset, epoch or centrifugo.position("a", 1).epoch), centrifugo.position("a", 5)
    number = centrifugo.joined()
    assert centrifugo.ask(number, Subscribe("2", {"a": asked})) == [PositionUnknown("a", asked, head, reason, head, "2")]
    centrifugo.publish("a")
    assert numbers(centrifugo.pull(number)) == [6]


def test_a_reader_whose_next_event_is_gone_loses_its_stream(centrifugo: Driver) -> None:
    number = centrifugo.reading("a")
    centrifugo.publish("a", 3)
    centrifugo.runtime.shrink_window("a", 1)
    (ended,) = centrifugo.pull(number)
    assert isinstance(ended, StreamEnded)
    assert (ended.stream, ended.next.step) == ("a", Step.RESUBSCRIBE)
    assert centrifugo.runtime.counters.stale_cursors == 1


def test_a_head_is_what_was_sent_before(centrifugo: Driver) -> None:
    number = centrifugo.reading("a")
    assert centrifugo.ask(number, AskHead("3", "a")) == [Head("a", centrifugo.position("a", 5))]
    centrifugo.publish("a")
    centrifugo.runtime.received(number, AskHead("4", "a"), centrifugo.now)
    head, batch = centrifugo.pull(number)
    assert head == Head("a", centrifugo.position("a", 5))
    assert numbers([batch]) == [6]


def test_an_unsubscribed_stream_is_not_sent(centrifugo: Driver) -> None:
    number = centrifugo.reading("a", "b")
    centrifugo.ask(number, Unsubscribe("3", ("a",)))
    centrifugo.publish("a")
    centrifugo.publish("b")
    assert [event.stream for event in centrifugo.pull(number) if isinstance(event, Batch)] == ["b"]


def test_nothing_is_read_before_the_join_or_after_the_end_of_the_channel(centrifugo: Driver) -> None:
    number = centrifugo.open()
    (refused,) = centrifugo.ask(number, Subscribe("2", {"a": None}))
    assert not isinstance(refused, Resumed)
    centrifugo.ask(number, centrifugo.join())
    centrifugo.ask(number, Subscribe("3", {"a": None}))
    assert centrifugo.ask(number, Leave("4")) == [Answer("4", True)]
    centrifugo.publish("a")
    assert centrifugo.pull(number) == []


def test_an_unknown_message_ends_the_connection(centrifugo: Driver) -> None:
    number = centrifugo.reading("a")
    centrifugo.ask(number, Raw(b"nonsense"))
    assert centrifugo.runtime.is_closing(number)


# --- tokens on the connection ---------------------------------------------------------------------------


def test_a_join_states_the_lifetime_of_its_token(centrifugo: Driver) -> None:
    (joined,) = centrifugo.ask(centrifugo.open(), centrifugo.join())
    assert isinstance(joined, Joined)
    assert (joined.token_ttl_s, joined.ping_s) == (TTL_S, RuntimeSettings().heartbeat_interval_s)


def test_an_expired_token_is_refused_on_an_open_socket(centrifugo: Driver) -> None:
    number = centrifugo.open()
    late = Join("1", Compatibility(), token(centrifugo.now - TTL_S))
    (refused,) = centrifugo.ask(number, late)
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.code, refused.next.step, refused.is_open) == ("1", "token_expired", Step.MINT, True)
    assert not centrifugo.runtime.is_closing(number)
    assert isinstance(centrifugo.ask(number, centrifugo.join())[0], Joined)


def test_an_invalid_token_closes_the_socket(centrifugo: Driver) -> None:
    number = centrifugo.open()
    (refused,) = centrifugo.ask(number, Join("1", Compatibility(), "no token"))
    assert isinstance(refused, Refused)
    assert refused.code == "invalid_token"
    assert centrifugo.runtime.is_closing(number)
    end = centrifugo.runtime.end_of(number)
    assert (end.code, end.next.step) == (3500, Step.TERMINAL)


def pinged(driver: Driver, number: int, seconds: float) -> None:
    """Let time pass for a client that answers its pings."""
    for _ in range(int(seconds / 10)):
        driver.wait(10)
        driver.ask(number, Beat(""))


def test_a_token_is_checked_where_the_protocol_sends_it(centrifugo: Driver, durable: Driver) -> None:
    assert centrifugo.runtime.open("no token", Compatibility(), START), "at the join"
    assert durable.ask(durable.runtime.open(None, Compatibility(), START), Subscribe("2", {"a": offset(5)})), "nowhere"


def test_an_expired_token_renews_nothing(centrifugo: Driver) -> None:
    (refused,) = centrifugo.ask(centrifugo.joined(), Renew("5", token(centrifugo.now - TTL_S)))
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.code) == ("5", "token_expired")


def test_a_connection_ends_after_its_token(centrifugo: Driver) -> None:
    number = centrifugo.joined()
    pinged(centrifugo, number, TTL_S + 20)
    assert not centrifugo.runtime.is_closing(number)
    pinged(centrifugo, number, 30)
    assert centrifugo.runtime.is_closing(number)
    assert centrifugo.runtime.end_of(number).code == 3005


def test_a_renewed_token_keeps_the_connection(centrifugo: Driver) -> None:
    number = centrifugo.joined()
    pinged(centrifugo, number, 200)
    assert centrifugo.ask(number, Renew("5", token(centrifugo.now))) == [Renewed("5", TTL_S)]
    pinged(centrifugo, number, 200)
    assert not centrifugo.runtime.is_closing(number)


def test_a_stream_that_the_token_does_not_grant_is_refused_alone(centrifugo: Driver) -> None:
    times = START, START, START + TTL_S
    own = Claims(ISSUER, AUDIENCE, "user:u", *times, "id", "u", "org", "session-u", "d", ("read",), ("a",))
    number = centrifugo.open()
    centrifugo.ask(number, Join("1", Compatibility(), mint(own, KEYRING.primary)))
    refused, resumed = centrifugo.ask(number, Subscribe("2", {"b": None, "a": None}))
    assert isinstance(refused, Refused)
    assert (refused.streams, refused.next.step) == (("b",), Step.TERMINAL)
    assert isinstance(resumed, Resumed)
    assert resumed.stream == "a"


def test_a_revoked_session_is_told_not_to_come_back(centrifugo: Driver) -> None:
    number = centrifugo.joined()
    assert centrifugo.runtime.revoke(["session-u"]) == 1
    end = centrifugo.runtime.end_of(number)
    assert (end.code, end.next.step) == (3503, Step.TERMINAL)


# --- pings, silence and full queues ---------------------------------------------------------------------


def test_pings_are_sent_and_a_client_that_answers_none_is_dropped(centrifugo: Driver) -> None:
    settings = RuntimeSettings()
    number = centrifugo.joined()
    centrifugo.wait(settings.heartbeat_interval_s)
    assert centrifugo.pull(number) == [Activity()]
    centrifugo.wait(settings.client_timeout_s)
    assert centrifugo.runtime.is_closing(number)
    assert centrifugo.runtime.end_of(number).code == 3012
    assert centrifugo.runtime.counters.silent_clients == 1


def test_a_ping_shows_no_missing_delivery_where_none_is(nats: Driver) -> None:
    number = nats.reading("a")
    nats.wait(RuntimeSettings().heartbeat_interval_s)
    assert nats.pull(number) == [Activity()]


@pytest.mark.parametrize("keeps", [False, True])
def test_a_client_with_too_many_unsent_bytes_is_disconnected(keeps: bool) -> None:
    driver = Driver("centrifugo", Switches(defects={"keep_slow_consumers"} if keeps else set()), window_events=100_000)
    number = driver.reading("a")
    log = driver.runtime.streams.log("a")
    for each in range(1100):
        log.append(f"a{each}", b'"' + 1000 * b"x" + b'"', driver.now)
    driver.runtime.announce("a", driver.now)
    driver.wait(1)
    sent = driver.pull(number)
    assert [each.code for each in sent if isinstance(each, Problem)] == ([] if keeps else ["slow_consumer"])
    assert len(numbers(sent)) == (1100 if keeps else 0)
    assert (driver.runtime.is_closing(number), driver.runtime.counters.evicted) == (not keeps, 0 if keeps else 1)


@pytest.mark.parametrize(("more", "is_kept"), [(0, True), (1, False)])
def test_unsent_bytes_may_reach_the_limit(more: int, is_kept: bool) -> None:
    driver = Driver("centrifugo")
    number = driver.reading("a")
    limit = 2**20  # of Centrifugo
    driver.runtime.streams.log("a").append("a1", b'"' + (limit + more - 2) * b"x" + b'"', driver.now)
    driver.runtime.announce("a", driver.now)
    driver.wait(1)
    assert driver.runtime.is_closing(number) != is_kept


# --- a server that starts silently where it can ---------------------------------------------------------


def test_an_answer_comes_before_the_retained_events(nats: Driver) -> None:
    events = nats.ask(nats.joined(), Subscribe("2", {"a": None}))
    assert events[0] == Resumed("2", "a", nats.position("a", 0), nats.position("a", 5))
    assert numbers(events) == [1, 2, 3, 4, 5]
    assert events[-1] == CaughtUp("a")


def test_trimmed_events_are_skipped_silently(nats: Driver) -> None:
    nats.runtime.shrink_window("a", 2)
    events = nats.ask(nats.joined(), Subscribe("2", {"a": nats.position("a", 1)}))
    assert events[0] == Resumed("2", "a", nats.position("a", 3), nats.position("a", 5))
    assert numbers(events) == [4, 5]


def test_a_reader_that_falls_behind_the_log_goes_on_at_its_first_event(nats: Driver) -> None:
    number = nats.reading("a")
    nats.publish("a", 4)
    nats.runtime.shrink_window("a", 1)
    assert numbers(nats.pull(number)) == [9]


@pytest.mark.parametrize(("offset", "epoch", "reason"), [(2, "another log", "other_log"), (9, "", "above_head")])
def test_an_unknown_position_is_not_read_from(nats: Driver, offset: int, epoch: str, reason: str) -> None:
    asked = Position(offset, epoch or nats.position("a", 1).epoch)
    number = nats.joined()
    (unknown,) = nats.ask(number, Subscribe("2", {"a": asked}))
    assert unknown == PositionUnknown("a", asked, nats.position("a", 5), reason, ref="2")
    nats.publish("a")
    assert nats.pull(number) == []


def test_refused_credentials_close_the_socket_with_an_error_before(nats: Driver) -> None:
    number = nats.open()
    (problem,) = nats.ask(number, Join("1", Compatibility(), "no token"))
    assert isinstance(problem, Problem)
    assert problem.code == "authorization_violation"
    assert nats.runtime.end_of(number) == Closed(problem.reason, 1008, nats.runtime.end_of(number).next)
    assert nats.runtime.end_of(number).next.step is Step.TERMINAL


# --- one request for each stream, with an offset after each part of its answer --------------------------


def offset(number: int) -> Position:
    return Position(f"{0:016d}_{number:016d}")


@pytest.fixture
def durable() -> Driver:
    driver = Driver("durable_streams")
    driver.publish("a", 5)
    return driver


def test_a_request_is_answered_without_a_join(durable: Driver) -> None:
    resumed, batch, caught_up = durable.ask(durable.open(), Subscribe("2", {"a": offset(3)}))
    assert resumed == Resumed("2", "a")
    assert isinstance(batch, Batch)
    assert (len(batch.items), batch.after, caught_up) == (2, offset(5), CaughtUp("a"))


def test_a_request_at_the_head_states_it(durable: Driver) -> None:
    answer = durable.ask(durable.open(), Subscribe("2", {"a": offset(5)}))
    assert answer == [Resumed("2", "a"), Batch("a", (), offset(5)), CaughtUp("a")]


def test_only_an_offset_above_the_head_shows_another_log(durable: Driver) -> None:
    answer = durable.ask(durable.open(), Subscribe("2", {"a": offset(6)}))
    assert answer == [Resumed("2", "a"), PositionUnknown("a", offset(6), offset(5), "above_head")]
    durable.runtime.recreate_log("a")
    durable.publish("a", 4)
    events = durable.ask(durable.open(), Subscribe("2", {"a": offset(2)}))
    assert [len(event.items) for event in events if isinstance(event, Batch)] == [2]


def test_a_long_answer_says_only_at_its_end_that_it_is_complete() -> None:
    driver = Driver("durable_streams", replay_batch_size=2)
    driver.publish("a", 5)
    events = driver.ask(driver.open(), Subscribe("2", {"a": None}))
    assert [event.after for event in events if isinstance(event, Batch)] == [offset(2), offset(4), offset(5)]
    assert events[-1] == CaughtUp("a")
    assert sum(isinstance(event, CaughtUp) for event in events) == 1


def test_a_silent_reader_is_kept_and_told_its_own_position(durable: Driver) -> None:
    settings, number = RuntimeSettings(), durable.open()
    durable.ask(number, Subscribe("2", {"a": None}))
    log = durable.runtime.streams.log("a")
    log.append("late", canonical_json({"n": 6}), durable.now)  # stored, but not yet announced
    durable.wait(settings.heartbeat_interval_s)
    assert durable.pull(number) == [Batch("a", (), offset(5))]
    durable.wait(10 * settings.client_timeout_s)
    assert not durable.runtime.is_closing(number)


def test_those_who_read_a_deleted_log_hear_nothing_more(durable: Driver) -> None:
    number = durable.open()
    durable.ask(number, Subscribe("2", {"a": None}))
    durable.runtime.recreate_log("a")
    durable.publish("a", 2)
    durable.wait(RuntimeSettings().heartbeat_interval_s)
    assert durable.pull(number) == []
    assert not durable.runtime.is_closing(number)


@pytest.mark.parametrize("protocol", SIMULATED)
def test_each_protocol_has_a_runtime_of_its_kind_that_admits_clients(protocol: str) -> None:
    profile = registry.server_forms(protocol).profile
    runtime = runtime_of(RuntimeSettings(), KEYRING, profile, Switches(seed=7))
    assert type(runtime) is (Runtime if profile.streams is None else StreamRuntime)
    assert (runtime.profile, runtime.switches.seed) == (profile, 7)


def test_an_answer_that_accepts_and_then_corrects_a_position_counts_as_stale(durable: Driver) -> None:
    head = durable.runtime.streams.head("a")
    answer = durable.ask(durable.joined(), Subscribe("2", {"a": offset(head + 4)}))
    assert [type(event) for event in answer] == [Resumed, PositionUnknown]
    assert durable.runtime.counters.stale_cursors == 1
    durable.ask(durable.joined(), Subscribe("3", {"a": offset(head)}))
    assert durable.runtime.counters.stale_cursors == 1


def test_a_late_event_has_a_position_of_the_protocols_form_too(nats: Driver) -> None:
    number = nats.reading("a")
    nats.runtime.set_switches(Switches(delay_deliveries=LiveFault(1.0, 1.0, 200.0)))
    nats.publish("a")
    assert numbers(nats.pull(number)) == []
    nats.wait(0.3)
    items = [item for event in nats.pull(number) if isinstance(event, Batch) for item in event.items]
    assert [item.position for item in items] == [nats.position("a", 6)]


def test_a_server_that_starts_too_late_does_so_only_where_it_accepts_a_position(centrifugo: Driver) -> None:
    """It says that the other client has missed events, and goes on from the head."""
    centrifugo.runtime.set_switches(Switches(defects={"replay_off_by_one"}))
    assert numbers(centrifugo.ask(centrifugo.joined(), Subscribe("2", {"a": centrifugo.position("a", 2)}))) == [4, 5]
    late = centrifugo.joined()
    (answer,) = centrifugo.ask(late, Subscribe("2", {"a": Position(2, "another log")}))
    assert isinstance(answer, PositionUnknown)
    centrifugo.publish("a", 2)
    assert numbers(centrifugo.pull(late)) == [6, 7]
