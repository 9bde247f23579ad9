"""Negative clients that try every kind of mutation, openly and hidden in valid frames."""

import msgspec
import pytest

from sim.client.negative.registry import session_class
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import decode_client
from sim.protocols.spacetime.frames import Subscribe, SyncBeat
from tests.client.server_double import RUN as SERVICE_RUN
from tests.client.server_double import InMemoryService
from tests.client.session_driver import RUN, SessionDriver, batch


def live(name: str) -> tuple[SessionDriver, list[Raw]]:
    """A negative client that has just gone live, and its requests."""
    driver = SessionDriver(session=session_class(name))
    driver.replay(driver.begin(), batch(1))
    return driver, [frame for frame in driver.sent() if isinstance(frame, Raw)]


def answers(driver: SessionDriver) -> list[str]:
    return [notice.detail for notice in driver.of("probed")]


def test_every_mutation_kind_is_sent_and_answered_once():
    driver, asked = live("any_mutation")
    assert len({decode_client(frame.data).event for frame in asked}) == len({frame.ref for frame in asked}) == len(asked) > 5
    for frame in asked[1:]:
        driver.reply(frame.ref, ok=False, code="mutation_refused")
        driver.reply(frame.ref, ok=False, code="mutation_refused")
    driver.reply(asked[0].ref)
    assert answers(driver) == ["any_mutation:refused:mutation_refused"] * (len(asked) - 1) + ["any_mutation:accepted"]
    driver.receive(batch(2))
    assert driver.seqs("applied") == [1, 2]


def test_unanswered_mutations_count_as_silence():
    driver, asked = live("any_mutation")
    for frame in asked[:-2]:
        driver.reply(frame.ref, ok=False, code="no")
    driver.wait(10.1)
    assert answers(driver)[-2:] == ["any_mutation:refused:silence"] * 2
    assert len(answers(driver)) == len(asked)


def test_hidden_mutation_decodes_as_valid_frame():
    driver, asked = live("hidden_mutation")
    assert all(b"stormgate.probe" in frame.data for frame in asked)
    beat, subscribe = (decode_client(frame.data) for frame in asked)
    assert isinstance(beat, SyncBeat)
    assert isinstance(subscribe, Subscribe)
    assert (subscribe.topics, subscribe.resume_after, subscribe.bad_cursor) == ((RUN,), {RUN: 1}, False)
    for frame in asked:
        driver.reply(frame.ref)
    assert answers(driver) == ["hidden_mutation:served"] * 2


@pytest.mark.parametrize("name", ["any_mutation", "hidden_mutation"])
@pytest.mark.parametrize("defects", [set(), {"accept_mutation"}, {"accept_hidden_mutation"}])
def test_runtime_executes_mutations_only_with_defect(name: str, defects: set[str]):
    service = InMemoryService(1, session=session_class(name))
    service.switch(defects=defects)
    service.publish(SERVICE_RUN)
    service.advance(1.0, carrying=True)
    service.publish(SERVICE_RUN, 2)
    service.settle_and_check()
    granted = defects == {"accept_mutation"} and name == "any_mutation"
    answered = {notice.detail for notice in service.of(0, "probed")}
    refused = "refused:mutation_refused" if name == "any_mutation" else "served"
    assert answered == {f"{name}:{'accepted' if granted else refused}"}
    carried_out = granted or (defects == {"accept_hidden_mutation"} and name == "hidden_mutation")
    assert bool(service.runtime.mutations) == carried_out
    assert all(b"stormgate.probe" in bytes(msgspec.Raw(payload)) for payload in service.runtime.mutations)
