"""The mock as a staging service: its hooks do what the faults say, and its rollback can be rehearsed."""

import json
import os
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from drills.third_party import practice
from drills.third_party.running import Server, running
from sim.drill.fault_kinds import AnyFault
from sim.drill.fault_schedule import switches_during
from sim.engines.shared import permission
from sim.server.settings import Switches
from tests.commands import sets, started, stormgate

SWITCHES = [
    {"kind": "slow_mint", "delay_ms": 40.0, "concurrency": 2, "for_s": 1.0},
    {"kind": "fail_publishes", "status": 503, "share": 0.5, "for_s": 2.0, "taken": True},
    {"kind": "delay_deliveries", "clients_share": 0.5, "events_share": 0.25, "delay_ms": 300.0, "for_s": 1.0},
    {"kind": "shrink_replay_budget", "events": 5, "for_s": 1.0},
    {"kind": "stop_delivery", "for_s": 1.0},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("practice", log=tmp_path_factory.mktemp("practice") / "server.log", target="staging") as found:
        yield found


def described(server: Server) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(server.targets_file.read_text())["targets"]["staging"]
    return table


def state(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{server.place.ports[0]}/_mock/state").json()
    return found


def fault(**keys: object) -> AnyFault:
    found: AnyFault = msgspec.convert({"at_s": 0.0, **keys}, AnyFault)
    return found


def hook(server: Server, fault: AnyFault, action: str, *devices: str, topics: str = "") -> subprocess.CompletedProcess[str]:
    """Run a hook as an engine does."""
    keys = {name: value for name, value in msgspec.to_builtins(fault).items() if name != "kind"}
    words = {name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for name, value in keys.items()}
    about = {**words, "action": action, "fault": fault.kind, "fault_index": "3", "topics": topics}
    environment = {**os.environ, **{f"STORMGATE_{name.upper()}": value for name, value in about.items()}}
    clients = json.dumps({"clients": [{"device": device, "account": "", "session_id": ""} for device in devices]})
    command = described(server)["hooks"][fault.kind][action]
    return subprocess.run(command, env=environment, input=clients, capture_output=True, text=True, timeout=60, check=False)


def test_it_has_a_hook_for_every_fault_that_its_server_must_make(server: Server) -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in AnyFault.__args__}
    of_server = {name for name, kind in kinds.items() if not issubclass(kind, permission.ACTS_FROM_HERE)}
    by_request_or_not_at_all = {"revoke_sessions", "rotate_keys", "skew_clocks"}
    assert set(described(server)["hooks"]) == of_server - by_request_or_not_at_all


@pytest.mark.parametrize("keys", SWITCHES, ids=lambda keys: str(keys["kind"]))
def test_a_hook_turns_on_what_the_engine_would_and_off_again(server: Server, keys: dict[str, object]) -> None:
    meant = fault(**keys)
    assert hook(server, meant, "inject").returncode == 0
    assert state(server)["switches"] == msgspec.to_builtins(switches_during(Switches(), [meant]))
    assert hook(server, meant, "revert").returncode == 0
    assert state(server)["switches"] == msgspec.to_builtins(Switches())


def test_hooks_name_devices_and_streams(server: Server) -> None:
    assert json.loads(hook(server, fault(kind="rolling_deploy", waves=1, wave_s=1.0), "inject", "client-1").stdout) == {
        "sockets_closed": 0
    }
    closes = {"kind": "close_connections", "codes": [1012, 4000], "for_s": 1.0}
    assert hook(server, fault(**closes), "inject", "client-1", "client-2").returncode == 0
    assert hook(server, fault(**closes), "revert").returncode == 0
    shrink = {"kind": "shrink_window", "keep_events": 1}
    assert hook(server, fault(**shrink), "inject", topics="run:r1:events").returncode == 0


def test_another_fault_is_refused(server: Server) -> None:
    parameters = {"fault": "drop_sockets", "at_s": "0", "share": "1.0", "offline_s": "0"}
    with pytest.raises(practice.TargetError, match="cannot inject drop_sockets"):
        server.act("inject", parameters)


def test_its_rollback_changes_and_restores_each_step(server: Server) -> None:
    before = state(server)["traffic"]
    for step in ("traffic", "throttle", "cohort"):
        for action in ("apply", "restore", "restore"):
            environment = {**os.environ, "STORMGATE_STEP": step, "STORMGATE_ACTION": action, "STORMGATE_PERCENT": "0"}
            done = subprocess.run(described(server)["rollback"][step][action], env=environment, timeout=60, check=False)
            assert done.returncode == 0
            assert (state(server)["traffic"] == before) is (action == "restore"), step
    assert subprocess.run(described(server)["rollback"]["check"], timeout=60, check=False).returncode == 0


def test_up_describes_it_in_a_targets_file_while_it_runs(tmp_path: Path) -> None:
    targets, out = tmp_path / "targets.toml", tmp_path / "out"
    targets.write_text('[targets.other]\nkind = "mock"\n')
    with started("target", "up", "practice", "--as", "staging", "--targets", targets, "--out", out) as process:
        assert process.stdout is not None
        assert "The mock as a staging service" in process.stdout.readline()
        assert [*tomllib.loads(targets.read_text())["targets"]] == ["other", "staging"]
        again = stormgate("target", "up", "practice", "--as", "staging", "--targets", targets, "--out", out)
        assert (again.code, "there is a target 'staging' already; remove it" in again.sentence) == (3, True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert targets.read_text() == '[targets.other]\nkind = "mock"\n'


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--as", "mock"), "'mock' is the name of the embedded mock"),
        (("--as", "a b"), "expected 'mock', or an address"),
        (("--port", "{taken}"), "--port {taken}: cannot be used (Address already in use)"),
    ],
)
def test_up_refuses_impossible_names_and_taken_ports(
    server: Server, tmp_path: Path, options: tuple[str, str], says: str
) -> None:
    taken = str(server.place.ports[0])
    words = [each.format(taken=taken) for each in options]
    done = stormgate("target", "up", "practice", *words, "--targets", tmp_path / "t.toml", "--out", tmp_path)
    assert (done.code, says.format(taken=taken) in done.sentence) == (3, True), done
    assert not (tmp_path / "t.toml").exists()


def test_observing_it_causes_no_refusal(server: Server, tmp_path: Path) -> None:
    """The service's own counter of unauthorized requests gates a stage: canary checks must not raise it."""

    def refused() -> int:
        page = f"http://127.0.0.1:{server.place.ports[0]}/internal/v1/spacetime/sync/metrics"
        said = httpx.get(page, headers={"Authorization": f"Bearer {practice.DEFAULT_ADMIN_TOKEN}"}).json()
        return int(said["auth_failures"]["unauthorized_total"])

    short = sets("fleet.clients=5", "phases.steady_s=0.5", "phases.fault_s=1", "phases.settle_s=5")
    target = ("--target", "staging", "--targets", server.targets_file, "--out", tmp_path, *short)
    before = refused()
    done = stormgate("drill", "run", "observation", *target)
    assert "evidence:" in done.out, done
    assert refused() == before
    done = stormgate("drill", "run", "concurrent_appends", *target, "--set", "faults.0.for_s=0.5")
    assert "evidence:" in done.out, done
    assert refused() == before + 1, "a drill that breaks something asks once for an upgrade without a token"
