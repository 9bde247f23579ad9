"""Clients sign in step by step, and their sessions are revoked, on a service that a targets file alone describes."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict
from drills.runs import results
from sim.base.exit_codes import ExitCode
from sim.drill.target_rules import HookReport
from sim.engines.sockets.hooks import HookClient, Reported, read_report
from sim.record.run_header import read_header
from tests.commands import stormgate
from tests.storms import OF_SIZE, OF_TIME
from tests.targets.test_described_service import KEY, rooms

WORD = {"GATE_WORD": "open sesame"}
GATE = """
[[targets.rooms.sign_in]]
path = "/gate"
body = { who = "{account}" }
values = { riddle = "/ask/riddle" }

[[targets.rooms.sign_in]]
method = "PUT"
path = "/gate"
body = { riddle = "{riddle}", who = "{account}", word = "{env:GATE_WORD}" }
values = { session = "/pass", session_id = "/details/0/number" }

[targets.rooms.token]
path = "/gate/ticket"
headers = { X-Pass = "{session}" }
body = { who = "{device}", rooms = "{topics}" }
token = "/ticket"

"""
AT_ONCE = """
[targets.rooms.revoke]
path = "/gate/taken"
body = { some = "{session_ids}" }
count = "/gone"
"""
ONE_BY_ONE = """
[targets.rooms.revoke]
path = "/gate/taken"
headers = { X-Pass = "{session}" }
body = { one = "{session_id}" }
count = "none"
"""
TAKE = """
import json, os, sys, urllib.request
numbers = [client["session_id"] for client in json.load(sys.stdin)["clients"]]
print("taking", len(numbers), "passes")
body = json.dumps({"some": numbers}).encode()
asked = urllib.request.Request(os.environ["STORMGATE_RUNTIME_URL"] + "/gate/taken", body, method="POST")
with urllib.request.urlopen(asked) as answer:
    print(json.dumps({"did": json.load(answer)}))
"""
SHORT = (
    *("fleet.clients=10", "load.events_per_s=8", "phases.steady_s=1", "phases.fault_s=3.5", "faults.0.for_s=2"),
    *("phases.recovery_s=0.5", "phases.settle_s=20"),
)


@contextmanager
def gated(folder: Path, extra: str, *options: str) -> Iterator[Path]:
    """Run the service with its gate; yield a targets file with clients that sign in there."""
    with rooms(folder, "--gate", *options) as targets:
        text = re.sub(
            r"\[targets\.rooms\.token\].*?(?=\[targets\.rooms\.ready\])", lambda _: GATE, targets.read_text(), flags=re.S
        )
        targets.write_text(text + extra)
        yield targets


def hook(folder: Path, script: str = TAKE) -> str:
    """The hook that revokes sessions by a command, with what it reports."""
    (folder / "take.py").write_text(script)
    command = json.dumps([sys.executable, str(folder / "take.py")])
    return f'\n[targets.rooms.hooks.revoke_sessions]\ninject = {command}\nreports = {{ sessions = "/did/gone" }}\n'


def checked(targets: Path, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    said = stormgate("target", "check", "rooms", "--targets", targets, "--json", **{**KEY, **WORD, **environment})
    return said.code, {item["name"]: item for item in json.loads(said.out)["items"]}


def drilled(folder: Path, targets: Path, name: str = "session_revocation") -> tuple[int, DrillVerdict]:
    settings = [part for setting in SHORT for part in ("--set", setting)]
    where = ("--target", "rooms", "--targets", targets, "--out", folder / "out", "--json")
    said = stormgate("drill", "run", name, *where, *settings, **KEY, **WORD)
    assert said.out, said
    (verdict,) = results.judge_run(run_dir(folder)).drills
    return said.code, verdict


def run_dir(folder: Path) -> Path:
    (found,) = (folder / "out").iterdir()
    return found


def states(verdict: DrillVerdict) -> dict[str, str]:
    return {check.name: f"{check.state}: {check.reason}" for check in verdict.checks}


def wrong(verdict: DrillVerdict) -> dict[str, str]:
    """The checks that did not pass, without those that a busy machine or few clients cannot answer."""
    found = {name: said for name, said in states(verdict).items() if name not in OF_TIME and not said.startswith("pass")}
    found = {name: said for name, said in found.items() if name not in OF_SIZE or said.startswith("fail")}
    if not any(what in found.get("drill.revocation", "not") for what in ("not", "let in", "valid session")):
        del found["drill.revocation"]  # a busy machine may disconnect late
    return found


def test_each_step_of_signing_in_is_shown_without_what_it_returned(tmp_path: Path) -> None:
    with gated(tmp_path, AT_ONCE) as targets:
        code, items = checked(targets)
    assert code == ExitCode.GO, items
    assert [items[name]["state"] for name in ("sign_in_1", "sign_in_2", "token", "connect", "revoke")] == ["pass"] * 5
    assert items["sign_in_1"]["answer"] == "200 with riddle"
    assert items["sign_in_2"]["answer"] == "201 with session, session_id"
    assert "token_revoked" in items["revoke"]["answer"]
    said = json.dumps(items)
    assert "pass-" not in said
    assert WORD["GATE_WORD"] not in said


@pytest.mark.parametrize(
    ("right", "wrong", "item", "says"),
    [
        ('riddle = "/ask/riddle"', 'riddle = "/riddle"', "sign_in_1", "/ask/riddle"),
        ('session = "/pass"', 'session = "/own"', "sign_in_2", "/pass"),
        ('who = "{account}", word', 'who = "somebody", word', "sign_in_2", "wrong word"),
        ('headers = { X-Pass = "{session}" }\nbody = { who', "body = { who", "token", "no pass"),
        ('count = "/gone"', 'count = "/all"', "revoke", "gone"),
    ],
)
def test_a_wrong_step_is_named_with_what_to_change(tmp_path: Path, right: str, wrong: str, item: str, says: str) -> None:
    with gated(tmp_path, AT_ONCE) as targets:
        text = targets.read_text()
        assert right in text
        targets.write_text(text.replace(right, wrong, 1))
        code, items = checked(targets)
    assert (code, items[item]["state"]) == (ExitCode.NO_GO, "fail"), items
    assert says in items[item]["answer"]
    later = [name for name in ("sign_in_2", "token") if name > item]
    assert all(items[name]["state"] == "not_run" for name in later if item.startswith("sign_in"))


def test_check_finds_a_service_that_ignores_revocations(tmp_path: Path) -> None:
    with gated(tmp_path, AT_ONCE, "--defect", "ignore_revocations") as targets:
        code, items = checked(targets)
    assert (code, items["revoke"]["state"]) == (ExitCode.NO_GO, "fail")
    assert "still accepted" in items["revoke"]["answer"]


@pytest.mark.parametrize("way", ["at once", "one by one", "hook"])
def test_sessions_are_revoked_on_a_described_service(tmp_path: Path, way: str) -> None:
    extra = {"at once": AT_ONCE, "one by one": ONE_BY_ONE, "hook": hook(tmp_path)}[way]
    with gated(tmp_path, extra) as targets:
        _, verdict = drilled(tmp_path, targets)
    assert not wrong(verdict), verdict
    assert verdict.violations == ()
    found = states(verdict)
    assert ": of 3 revoked clients" in found["drill.revocation"], found
    assert found["drill.negative_clients"].startswith("pass"), found
    if way == "hook":
        (done,) = read_header(results.drill_folder(run_dir(tmp_path), "session_revocation")).hooks
        assert len(done["reported"]["sessions"]) == 4  # three clients, and the negative one


@pytest.mark.parametrize(
    ("way", "defect", "says"),
    [
        ("request", "ignore_revocations", "3 revoked clients were not disconnected"),
        ("hook", "ignore_revocations", "3 revoked clients were not disconnected"),
        ("request", "keep_sockets", "3 revoked clients were not disconnected"),
        ("request", "accept_tickets", "were let in before they signed in again"),
    ],
)
def test_service_that_does_not_heed_revocations_is_red(tmp_path: Path, way: str, defect: str, says: str) -> None:
    with gated(tmp_path, AT_ONCE if way == "request" else hook(tmp_path), "--defect", defect) as targets:
        code, verdict = drilled(tmp_path, targets)
    assert code == ExitCode.NO_GO
    assert states(verdict)["drill.revocation"].startswith("fail"), verdict
    assert says in states(verdict)["drill.revocation"]


@pytest.mark.parametrize(
    ("prints", "says"),
    [
        ("done", "nothing: no line of its output is a JSON table"),
        ('{"did": {}}', "no sessions at /did/gone"),
        ('{"did": {"gone": 7}}', "sessions that are no list of texts: 7"),
        ('{"did": {"gone": ["a", 1]}}', "sessions that are no list of texts"),
        ('{"did": {"gone": []}, "n": -1}', "a count that is neither a number from 0 nor a list: -1"),
        ('{"did": {"gone": []}, "n": true}', "a count that is neither a number from 0 nor a list: True"),
    ],
)
def test_a_report_without_what_it_promises_is_refused(prints: str, says: str) -> None:
    form = HookReport(sessions="/did/gone", count="/n" if '"n"' in prints else "none")
    with pytest.raises(ValueError, match=re.escape(says)):
        read_report(form, f"some words\n{prints}\n".encode())


def test_the_last_line_with_a_table_is_the_report() -> None:
    output = b'{"n": 1}\n{"n": [4, 5], "key": "k2", "devices": ["d1"]}\nand a warning\n'
    found = read_report(HookReport(count="/n", key_id="/key", devices="/devices"), output)
    assert (found.effect, found.key_id, found.devices, found.sessions) == (2, "k2", {"d1"}, None)
    assert found.names(HookClient("d1", "client-1", ""))
    assert not found.names(HookClient("d2", "client-2", ""))
    assert Reported().names(HookClient("d2", "client-2", ""))
    assert (Reported().effect, Reported(sessions=frozenset()).effect, Reported(count=0).effect) == (1, 0, 0)


def test_hook_without_the_promised_report_ends_the_drill(tmp_path: Path) -> None:
    with gated(tmp_path, hook(tmp_path, "print('done')")) as targets:
        settings = [part for setting in SHORT for part in ("--set", setting)]
        where = ("--target", "rooms", "--targets", targets, "--out", tmp_path / "out")
        said = stormgate("drill", "run", "session_revocation", *where, *settings, **KEY, **WORD)
    assert said.code == ExitCode.TOOL, said
    assert "the hook to inject revoke_sessions reported nothing" in said.err + said.out


def test_hook_that_reports_only_others_had_no_effect(tmp_path: Path) -> None:
    with gated(tmp_path, hook(tmp_path, """print('{"did": {"gone": ["somebody else"]}}')""")) as targets:
        code, verdict = drilled(tmp_path, targets)
    assert code != ExitCode.GO
    assert "revoke_sessions #0: had no observed effect" in states(verdict)["drill.faults_observed"]


def test_sessions_are_revoked_only_where_the_file_says_how_and_clients_have_their_own(tmp_path: Path) -> None:
    where = ("--target", "rooms", "--targets", tmp_path / "targets.toml", "--out", tmp_path / "out")
    with gated(tmp_path, "") as targets:
        said = stormgate("drill", "run", "session_revocation", *where, **KEY, **WORD)
        assert said.code == ExitCode.INCONCLUSIVE
        assert "[targets.rooms.revoke]" in said.out
        text = re.sub(r"\[\[targets\.rooms\.sign_in\]\].*?(?=\[targets\.rooms\.token\])", "", targets.read_text(), flags=re.S)
        text = text.replace('kind = "staging"', 'kind = "staging"\nsession_token_env = "GATE_WORD"')
        targets.write_text(text + AT_ONCE)
        said = stormgate("drill", "run", "session_revocation", *where, **KEY, **WORD)
        assert said.code == ExitCode.INCONCLUSIVE
        assert "no client has a session of its own" in said.out


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ('riddle = "{riddle}", who', 'riddle = "{session_id}", who', "step 2: key 'body' has the unknown name {session_id}"),
        ('X-Pass = "{session}"', 'X-Pass = "{own}"', "[targets.rooms.token]: key 'headers' has the unknown name {own}"),
        ('values = { riddle = "/ask/riddle" }', 'values = { account = "/ask/riddle" }', "step 1: key 'values' has the name"),
        ("[[targets.rooms.sign_in]]\nmethod", "[targets.rooms.more]\nmethod", "more"),
    ],
)
def test_wrong_templates_of_steps_are_refused_before_anything_is_sent(
    tmp_path: Path, right: str, wrong: str, says: str
) -> None:
    with gated(tmp_path, AT_ONCE) as targets:
        text = targets.read_text()
        assert right in text
        targets.write_text(text.replace(right, wrong, 1))
        said = stormgate("target", "check", "rooms", "--targets", targets, **KEY, **WORD)
    assert said.code == ExitCode.USAGE
    assert says in said.err
