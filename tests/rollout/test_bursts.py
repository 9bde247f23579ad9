"""Bursts on streams that are given by name: none is created, and no event is taken for one of an earlier burst."""

import json

import pytest

from drills.rollout.rollback import bursts
from drills.rollout.setup.stage_target import StageTarget
from sim.drill.target_rules import Rules, StreamRules
from sim.engines.shared.endpoints import Endpoints
from sim.service.forms import MetricsForm, PublishForm, ServiceForms
from tests.commands import http_server

STREAMS = ("orders", "rooms")


@pytest.mark.parametrize("send", [bursts.publishes, bursts.writes])
def test_burst_goes_to_the_streams_that_there_are(send: object) -> None:
    asked: list[tuple[str, str]] = []

    def serve(method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        asked.append((path, json.loads(body)["id"]))
        return 200, "application/json", b'{"event": {"seq": 1}}'

    publish = PublishForm(path="/streams/{run_id}", body={"id": "{key}"})
    with http_server(serve, takes_body=True) as url:
        forms = ServiceForms(create=None, publish=publish)
        endpoints = Endpoints("there", "staging", url, url, forms=forms, streams=StreamRules(names=STREAMS))
        for _ in range(2):
            assert send(endpoints, 4).codes == {}  # type: ignore[operator]
    assert {path for path, _ in asked} == {f"/streams/{name}" for name in STREAMS}
    assert len({key for _, key in asked}) == len(asked) == 8


@pytest.mark.parametrize(("headers", "profile", "has"), [({}, "full", True), ({}, "none", False), (None, "full", False)])
def test_metrics_that_need_no_token_are_sampled(headers: dict[str, str] | None, profile: str, has: bool) -> None:
    form = MetricsForm() if headers is None else MetricsForm(headers=headers)
    rules = Rules(metrics_profile=profile)  # type: ignore[arg-type]
    endpoints = Endpoints("there", "staging", "http://a", "http://a", rules=rules, forms=ServiceForms(metrics=form))
    assert StageTarget("there", None, endpoints, None).has_metrics is has
