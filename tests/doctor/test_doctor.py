"""`stormgate doctor` finds what is missing, says what to do, and fails only where no drill could run."""

import json
import resource
import shutil
import socket
from importlib import metadata
from pathlib import Path

import pytest

from drills.doctor import examination
from drills.doctor.examination import Item
from sim.base.errors import UsageError
from tests.commands import stormgate, stormgate_here

NEEDS = ["numpy", 'locust ; extra == "load"', 'gevent-of-nobody; extra == "load"', 'distributed; extra == "cluster"']


def named(name: str) -> Item:
    (item,) = (item for item in examination.examine(Path("results")) if item.name == name)
    return item


def test_every_item_is_one_line_and_this_machine_can_run_drills(tmp_path: Path):
    done = stormgate_here("doctor", "--out", tmp_path)
    *items, last = done.out.replace("\n  ", " ").splitlines()  # long ones fold
    assert (done.code, done.err, last) == (0, "", "drills can run here")
    names = [line.partition(":")[0] for line in items]
    assert names[:5] == ["python", "stormgate", "extra load", "extra notebooks", "extra cluster"]
    assert {"ports", "descriptors", "disk", "clock", "cores", "browser", "server nats", "server socketio"} <= {*names}
    assert f"free in {tmp_path}" in "\n".join(items)


def test_too_few_descriptors_fail_and_say_what_to_do(tmp_path: Path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = stormgate("doctor", "--json", "--out", tmp_path, before=limit)
    said = json.loads(done.out)
    assert (done.code, said["is_able"]) == (1, False)
    (item,) = (item for item in said["items"] if item["name"] == "descriptors")
    assert (item["state"], item["found"]) == ("missing", "at most 256 open files")
    assert "ulimit -Hn" in item["do"]


def test_a_package_that_is_missing_of_an_extra_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "requires", lambda name: NEEDS)
    assert named("extra load").line == (
        "extra load: missing, without gevent-of-nobody. For load tests in Locust: pip install 'stormgate[load]'."
    )
    assert named("extra cluster").state == "ok"
    assert named("stormgate").state == "ok"
    assert examination.is_able([named("extra load")])


def test_a_missing_data_file_or_package_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["nobody-has-this>=1"])
    monkeypatch.setattr(examination, "_DATA", (examination.DATA / "judging" / "no-such.toml",))
    item = named("stormgate")
    assert "lacks judging/no-such.toml, nobody-has-this" in item.found
    assert not examination.is_able([item])


def test_a_full_disk_and_a_folder_that_cannot_be_written_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    usage = shutil.disk_usage(tmp_path)
    for free, state in ((1e6, "missing"), (1e9, "advice"), (1e10, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        assert named("disk").state == state
    monkeypatch.setattr(examination.os, "access", lambda *_: False)
    assert "cannot be written to" in named("disk").found
    assert not examination.is_able([named("disk")])


def test_no_port_fails(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert named("ports").state == "missing"
    assert not examination.is_able([named("ports")])


def test_a_clock_and_a_load_are_advice_only():
    assert [examination._clock(state).state for state in (0, 5, None)] == ["ok", "advice", "advice"]
    assert [examination._cores(load, 2).state for load in (0.5, 1.7)] == ["ok", "advice"]


def test_a_missing_server_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(examination.installed._PROGRAMS, "nats-server", tmp_path / "nowhere")
    item = named("server nats")
    assert (item.state, item.do) == ("missing", "For drills on real servers: make servers.")
    assert named("server socketio").state == "ok"
    assert examination.is_able([item])
    monkeypatch.setattr(examination.installed, "_IS_CHECKOUT", False)
    assert named("server nats").do.endswith(f"{examination.installed.HOW} nats-server."), "only that server, not minutes of all"


def test_only_the_named_server_is_installed(monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    for name in ("nats", "centrifugo", "node"):
        monkeypatch.setattr(examination.installed, f"_install_{name}", lambda name=name: done.append(name))
    examination.installed.install(["nats-server"])
    assert done == ["nats"]
    examination.installed.install()
    assert sorted(done) == ["centrifugo", "nats", "nats", "node"]
    with pytest.raises(UsageError, match="no program 'redis' to install; expected one of: nats-server, centrifugo, node"):
        examination.installed.install(["redis"])
