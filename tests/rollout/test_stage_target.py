"""What counts as the configuration of a target: all that was said of it but its secrets."""

from pathlib import Path

import pytest

from drills.rollout.setup import stage_target

GOOD = """
[targets.theirs]
kind = "mock"
runtime_url = "http://127.0.0.1:9"
control_url = "http://127.0.0.1:9"
[targets.theirs.prometheus]
url = "http://127.0.0.1:9"
token_env = "THEIR_TOKEN"
expressions = { "mirror.failed_total" = "x" }
"""


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_TOKEN", "s3cret")


@pytest.mark.parametrize(
    "change",
    [
        ('expressions = { "mirror.failed_total" = "x" }', 'expressions = { "mirror.failed_total" = "y" }'),
        ("token_env =", "max_age_s = 60\ntoken_env ="),
        ("[targets.theirs.prometheus]", '[targets.theirs.revisions]\nruntime = ["true"]\n[targets.theirs.prometheus]'),
        (
            "[targets.theirs.prometheus]",
            '[targets.theirs.rollback.throttle]\napply = ["true"]\nrestore = ["true"]\n[targets.theirs.prometheus]',
        ),
        ('control_url = "http://127.0.0.1:9"', 'control_url = "http://127.0.0.1:10"'),
    ],
)
def test_whatever_is_changed_in_it_shows(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(GOOD)
    found = stage_target.resolve("theirs", path)
    assert found.configuration_now() == found.configuration()
    path.write_text(GOOD.replace(*change))
    assert found.configuration_now() != found.configuration()


def test_a_secret_that_is_changed_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(GOOD)
    found = stage_target.resolve("theirs", path)
    monkeypatch.setenv("THEIR_TOKEN", "an0ther-s3cret")
    assert found.configuration_now() == found.configuration()
