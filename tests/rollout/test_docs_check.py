"""The check of the documents: it finds every command, and each way in which one can be wrong."""

from pathlib import Path

import pytest

from drills.cli import docs_check

RIGHT = """# Read me

```
make drill
.venv/bin/stormgate mock defects      # what there is
.venv/bin/stormgate drill run reconnect_storm --clients 10
stormgate drill run NAME...           run drills; --clients N,
                                      --seed N
```
"""


def tried(folder: Path, text: str) -> list[docs_check.Tried]:
    (folder / "README.md").write_text(text)
    (folder / "Makefile").write_text("drill: x\n")
    return docs_check.check(folder / "README.md")


def test_right_commands_are_run_as_far_as_they_do_no_harm(tmp_path: Path):
    found = tried(tmp_path, RIGHT)
    assert [each.trouble for each in found] == [""] * 4
    assert [each.how for each in found] == [
        "the Makefile's target drill",
        "stormgate mock defects",
        "stormgate drill run reconnect_storm --clients 10 --dry-run",
        "stormgate drill run --help",
    ]
    assert [each.shown.line for each in found] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("make drill", "make drills", "no target drills"),
        ("reconnect_storm", "reconnect_sturm", "exit code 3"),
        ("mock defects", "mock defcts", "no such command"),
        ("--seed N", "--seeds N", "has no --seeds"),
        ("--clients 10", "--cleints 10", "exit code 3"),
    ],
)
def test_a_wrong_command_is_found(tmp_path: Path, right: str, wrong: str, words: str):
    assert any(words in each.trouble for each in tried(tmp_path, RIGHT.replace(right, wrong)))


def test_a_document_that_is_not_there_or_shows_nothing_is_no_pass(tmp_path: Path):
    (tmp_path / "EMPTY.md").write_text("no commands\n")
    assert docs_check.main([str(tmp_path / "none.md")]) == 2
    assert docs_check.main([str(tmp_path / "EMPTY.md")]) == 2
