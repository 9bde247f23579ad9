"""Load tests against a lane that is none of ours, through a targets file: its caps, its stop conditions, its secrets."""

from pathlib import Path

from live import SECRETS, Live, thirdparty
from loads import DRILL, Load, over_two_processes

from drills import results
from sim.observations import Kind, read_header, read_verified

CAP = 20


def load_on(live: Live, extra: str, *more: str) -> Load:
    targets, _ = live.write(extra=extra)
    gentle = [f"--set=fleet.connects_per_s={CAP}", "--set=load.events_per_s=30", "--target=thirdparty", f"--targets={targets}"]
    return Load(live.folder / "out", DRILL, *gentle, *more, environment=live.environment)


def reveals_nothing(load: Load) -> None:
    everything = [load.said.encode(), *(path.read_bytes() for path in load.out.rglob("*") if path.is_file())]
    assert [secret for secret in SECRETS.values() for text in everything if secret.encode() in text] == []


def test_workers_together_keep_to_the_caps_of_a_live_target(tmp_path: Path):
    with thirdparty(tmp_path) as live:
        caps = f"caps = {{ clients = 42, connects_per_s = {CAP}, events_per_s = 30 }}\n"
        load = load_on(live, caps, *over_two_processes())
        assert load.end() in (2, 4), load.said  # it cannot tell; a busy machine may be late besides
        moments = {what: sorted(t for each, t in live.log if each == what) for what in ("upgrade", "publish")}
    header, table = read_verified(results.drill_folder(load.run_dir, DRILL))
    assert (header.target, header.target_kind, header.metrics_profile) == ("thirdparty", "staging", "pinned")
    assert [each["clients"] for each in header.workers] == [20, 20]
    for what, per_s in (("upgrade", CAP), ("publish", 30)):  # the lane may see them late, but never more of them
        assert len(moments[what]) <= per_s * (moments[what][-1] - moments[what][0] + 1.0) + 1
    assert any("paced" in remark for remark in header.remarks)
    kinds = table.column("kind").to_pylist()
    assert kinds.count(Kind.PACED) >= 10
    assert kinds.count(Kind.METRICS_POLLED) >= 3
    reveals_nothing(load)


def test_a_stop_condition_ends_a_load_test_as_a_no_go(tmp_path: Path):
    with thirdparty(tmp_path) as live:
        load = load_on(live, 'stop.metrics_above."mirror.published_total" = 30\n')
        assert load.end() == 1, load.said
    header = read_header(results.drill_folder(load.run_dir, DRILL))
    assert not header.complete
    assert "metrics_above.mirror.published_total" in header.stop_condition
    assert load.verdict.exit_code == 1
    reveals_nothing(load)
