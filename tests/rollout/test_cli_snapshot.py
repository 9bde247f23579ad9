"""`stormgate snapshot`: one sentence per error, exit codes, and evidence that survives an interruption."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.rollout.servers import sampler
from drills.rollout.setup.records import SNAPSHOTS
from sim.server.deployment import Deployment
from tests.commands import LIMIT_S, Said, children_of, free_port, started, stormgate, stormgate_here
from tests.pages import Page, pages
from tests.served import Served, serving

REVISION = Deployment().revision
OK, INCONCLUSIVE, USAGE, STORAGE = 0, 2, 3, 4


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("mock")) as served:
        yield served


@pytest.fixture(autouse=True)
def working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def taken(*options: object) -> Said:
    return stormgate_here("snapshot", *options)


def refused(said: Said, code: int, *words: str) -> None:
    assert (said.code, said.out) == (code, ""), said
    assert [word for word in words if word not in said.sentence] == [], said.sentence


def test_one_snapshot_of_each_source(mock: Served, tmp_path: Path) -> None:
    said = taken("--target", mock.url, "--json")
    assert (said.code, said.err, said.out.count("\n")) == (OK, "", 1)
    answer = json.loads(said.out)
    assert (answer["schema"], answer["target_kind"]) == (1, "mock")
    folder = tmp_path / answer["folder"]
    assert folder.parent == tmp_path / "results" / "snapshots"
    assert [(each.source, each.outcome, each.profile) for each in sampler.read(folder)] == [
        ("metrics", "ok", "full"),
        ("control", "ok", ""),
    ]
    metrics, control = answer["snapshots"]
    assert (metrics["revisions"]["runtime"], control["revisions"]["control"]) == (REVISION, REVISION)


def test_one_source_does_not_depend_on_the_others(mock: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_ADMIN_TOKEN", "wr0ng-s3cret")
    assert taken("--target", mock.url, "--source", "metrics").code == INCONCLUSIVE
    said = taken("--target", mock.url, "--source", "control")
    assert said.code == OK
    assert "metrics:" not in said.out
    refused(taken("--target", mock.url, "--source", "prometheus"), USAGE, "--source prometheus", "has none")
    refused(taken("--target", mock.url, "--source", "logs"), USAGE, "--source", "prometheus")


def test_answers_are_printed_in_words(mock: Served, tmp_path: Path) -> None:
    said = taken("--target", mock.url, "--out", tmp_path / "kept")
    assert said.code == OK
    for words in (
        "metrics: ok (http://",
        f"profile full, revision {REVISION}",
        "delivery.max_replay_lag 0 (the depth of the fullest retained window, not a client's lag)",
        "control: ok",
        "sync.token.issued 0",
        f"evidence: {tmp_path / 'kept'}",
    ):
        assert words in said.out


def test_snapshots_at_intervals_end_and_can_be_continued(mock: Served, tmp_path: Path) -> None:
    command = ("--target", mock.url, "--every", 1, "--for", 1, "--out", tmp_path / "kept")
    said = taken(*command)
    assert said.code == OK, said
    assert "metrics: ok, " in said.out
    before = len(sampler.read(tmp_path / "kept"))
    assert before in (2, 4), "two polls, or one if the machine was too busy for the second"
    assert taken(*command).code == OK
    assert [each.n for each in sampler.read(tmp_path / "kept")][before] == before + 1


def test_embedded_mock_is_started_and_stopped(tmp_path: Path) -> None:
    said = stormgate("snapshot", "--target", "mock", "--out", tmp_path / "kept", "--json")
    assert said.code == OK, said
    assert json.loads(said.out)["target"] == "embedded mock"
    assert [each.outcome for each in sampler.read(tmp_path / "kept")] == ["ok", "ok"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_keeps_the_snapshots_and_stops_the_mock(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "kept"
    with started("snapshot", "--target", "mock", "--every", 1, "--for", 600, "--out", folder) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("snapshot 2 at ")
        (child,) = children_of(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == STORAGE
    assert f"the snapshots taken so far are in {folder}" in err
    assert "stormgate: interrupted." in err
    assert "Traceback" not in err
    assert [each.outcome for each in sampler.read(folder)][:2] == ["ok", "ok"]
    assert not Path(f"/proc/{child}").exists()


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--target"]),
        (["--target", "mock", "--every", 5], ["--every and --for"]),
        (["--target", "mock", "--for", 5], ["--every and --for"]),
        (["--target", "mock", "--every", 0.5, "--for", 5], ["--every 0.5 --for 5", "at least 1 s"]),
        (["--target", "mock", "--every", 5, "--for", 4], ["--every 5 --for 4"]),
        (["--target", "mock", "--every", 5, "--for", "inf"], ["--for inf"]),
        (["--target", "mock", "--every", "nan", "--for", 9], ["--every nan"]),
        (["--target", "mock", "--every", "often", "--for", 9], ["--every"]),
        (["--target", "staging"], ["--target", "targets.toml"]),
        (["--target", "staging", "--targets", "none.toml"], ["none.toml", "no such file"]),
        (["--target", "http://example.com"], ["must be on this machine"]),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, options: list[object], words: list[str]) -> None:
    refused(taken(*options), USAGE, *words)
    assert list(tmp_path.iterdir()) == []


def test_unknown_metric_in_the_targets_file_is_refused_before_any_request(mock: Served, tmp_path: Path) -> None:
    targets = tmp_path / "targets.toml"
    targets.write_text(
        f'[targets.ours]\nkind = "mock"\nruntime_url = "{mock.url}"\ncontrol_url = "{mock.url}"\n'
        '[targets.ours.prometheus]\nurl = "http://127.0.0.1:9"\nexpressions = { "mirror.lost_total" = "x" }\n'
    )
    refused(taken("--target", "ours"), USAGE, "mirror.lost_total", "unknown metric")
    assert [path.name for path in tmp_path.iterdir()] == ["targets.toml"]


def test_dead_target_is_refused_and_recorded(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = taken("--target", url, "--out", tmp_path / "kept")
    assert said.code == USAGE
    assert said.sentence == f"nothing answers at {url}; start it there, or correct this target's addresses."
    assert [each.outcome for each in sampler.read(tmp_path / "kept")] == ["unreachable", "unreachable"]


def test_answers_without_data_are_inconclusive(tmp_path: Path) -> None:
    with pages(lambda _: Page(b"<html>sign in</html>", kind="text/html")) as url:
        said = taken("--target", url)
    assert said.code == INCONCLUSIVE
    assert "metrics: no_json" in said.out
    assert "control: no_json" in said.out


def test_wrong_token_is_inconclusive(mock: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_ADMIN_TOKEN", "wr0ng-s3cret")
    said = taken("--target", mock.url)
    assert said.code == INCONCLUSIVE
    assert "metrics: http_401" in said.out
    assert "control: ok" in said.out


def test_unwritable_folder_is_refused(mock: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(taken("--target", mock.url, "--out", tmp_path / "file" / "kept"), STORAGE, "cannot be written", "another folder")


def test_folder_with_damaged_snapshots_is_not_continued(mock: Served, tmp_path: Path) -> None:
    (tmp_path / SNAPSHOTS).write_text("{}\n")
    refused(taken("--target", mock.url, "--out", tmp_path), STORAGE, "line 1 is not a snapshot")


def test_second_sampler_of_a_folder_is_refused(mock: Served, tmp_path: Path) -> None:
    from sim.base.clocks import SystemClock

    with sampler.Sampler(tmp_path, (), SystemClock()):
        refused(taken("--target", mock.url, "--out", tmp_path), USAGE, "another stormgate samples into this folder")
