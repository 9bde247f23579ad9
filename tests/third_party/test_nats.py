"""The description of the NATS target on the real server, item by item: what clients and the publisher do over the protocol."""

from pathlib import Path

import pytest

from drills.runs import targets
from drills.targets import check
from drills.third_party.running import running


def test_each_item_of_the_target_passes_on_the_real_server(tmp_path: Path) -> None:
    with running("nats", log=tmp_path / "server.log") as up:
        endpoints = targets.resolve(up.name, up.targets_file)
        assert endpoints is not None
        items = {item.name: item for item in check.check(endpoints)}
        wanted = ("ready", "stream", "token", "connect", "publish", "delivery", "resume")
        assert [items[name].state for name in wanted] == ["pass"] * len(wanted), items
        assert "over nats_jetstream" in items["publish"].sent
        assert "position 1" in items["publish"].answer


@pytest.mark.parametrize("action", ["recreate", "restart"])
def test_stream_is_there_after_each_action(tmp_path: Path, action: str) -> None:
    with running("nats", log=tmp_path / "server.log") as up:
        endpoints = targets.resolve(up.name, up.targets_file)
        assert endpoints is not None
        for _ in range(2):
            published = {item.name: item.answer for item in check.check(endpoints)}["publish"]
            assert "acknowledged: position" in published
            up.act(action)
