"""A mutant that no test notices is reported, one that a test notices is counted, and the tree itself is never changed."""

import math
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.mutants import forked
from tests.mutants.__main__ import ENOUGH, PATHS, RED, ROOT, TOO_FEW, USAGE, main, modules, run, sample
from tests.mutants.operators import mutants_of
from tests.mutants.trials import EQUIVALENT, TESTS, equivalents, killers, killers_of

JUDGE = "sim/judge.py"
SOURCE = "def is_late(seconds: float) -> bool:\n    return seconds > 5\n"
GOOD = "from sim.judge import is_late\n\n\ndef test_late():\n    assert is_late(9)\n    assert not is_late(1)\n"
SURVIVORS = ("return seconds >= 5", "return seconds > 6", "return seconds > 4")  # what these tests do not notice
EQUIVALENTS = "\n".join(
    f'[[mutant]]\nmodule = "{JUDGE}"\nwas = "return seconds > 5"\nbecomes = "{line}"\nreason = "planted"' for line in SURVIVORS
)


def planted(root: Path, test: str = GOOD, equivalent: str = "", source: str = SOURCE) -> Path:
    files = {
        JUDGE: source,
        "tests/test_judge.py": test,
        EQUIVALENT: equivalent,
        TESTS: 'libraries = []\ntests.sim = ["tests/test_judge.py"]',
    }
    for name, text in {**files, "pytest.ini": "[pytest]\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def tried(root: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.mutants", "--root", str(root), "sim"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (root / JUDGE).read_text().endswith(SOURCE.splitlines()[-1] + "\n")
    return done.returncode, done.stdout + done.stderr


def test_survivors_are_shown_and_killed_mutants_are_counted(tmp_path: Path):
    code, shown = tried(planted(tmp_path))
    assert code == TOO_FEW
    changed = {line.strip("+ ") for line in shown.splitlines() if line.startswith("+  ")}
    assert {" ".join(line.split()) for line in changed} == set(SURVIVORS)
    assert shown.count("tests/test_judge.py::test_late") == 2  # `<= 5` and `return False`
    assert "2 of 5 real mutants were killed (40.0%)" in shown


NAMED = "from functools import cache\n\nLIMIT = 5\n\n\n@cache\ndef limit() -> int:\n    return LIMIT\n\n\n" + SOURCE


def test_constants_and_what_runs_before_the_tests_are_tried_in_a_fresh_interpreter(tmp_path: Path):
    test = "from sim import judge\n\nEARLY = judge.limit()\n\n\ndef test_limit():\n    assert judge.limit() == EARLY == 5\n"
    _, shown = tried(planted(tmp_path, test=test + GOOD, source=NAMED))
    assert shown.count("tests/test_judge.py::test_limit") == 3  # `LIMIT = 6`, `LIMIT = 4` and `return 0`


def test_mutants_that_loop_or_wait_for_ever_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forked, "_CPU_MORE_S", 0.2)
    monkeypatch.setattr(forked, "_IDLE_S", 0.5)

    def loop() -> None:
        forked.limit_cpu(0.0)
        while True:
            pass

    assert forked.answered(lambda: 1) == 1
    assert forked.answered(loop) == forked.ENDED
    assert forked.answered(lambda: time.sleep(600)) == forked.ENDED


def test_changed_lambdas_and_inner_functions_take_effect(tmp_path: Path):
    source = "def adder(x: int):\n    def add(y: int) -> int:\n        return x + y\n    return lambda z: add(z) * 2\n"
    test = "from sim.judge import adder\n\n\ndef test_add():\n    assert adder(1)(3) == 8\n"
    (planted(tmp_path) / JUDGE).write_text(source)
    (tmp_path / "tests/test_judge.py").write_text(test)
    mutants = [mutant for mutant in mutants_of(tmp_path, JUDGE) if mutant.is_real()]
    trials = run(tmp_path, mutants, math.inf)
    assert {trial.mutant.becomes for trial in trials if trial.outcome == "killed"} >= {
        "return x - y",
        "return lambda z: add(z) / 2",
    }


def test_equivalent_mutants_do_not_count(tmp_path: Path):
    code, shown = tried(planted(tmp_path, equivalent=EQUIVALENTS))
    assert code == ENOUGH
    assert "2 of 2 real mutants were killed (100.0%)" in shown


def test_tests_that_fail_without_a_mutant_kill_none(tmp_path: Path):
    code, shown = tried(planted(tmp_path, test=GOOD.replace("not is_late", "is_late")))
    assert code == RED
    assert "killed" not in shown


def test_a_path_without_modules_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--root", str(planted(tmp_path)), "sim/missing.py"]) == USAGE
    assert "sim/missing.py" in capsys.readouterr().err


def test_the_same_seed_samples_the_same_mutants_of_every_module():
    names = modules(ROOT, ["sim/analysis/invariants"])
    first, again, other = (list(islice(sample(ROOT, names, seed), len(names))) for seed in (1, 1, 2))
    assert first == again != other
    assert {mutant.module for mutant in first} == set(names)


def test_declarations_and_guards_are_left_alone(tmp_path: Path):
    source = (
        "@cache(size=4)\ndef f(x: int | None = 1, *, y: 'A | B') -> list[int] | None:\n    z: int | str = x\n    return z\n"
        "class C(B, frozen=True):\n    pass\n"
        "for a, b in zip(c, d, strict=True):\n    pass\n"
    )
    (tmp_path / "m.py").write_text(source)
    assert {mutant.becomes for mutant in mutants_of(tmp_path, "m.py")} == {
        "def f(x: int | None = 2, *, y: 'A | B') -> list[int] | None:",
        "def f(x: int | None = 0, *, y: 'A | B') -> list[int] | None:",
        "return None",
        "for a, b in []:",
    }


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("x.append(1)", "pass"),
        ("x += y", "pass"),
        ("raise ValueError(y)", "pass"),
        ("return [z for z in x if z]", "return [z for z in x if True]"),
        ("return y in x", "return y not in x"),
        ("return y not in x", "return y in x"),
        ("return y", "return []"),
    ],
)
def test_what_cosmic_ray_does_not_change(tmp_path: Path, line: str, becomes: str):
    (tmp_path / "m.py").write_text(f"def f(x, y) -> list:\n    {line}\n")
    assert becomes in {" ".join(mutant.becomes.split()) for mutant in mutants_of(tmp_path, "m.py") if mutant.is_real()}


def test_exceptions_with_a_dot_in_their_name_are_no_reason_to_fail(tmp_path: Path):
    (tmp_path / "m.py").write_text("try:\n    f(1)\nexcept (a.B, C):\n    pass\n")
    assert {mutant.operator for mutant in mutants_of(tmp_path, "m.py") if mutant.is_real()} >= {"DeleteStatement"}


def test_the_tests_of_every_module_exist():
    tests = {test for name in modules(ROOT, PATHS) for test in killers_of(ROOT, name)}
    assert sorted(test for test in tests if not (ROOT / test.partition("::")[0]).exists()) == []
    assert sorted(path for path in killers(ROOT)["tests"] if not (ROOT / path).exists()) == []


def test_equivalent_mutants_are_of_lines_that_exist():
    known = equivalents(ROOT)
    sources = {module: [line.strip() for line in (ROOT / module).read_text().splitlines()] for module, _, _ in known}
    assert [row for row in known if not {line.strip() for line in row[1].splitlines()} <= set(sources[row[0]])] == []
    assert [row for row, reason in known.items() if not reason] == []
