"""A healthy server in other forms than ours is never a breach, and in the same form a real defect is still found by name."""

from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results, running
from drills.runs.request import Request
from sim.base.config import to_struct
from sim.drill.model import Drill
from tests.deceptions import COMMON, DRILLS, TARGET, deceiving
from tests.mutation_table import turned_red
from tests.peers.honest_stranger import FORMS
from tests.storms import OF_TIME

SERVER = "tests.peers.honest_stranger"
SEVERAL = "hash_other,second_form,text_numbers,extras,bare_answers,other_beats,publish_202,publish_bare"
# What a description says of answers that are not where the mock has them.
WITHOUT_POSITION = {"publish_204", "publish_bare", "publish_without_position"}
BARE = 'publish = {{ position = "none", payload_hash = "none" }}\n'
DEFECTS = {"skip_after_resume": "silent_loss", "alter": "altered_payload"}


def judged(folder: Path, forms: str, lie: str = "") -> DrillVerdict:
    """The verdict on a drill of a server in these forms, and with this defect."""
    drill = to_struct({"name": "cut", **COMMON, **DRILLS["cut"]}, Drill, "cut")
    target = TARGET + (BARE if WITHOUT_POSITION & {*forms.split(",")} else "")
    with deceiving(folder, "--forms", forms, "--lie", lie, server=SERVER, target=target) as targets:
        request = Request(
            (drill,), engine="sockets", target="deceiving", seed=1, defects=(), thresholds=None, out=folder, targets=targets
        )
        (verdict,) = results.judge_run(running.run(request)).drills
    return verdict


@pytest.mark.parametrize("forms", [SEVERAL, *(pytest.param(form, marks=pytest.mark.long) for form in FORMS)])
def test_a_form_is_never_a_breach(tmp_path: Path, forms: str):
    verdict = judged(tmp_path, forms)
    assert turned_red(verdict) <= {*OF_TIME}, verdict
    unsaid = {check.name for check in verdict.checks if check.state is State.INCONCLUSIVE and "caught_up" in check.reason}
    assert unsaid <= {"drill.converged", "drill.audited"}
    assert bool(unsaid) == (forms == "no_end")


@pytest.mark.parametrize("lie", DEFECTS)
@pytest.mark.parametrize("forms", [SEVERAL, *(pytest.param(form, marks=pytest.mark.long) for form in FORMS)])
def test_a_form_hides_no_defect(tmp_path: Path, forms: str, lie: str):
    verdict = judged(tmp_path, forms, lie)
    assert DEFECTS[lie] in turned_red(verdict), verdict
    assert verdict.status is State.FAIL
