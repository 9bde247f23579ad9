"""Drills of a third-party service from the command line, through a targets file."""

import hashlib
import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict
from drills.runs import results
from sim.record.observations import Kind
from sim.record.parquet import read
from sim.record.run_header import HEADER_NAME, read_header
from tests.commands import LIMIT_S, Said, started, stormgate
from tests.live import DRILL, SECRETS, Live, thirdparty

GO, FAIL, INCONCLUSIVE, USAGE, BROKEN = 0, 1, 2, 3, 4
KILL = DRILL.replace('kind = "drop_sockets", at_s = 0.2', 'kind = "kill_runtime", at_s = 0.2, down_s = 1.0')


def drilled(live: Live, *options: object, kind: str = "staging", extra: str = "", drill: str = DRILL) -> Said:
    targets, path = live.write(kind, extra, drill)
    return stormgate(*command(live, targets, path), *options, **live.environment)


def command(live: Live, targets: Path, drill: Path) -> list[object]:
    return ["drill", "run", drill, "--target", "thirdparty", "--targets", targets, "--out", live.folder / "out"]


def run_dir(live: Live) -> Path:
    (found,) = (live.folder / "out").iterdir()
    return found


def folder(live: Live) -> Path:
    return results.drill_folder(run_dir(live), "passing_through")


def verdict(live: Live) -> DrillVerdict:
    (found,) = results.judge_run(run_dir(live)).drills
    return found


def reason(live: Live, check: str) -> str:
    return next(found.reason for found in verdict(live).checks if found.name == check)


def reveals_nothing(live: Live, said: Said) -> None:
    everything = [said.out.encode(), said.err.encode()]
    everything += [path.read_bytes() for path in (live.folder / "out").rglob("*") if path.is_file()]
    assert [secret for secret in SECRETS.values() for text in everything if secret.encode() in text] == []


# --- a service that is not ours ------------------------------------------------------------------------


def test_a_third_party_service_that_keeps_the_protocol_is_a_go(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(live)
        upgrades = len([what for what, _ in live.log if what == "upgrade"])
    assert said.code == GO, said
    assert "staging" in said.out
    assert upgrades >= 2 * 20 + 2, "the fleet twice, the probe and the auditor"
    reveals_nothing(live, said)
    header = read_header(folder(live))
    assert (header.target, header.target_kind, header.complete) == ("thirdparty", "staging", True)
    lines = [json.loads(line) for line in (folder(live) / "server-metrics.jsonl").read_text().splitlines()]
    assert len(lines) >= 3
    assert {line["outcome"] for line in lines} == {"ok"}
    assert all(hashlib.sha256(line["body"].encode()).hexdigest() == line["sha256"] for line in lines)
    assert "Bearer [secret]" in lines[0]["body"], "the service echoes its own token"


def test_server_metrics_are_kept_apart_from_client_observations(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(live, "--json")
    (drill,) = json.loads(said.out)["drills"]
    published = drill["server"]["figures"]["mirror.published_total"]
    assert drill["server"]["origin"] == "server"
    assert published["increase"] == published["last"] == drill["metrics"]["published_events"]["value"]
    assert "mirror.failed_total" in drill["server"]["absent"], "it serves no such figure, and that is not zero"
    assert "mirror.failed_total" not in drill["server"]["figures"]
    assert "What the runtime reported of itself" in (run_dir(live) / "SUMMARY.md").read_text()


def test_a_third_party_service_that_loses_events_is_a_no_go_by_name(tmp_path: Path) -> None:
    with thirdparty(tmp_path, "--lose", "37") as live:
        said = drilled(live)
    assert said.code == FAIL, said
    assert "delivery.dropped_deliveries fail" in said.out
    assert "drill.converged fail" in said.out


@pytest.mark.parametrize("metrics", ["none", "strings"])
def test_metrics_that_are_not_served_are_missing_and_not_zero(tmp_path: Path, metrics: str) -> None:
    with thirdparty(tmp_path, "--metrics", metrics) as live:
        said = drilled(live, "--json")
    (drill,) = json.loads(said.out)["drills"]
    assert said.code == GO
    assert "mirror.published_total" in drill["server"]["absent"]
    assert "mirror.published_total" not in drill["server"]["figures"]
    if metrics == "none":
        assert drill["server"]["failed_polls"] == {"http_404": drill["server"]["polls"]}
        assert "did not answer" in drill["remarks"][0]


def test_changed_metrics_are_not_evidence(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        drilled(live)
    path = folder(live) / "server-metrics.jsonl"
    path.write_text(path.read_text().replace("eu", "us"))
    assert stormgate("judge", run_dir(live)).code == BROKEN
    assert "server-metrics.jsonl was changed" in reason(live, "drill.evidence")


# --- caps -------------------------------------------------------------------------------------------


def test_a_storm_is_paced_to_the_cap_and_cannot_be_a_go(tmp_path: Path) -> None:
    cap = 8
    slow = DRILL.replace("connects_per_s = 40.0", f"connects_per_s = {cap}.0").replace("fault_s = 3.0", "fault_s = 5.0")
    with thirdparty(tmp_path) as live:
        said = drilled(live, drill=slow, extra=f"caps = {{ clients = 22, connects_per_s = {cap}, events_per_s = 40 }}\n")
        moments = {what: [t for each, t in live.log if each == what] for what in ("upgrade", "publish")}
    assert said.code == INCONCLUSIVE, said
    rows = read(folder(live)).to_pylist()
    assert max_within([row["t"] for row in rows if row["kind"] == Kind.CONNECT_ATTEMPTED], 0.95) <= cap
    for what, per_s in (("upgrade", cap), ("publish", 40)):  # the service may see them late, but never more of them
        assert len(moments[what]) <= per_s * (moments[what][-1] - moments[what][0] + 1.0) + 1
    assert "cap paced" in reason(live, "reconnect.live_again_99_s")
    assert any("was paced, so it shows less" in remark for remark in verdict(live).remarks)
    waited = [row for row in rows if row["kind"] == Kind.PACED]
    assert len(waited) >= 20 - cap


def max_within(moments: list[float], width_s: float) -> int:
    return max(sum(begin <= t < begin + width_s for t in moments) for begin in moments)


# --- stop conditions --------------------------------------------------------------------------------


def test_a_metric_over_its_limit_stops_the_drill(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(live, extra='stop.metrics_above."mirror.published_total" = 30\n')
    assert said.code == FAIL, said
    assert "metrics_above.mirror.published_total" in said.err
    assert "drill.stop_condition fail" in said.out
    header = read_header(folder(live))
    assert (header.complete, header.observations_rows > 0) == (False, True)
    assert stormgate("judge", run_dir(live)).code == FAIL, "and the same from the files"


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ("stop = { live_share = 0.5, live_share_for_s = 1.0 }\n", "live_share"),
        ("stop = { error_ratio = 0.5, error_window_s = 3.0, error_minimum_n = 10 }\n", "error_ratio"),
        ("stop = { metrics_unreachable_polls = 2 }\n", "metrics_unreachable_polls"),
    ],
)
def test_a_service_that_fails_stops_the_drill(tmp_path: Path, condition: str, name: str) -> None:
    long = DRILL.replace("fault_s = 3.0", "fault_s = 40.0").replace("at_s = 0.2", "at_s = 39.0")
    with thirdparty(tmp_path) as live:
        targets, path = live.write(extra=condition, drill=long)
        with started(*command(live, targets, path), **live.environment) as process:
            until_the_fault_phase(live)
            os.kill(live.pid, signal.SIGUSR1)
            out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == FAIL, (out, err)
    assert f"a stop condition of the target was met, {name}" in err


def until_the_fault_phase(live: Live) -> None:
    """Everyone is there, and the check of the steady state is over."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if sum(what == "publish" for what, _ in live.log) > 120:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was published")


def test_a_stop_condition_that_could_never_be_met_is_refused(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        said = drilled(live, extra='stop.metrics_above."delivery.no_such_figure" = 30\n')
    assert said.code == USAGE
    assert "delivery.no_such_figure" in said.sentence
    assert "mirror.published_total" in said.sentence


# --- hooks ------------------------------------------------------------------------------------------


def script(live: Live, name: str, *lines: str) -> str:
    """A program that writes down that it was run, and with what, and then does something."""
    path = live.folder / name
    body = [f'echo "$STORMGATE_ACTION $STORMGATE_FAULT $STORMGATE_DOWN_S" >> {live.folder}/hooks.log', *lines]
    path.write_text("\n".join(["#!/bin/sh", *body, ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def hook(inject: str, revert: str, timeout_s: float = 20.0) -> str:
    return f'hooks.kill_runtime = {{ inject = ["{inject}"], revert = ["{revert}"], timeout_s = {timeout_s} }}\n'


def hooks_run(live: Live) -> list[str]:
    return (live.folder / "hooks.log").read_text().splitlines()


def test_a_server_fault_is_injected_by_the_operators_command(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        inject = script(live, "shut", f"kill -USR1 {live.pid}", 'echo "with $THEIR_SESSION"; env | grep ^STORMGATE_')
        revert = script(live, "open", f"kill -USR2 {live.pid}")
        said = drilled(live, drill=KILL, extra=hook(inject, revert))
    assert said.code == GO, said
    assert hooks_run(live) == ["inject kill_runtime 1.0", "revert kill_runtime 1.0"]
    reveals_nothing(live, said)
    header = read_header(folder(live))
    assert [(done["action"], done["exit_code"]) for done in header.hooks] == [("inject", 0), ("revert", 0)]
    said_by_it = (folder(live) / str(header.hooks[0]["output"])).read_text()
    assert "with [secret]" in said_by_it
    for line in ("STORMGATE_TARGET=thirdparty", f"STORMGATE_RUN_ID={run_dir(live).name}", "STORMGATE_DRILL=passing_through"):
        assert line in said_by_it
    assert header.evidence[str(header.hooks[0]["output"])] == hashlib.sha256(said_by_it.encode()).hexdigest()
    assert "no cap limits the reconnects of the other clients" in verdict(live).remarks[0]


def test_connections_are_closed_by_the_operators_command(tmp_path: Path) -> None:
    close = 'kind = "close_connections", at_s = 0.2, for_s = 1.0, codes = [1001, 1006], retry_after_ms = 500'
    with thirdparty(tmp_path) as live:
        inject = script(live, "shut", f"kill -USR1 {live.pid}", "env | grep ^STORMGATE_")
        hooked = hook(inject, script(live, "open", f"kill -USR2 {live.pid}")).replace("kill_runtime", "close_connections")
        said = drilled(live, drill=DRILL.replace('kind = "drop_sockets", at_s = 0.2', close), extra=hooked)
    assert said.code == GO, said
    text = (folder(live) / str(read_header(folder(live)).hooks[0]["output"])).read_text().splitlines()
    assert {"STORMGATE_CODES=1001,1006", "STORMGATE_AFTER_MS=0.0", "STORMGATE_RETRY_AFTER_MS=500", "STORMGATE_FOR_S=1.0"} <= {
        *text
    }
    assert sum(each.count for each in verdict(live).endings) >= 20


def test_a_hook_without_an_observed_effect_is_an_error(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        nothing = script(live, "nothing")
        said = drilled(live, drill=KILL, extra=hook(nothing, nothing))
    assert said.code == BROKEN
    assert "disconnected 0 of 20 clients" in reason(live, "drill.faults_observed")


@pytest.mark.parametrize(
    ("what", "words"),
    [("exit 7", "ended with exit code 7"), ("sleep 60", "did not end within 1 s")],
)
def test_a_hook_that_fails_ends_the_drill_and_is_reverted(tmp_path: Path, what: str, words: str) -> None:
    with thirdparty(tmp_path) as live:
        inject, revert = script(live, "shut", f"kill -USR1 {live.pid}", what), script(live, "open", f"kill -USR2 {live.pid}")
        said = drilled(live, drill=KILL, extra=hook(inject, revert, timeout_s=1.0))
    assert said.code == BROKEN, said
    assert words in said.sentence
    assert hooks_run(live) == ["inject kill_runtime 1.0", "revert kill_runtime 1.0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_drill_reverts_its_hooks_fault(tmp_path: Path, number: int) -> None:
    with thirdparty(tmp_path) as live:
        inject = script(live, "shut", f"kill -USR1 {live.pid}", "sleep 30")
        revert = script(live, "open", f"kill -USR2 {live.pid}")
        targets, path = live.write(extra=hook(inject, revert), drill=KILL)
        with started(*command(live, targets, path), **live.environment) as process:
            while not (live.folder / "hooks.log").exists():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == BROKEN, err
    assert hooks_run(live) == ["inject kill_runtime 1.0", "revert kill_runtime 1.0"]
    assert "it was interrupted" in err
    assert [done["why"] for done in read_header(folder(live)).hooks] == ["the drill ended meanwhile", ""]


def test_an_interruption_does_not_wait_for_a_slow_hook(tmp_path: Path) -> None:
    """The fault phase is over, and the command is still at it."""
    with thirdparty(tmp_path) as live:
        inject, revert = script(live, "shut", "sleep 12"), script(live, "open", "true")
        targets, path = live.write(extra=hook(inject, revert), drill=KILL.replace("fault_s = 3.0", "fault_s = 1.3"))
        with started(*command(live, targets, path), **live.environment) as process:
            while not (live.folder / "hooks.log").exists():
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(2.5)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LIMIT_S)
    assert [done["why"] for done in read_header(folder(live)).hooks] == ["the drill ended meanwhile", ""]


def test_a_failed_revert_is_reported_as_a_broken_target(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        inject, revert = script(live, "shut", f"kill -USR1 {live.pid}"), script(live, "open", "exit 3")
        said = drilled(live, drill=KILL, extra=hook(inject, revert))
    assert said.code == BROKEN
    assert "The target may still be broken." in said.sentence
    assert hooks_run(live).count("revert kill_runtime 1.0") == 2, "it was tried once more"
    summary = (folder(live).parents[1] / "SUMMARY.md").read_text()
    assert "the hook to revert kill_runtime ended with exit code 3" in summary
    assert "The target may still be broken" in summary


def test_a_hooks_changed_output_is_not_evidence(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        inject, revert = (script(live, name, f"kill -{name} {live.pid}") for name in ("USR1", "USR2"))
        drilled(live, drill=KILL, extra=hook(inject, revert))
    header = folder(live) / HEADER_NAME
    output = next(name for name in json.loads(header.read_text())["evidence"] if name.startswith("hooks/"))
    (folder(live) / output).write_text("it was very well healed")
    assert f"{output} was changed" in reason(live, "drill.evidence")


# --- production -------------------------------------------------------------------------------------

OBSERVE = DRILL.replace('[{ kind = "drop_sockets", at_s = 0.2 }]', "[]")
OBSERVE = OBSERVE.replace('negative_clients = ["mutation_over_socket"]', "")
OBSERVE = OBSERVE.replace('"reconnect.live_again_99_s", ', "")


def test_production_is_only_observed(tmp_path: Path) -> None:
    with thirdparty(tmp_path) as live:
        refused = drilled(live, kind="production")
        observed = drilled(live, kind="production", drill=OBSERVE)
        assert refused.code == USAGE
        assert "drop_sockets, the negative client mutation_over_socket" in refused.sentence
        assert "production" in refused.sentence
        assert observed.code == GO, observed
        upgrades = len([what for what, _ in live.log if what == "upgrade"])
    assert upgrades == 21, "the fleet once, and the auditor"
    assert reason(live, "drill.faults_observed") == "this drill has no faults: it only observes"


def test_production_that_loses_events_is_a_no_go(tmp_path: Path) -> None:
    with thirdparty(tmp_path, "--lose", "37") as live:
        said = drilled(live, kind="production", drill=OBSERVE)
    assert said.code == FAIL
    assert "delivery.dropped_deliveries fail" in said.out
