"""`stormgate rollback rehearse`: what it prints, what it leaves with, and that being ended puts everything back."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.rollout.rollback import changes
from drills.rollout.rollback.rehearsal import rehearsal_steps
from drills.rollout.setup.records import Rollback
from drills.rollout.setup.stages import RoutingChecks
from tests.commands import LIMIT_S, soon, started, stormgate_here
from tests.served import Served, serving

PASS, FAIL, INCONCLUSIVE, USAGE, BROKEN = 0, 1, 2, 3, 4
AS_IT_WAS = {"serving": "mock-r2", "cohort_percent": 100, "throttle": {"publishes_per_s": None, "connects_per_s": None}}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("cli-rollback")) as served:
        yield served


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "ROUTING_CHECKS", RoutingChecks(keys=100))
    monkeypatch.setattr(rehearsal_steps, "_MOCK_BURST", 40)


def traffic_of(mock: Served) -> dict[str, Any]:
    return dict(mock.state()["traffic"])


def rehearsed(folder: Path) -> Rollback:
    (found,) = folder.rglob("rollback.json")
    return msgspec.json.decode(found.read_bytes(), type=Rollback)


def targets(mock: Served, folder: Path, apply: list[str], restore: list[str]) -> Path:
    path = folder / "targets.toml"
    path.write_text(
        f'[targets.theirs]\nkind = "mock"\nruntime_url = "{mock.url}"\ncontrol_url = "{mock.url}"\n'
        "[targets.theirs.rollback]\nobserved_within_s = 0.1\n[targets.theirs.rollback.traffic]\n"
        f"apply = {json.dumps(apply)}\nrestore = {json.dumps(restore)}\n"
        'control_revision = "mock-r1"\nruntime_revision = "mock-r1"\n'
    )
    return path


def test_dry_run_shows_what_would_be_done(mock: Served, tmp_path: Path) -> None:
    said = stormgate_here("rollback", "rehearse", "--target", mock.url, "--out", tmp_path, "--dry-run", "--json")
    assert said.code == INCONCLUSIVE
    done = msgspec.json.decode(said.out.encode(), type=Rollback)
    assert (done.dry_run, done.state, done.target_kind) == (True, "not_run", "mock")
    assert "/_mock/throttle" in done.steps[1].reason
    assert rehearsed(tmp_path) == done
    assert traffic_of(mock) == AS_IT_WAS


def test_failed_rehearsal_reports_everything_observed(mock: Served, tmp_path: Path) -> None:
    nothing = [sys.executable, "-c", ""]
    file = targets(mock, tmp_path, nothing, nothing)
    said = stormgate_here(
        "rollback", "rehearse", "--target", "theirs", "--targets", file, "--out", tmp_path, "--rollout", "first"
    )
    assert said.code == FAIL, said
    assert "fail: step 1, traffic: the rollback was not observed: control is mock-r2, expected mock-r1" in " ".join(
        said.out.split()
    )
    assert "The target was a mock" in said.out
    assert "rollback: step 1 of 4, traffic" in said.err
    done = rehearsed(tmp_path / "rollouts/first/runs")
    assert [step.state for step in done.steps] == ["fail", "not_run", "not_run", "not_run"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rollout", "../elsewhere"], ["--rollout ../elsewhere"]),
        (["--target", "nowhere"], ["--target", "targets.toml"]),
        (["--target", "http://127.0.0.1:1"], ["nothing answers at http://127.0.0.1:1"]),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = stormgate_here("rollback", "rehearse", *options)
    assert (said.code, said.out) == (USAGE, "")
    assert [word for word in words if word not in said.sentence] == []
    assert list(tmp_path.rglob("*rollback*")) == [], "no folder of a rehearsal that there was none of"


def test_signal_during_a_command_restores_everything(mock: Served, tmp_path: Path) -> None:
    """The terminal is closed while the operator's command, which has done its work, is not over."""
    put = (
        "import sys, time, urllib.request as u; "
        "u.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(), method='PUT')); open(sys.argv[3], 'w').close(); "
        "time.sleep(float(sys.argv[4]))"
    )
    url, sign = f"{mock.url}/_mock/traffic", tmp_path / "done"
    apply = [sys.executable, "-c", put, url, '{"revision": "mock-r1"}', str(sign), "60"]
    file = targets(mock, tmp_path, apply, [*apply[:4], '{"revision": "mock-r2"}', str(tmp_path / "undone"), "0"])
    command = ["rollback", "rehearse", "--target", "theirs", "--targets", file, "--out", tmp_path / "out"]
    with started(*command) as process:
        assert soon(sign.exists, LIMIT_S)
        assert traffic_of(mock)["serving"] == "mock-r1"
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == BROKEN, (out, err)
    assert "the rehearsal was interrupted; everything that it had changed is restored" in err
    done = rehearsed(tmp_path / "out")
    assert (done.state, done.reason, done.steps[0].restored) == ("error", "it was interrupted", True)
    assert traffic_of(mock) == AS_IT_WAS


def test_signal_during_a_canary_check_restores_everything(mock: Served, tmp_path: Path) -> None:
    with started("rollback", "rehearse", "--target", mock.url, "--out", tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("observation: steady"):
                break
        assert traffic_of(mock)["serving"] == "mock-r1"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == BROKEN, (out, err)
    assert "the rehearsal was interrupted; everything that it had changed is restored" in err
    done = rehearsed(tmp_path)
    assert (done.state, done.reason) == ("error", "it was interrupted")
    assert [(step.state, step.restored) for step in done.steps] == [
        *(("pass", True), ("pass", True), ("error", None)),
        ("not_run", None),
    ]
    assert traffic_of(mock) == AS_IT_WAS
