"""Where a published event's position stands, and the names of created streams."""

import pytest

from sim.base.errors import UsageError
from sim.engines.shared import service_api
from sim.engines.shared.endpoints import Endpoints
from sim.service.forms import CreateForm, PublishForm, ServiceForms
from sim.service.requests import Answer

OFFSET = "0000000000000000_0000000000000065"


def endpoints(**forms: object) -> Endpoints:
    return Endpoints("t", "staging", "http://t", "http://t", forms=ServiceForms(**forms))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "headers", "seq"),
    [
        ("", {"stream-next-offset": "41"}, 41),
        ("", {"stream-next-offset": OFFSET}, -1),
        ("([0-9]+)$", {"stream-next-offset": OFFSET}, 65),
        ("([0-9]+)$", {"stream-next-offset": "none"}, -1),
        ("([0-9]+)$", {"stream-next-offset": "9" * 40}, -1),
        ("([0-9]+)$", {}, -1),  # a duplicate is acknowledged without a position
    ],
)
def test_position_is_read_from_a_header(pattern: str, headers: dict[str, str], seq: int) -> None:
    form = PublishForm(position_header="Stream-Next-Offset", position_pattern=pattern, payload_hash="none")
    asked = service_api.publish(endpoints(publish=form), "a", "event", {}, "key")
    assert asked.read(Answer(204, "text/plain", b"", headers)).seq == seq


def test_position_that_is_text_in_the_body_has_a_number_by_the_pattern() -> None:
    form = PublishForm(position="/at", position_pattern="_([0-9]+)$", payload_hash="none")
    asked = service_api.publish(endpoints(publish=form), "a", "event", {}, "key")
    assert asked.read(Answer(200, "application/json", b'{"at":"0_12"}')).seq == 12


@pytest.mark.parametrize("pattern", ["[0-9]+", "([0-9]+)(a)", "("])
def test_pattern_without_its_one_group_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="position_pattern"):
        PublishForm(position_pattern=pattern).check("[targets.t.publish]")


def test_stream_has_a_new_name_in_each_run_if_the_service_takes_ours() -> None:
    form = CreateForm(method="PUT", path="/v1/{name}", body="", run_id="none")
    asked = [service_api.create_run(endpoints(create=form), "stormgate-0") for _ in range(2)]
    names = [each.read(Answer(201, "text/plain", b"")) for each in asked]
    assert names[0] != names[1]
    assert [each.url for each in asked] == [f"http://t/v1/{name}" for name in names]
    assert all(name.startswith("stormgate-0-") for name in names)
