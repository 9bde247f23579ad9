"""Load tests of a service that is not our mock, through a targets file: caps, stop conditions, secrets."""

from pathlib import Path

import yaml

from drills.runs import results
from sim.record.observations import Kind
from sim.record.run_header import read_header, read_verified
from tests.commands import free_port
from tests.live import SECRETS, certified, thirdparty
from tests.locust_runs.loads import DRILL, ROOT, Load

CAP = 20
GENTLE = (f"--set=fleet.connects_per_s={CAP}", "--set=load.events_per_s=30")


def command_of(service: str, targets: Path, port: int) -> list[str]:
    """A command of the example for Docker Compose, its two hosts on this machine, without the file that it runs."""
    compose = yaml.safe_load((ROOT / "examples" / "load" / "compose.yaml").read_text())
    here = {
        "--master-bind-host=0.0.0.0": f"--master-bind-host=127.0.0.1 --master-bind-port={port}",
        "--master-host=master": f"--master-host=127.0.0.1 --master-port={port}",
        "--target=staging": "--target=thirdparty",
        "--targets=/config/targets.toml": f"--targets={targets}",
        "--out=/results": "",
    }
    words = compose["services"][service]["command"]
    assert words[:2] == ["locust", f"--locustfile=locustfiles/{DRILL}.py"]
    return [part for word in words[2:] for part in here.get(word, word).split()]


def reveals_nothing(load: Load) -> None:
    everything = [load.output.encode(), *(path.read_bytes() for path in load.out.rglob("*") if path.is_file())]
    assert [secret for secret in SECRETS.values() for text in everything if secret.encode() in text] == []


def test_master_and_two_workers_keep_to_the_caps_of_a_live_target(tmp_path: Path):
    with thirdparty(tmp_path) as live:
        targets, _ = live.write(extra=f"caps = {{ clients = 42, connects_per_s = {CAP}, events_per_s = 30 }}\n")
        port = free_port()
        load = Load(tmp_path / "out", DRILL, *GENTLE, *command_of("master", targets, port), environment=live.environment)
        worker = command_of("worker", targets, port)
        workers = [Load(tmp_path / f"worker{n}", DRILL, *worker, environment=live.environment) for n in (1, 2)]
        assert load.end() in (2, 4), load.output  # inconclusive; 4 if a busy machine was late
        assert [each.end() for each in workers] == [0, 0]
        moments = {what: sorted(t for each, t in live.log if each == what) for what in ("upgrade", "publish")}
    header, table = read_verified(results.drill_folder(load.run_dir, DRILL))
    assert (header.target, header.target_kind, header.metrics_profile) == ("thirdparty", "staging", "pinned")
    assert [each["clients"] for each in header.workers] == [20, 20]
    for what, per_s in (("upgrade", CAP), ("publish", 30)):  # the service may get them late, but never more of them
        assert len(moments[what]) <= per_s * (moments[what][-1] - moments[what][0] + 1.0) + 1
    assert any("paced" in remark for remark in header.remarks)
    kinds = table.column("kind").to_pylist()
    assert kinds.count(Kind.PACED) >= 10
    assert kinds.count(Kind.METRICS_POLLED) >= 3
    reveals_nothing(load)


def test_stop_condition_ends_a_load_test_over_tls_as_a_no_go(tmp_path: Path):
    pem, trust = certified(tmp_path)
    with thirdparty(tmp_path, "--tls", str(pem)) as live:
        targets, _ = live.write(extra='stop.metrics_above."mirror.published_total" = 30\n')
        named = "--target=thirdparty", f"--targets={targets}"
        load = Load(tmp_path / "out", DRILL, *GENTLE, *named, environment={**live.environment, **trust})
        assert load.end() == 1, load.output
        assert "upgrade" in {what for what, _ in live.log}
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert not header.complete
    assert "metrics_above.mirror.published_total" in header.stop_condition
    assert load.verdict.exit_code == 1
    reveals_nothing(load)


def test_clients_of_a_worker_withhold_deliveries_on_a_live_target(tmp_path: Path):
    drill = "dropped_delivery"
    sets = ("phases.fault_s=3", "faults.0.at_s=0", "faults.0.for_s=3", "phases.recovery_s=2", "load.events_per_s=30")
    few = [f"--set={each}" for each in (*sets, "fleet.clients=20", "fleet.connects_per_s=20")]
    with thirdparty(tmp_path) as live:
        targets, _ = live.write(extra=f"caps = {{ clients = 42, connects_per_s = {CAP}, events_per_s = 30 }}\n")
        port = free_port()
        where = ("--target=thirdparty", f"--targets={targets}")
        master = ("--master", "--expect-workers=1", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}")
        load = Load(tmp_path / "out", drill, *few, *where, *master, settings=(), environment=live.environment)
        at = ("--worker", "--master-host=127.0.0.1", f"--master-port={port}")
        worker = Load(tmp_path / "worker", drill, *few, *where, *at, settings=(), environment=live.environment)
        assert load.end() in (0, 2, 4), load.output  # inconclusive or an error if a busy machine was late
        assert worker.end() == 0, worker.output
    header, table = read_verified(results.drill_folder(load.run_dir, drill))
    kinds = table.column("kind").to_pylist()
    assert header.plan[0]["kind"] == "skip_deliveries"
    assert kinds.count(Kind.WITHHELD) > 5
    assert kinds.count(Kind.GAP) > 0
    assert kinds.count(Kind.FAULT_OBSERVED) == 1, "the worker reported what it withheld"
