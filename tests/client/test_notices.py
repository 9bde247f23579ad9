"""Who ended a connection, as a client notes it."""

import pytest

from sim.client import notices
from sim.protocols.events import Closed, Next, Refused, Step


@pytest.mark.parametrize(
    ("code", "status", "by"),
    [
        *((code, None, "network") for code in ("network", "refused", "timeout")),
        ("unauthorized", None, "server"),
        ("network", 503, "server"),
    ],
)
def test_failed_connect_is_the_networks_where_no_server_answered(code: str, status: int | None, by: str):
    event = Refused("", code, next=Next(Step.WAIT, 250.0), status=status)
    for by_fault, said in ((False, by), (True, "fault")):
        notice = notices.of_refused(event, by_fault)
        assert (notice.kind, notice.attempt, notice.value) == ("ended", status or 0, 250.0)
        assert notice.detail == f"{said}:{code}:wait"


@pytest.mark.parametrize(("code", "by", "shown"), [(None, "network", "network"), (4100, "server", "4100")])
def test_closed_connection_is_the_networks_without_a_close_code(code: int | None, by: str, shown: str):
    event = Closed("network", code, Next(Step.RETRY))
    notice = notices.of_closed(event, by_fault=False)
    assert (notice.attempt, notice.detail, notice.value != notice.value) == (code or 0, f"{by}:{shown}:retry", True)
