"""The check of commands in documents: it finds every command, and every way in which one can be wrong."""

from pathlib import Path

import pytest

from drills.cli import docs_check

RIGHT = """# Read me

```
make drill
.venv/bin/stormgate mock defects      # list them
.venv/bin/stormgate drill run reconnect_storm --clients 10
```

```console
$ stormgate stage hold 1 --target staging \\
    --rollout november --json | jq .decision
$ python -m drills drill show parity
stormgate --version && stormgate bogus
```

```text
stormgate is no command here
```
"""


def tried(folder: Path, text: str) -> list[docs_check.Tried]:
    (folder / "README.md").write_text(text)
    (folder / "Makefile").write_text("drill: x\n")
    return docs_check.check(folder / "README.md")


def test_right_commands_have_no_problem(tmp_path: Path):
    found = tried(tmp_path, RIGHT)
    assert [each.problem for each in found] == [""] * 6
    assert [each.line for each in found] == [4, 5, 6, 11, 12, 13]
    assert found[3].text.endswith("--target staging --rollout november --json | jq .decision")


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("make drill", "make drills", "no target drills"),
        ("reconnect_storm", "reconnect_sturm", "exit code 3"),
        ("mock defects", "mock defcts", "No such command"),
        ("show parity", "show purity", "exit code 3"),
        ("--clients 10", "--cleints 10", "No such option"),
        ("--clients 10", "--clients ten", "a valid integer"),
        ("--rollout november", "--rollouts november", "No such option"),
        ("stage hold 1", "stage hold", "Missing argument 'STAGE'"),
    ],
)
def test_wrong_command_is_found(tmp_path: Path, right: str, wrong: str, words: str):
    assert any(words in each.problem for each in tried(tmp_path, RIGHT.replace(right, wrong)))


def test_missing_document_or_one_without_commands_does_not_pass(tmp_path: Path):
    (tmp_path / "EMPTY.md").write_text("no commands\n")
    assert docs_check.main([str(tmp_path / "none.md")]) == 2
    assert docs_check.main([str(tmp_path / "EMPTY.md")]) == 2


def test_several_documents_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, command in (("a.md", "stormgate drill list"), ("b.md", "stormgate drill lists")):
        (tmp_path / name).write_text(f"```sh\n{command}\n```\n")
    assert docs_check.main([str(tmp_path / "a.md")]) == 0
    assert docs_check.main([str(tmp_path / "a.md"), str(tmp_path / "b.md")]) == 1
    assert "2 commands, 1 of them wrong" in capsys.readouterr().out.splitlines()[-1]


def test_files_that_a_document_writes_are_there_for_its_commands(tmp_path: Path):
    text = "```sh\ncat > mine.toml <<'END'\n{}END\nstormgate gates list --thresholds mine.toml\n```\n"
    thresholds = (docs_check.DATA / "thresholds.toml").read_text()
    assert [each.problem for each in tried(tmp_path, text.format(thresholds))] == [""]
    assert "exit code 3" in tried(tmp_path, text.format("[no.such]\n"))[0].problem
