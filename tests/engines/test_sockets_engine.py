"""The sockets engine, end to end: small drills over real processes and sockets."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from drills.judging.checks.verdicts import DrillVerdict
from drills.runs import results
from sim.base.errors import StorageError, TargetError, UsageError
from sim.client import notices
from sim.client.actions import Token
from sim.drill.fault_kinds import ShrinkWindow
from sim.drill.model import Drill
from sim.engines.shared import metrics_book, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.sockets import engine
from sim.engines.sockets.http import ServiceHttp
from sim.record.observations import Kind
from sim.record.parquet import CHUNK_FOLDER, FILE_NAME
from sim.record.run_header import RunHeader, read_header, read_verified
from sim.service.forms import ServiceForms
from tests.storms import OF_TIME, red, run_all, small, storm, troubles


def columns(folder: Path) -> tuple[RunHeader, list[dict]]:
    header, recorded = read_verified(folder)
    return header, recorded.table().to_pylist()


def judged(run_dir: Path) -> DrillVerdict:
    (verdict,) = results.judge_run(run_dir).drills
    return verdict


def folder_of(run_dir: Path, drill: Drill) -> Path:
    return results.drill_folder(run_dir, drill.name)


def backoffs(rows: list[dict]) -> dict[tuple[int, int], tuple[int, float, str]]:
    """Each client's n-th backoff: the policy's own count, the delay, the reason."""
    seen: Counter[int] = Counter()
    found = {}
    for row in rows:
        if row["kind"] == Kind.BACKOFF:
            seen[row["client"]] += 1
            found[row["client"], seen[row["client"]]] = (row["attempt"], row["value"], row["detail"])
    return found


def test_everything_acknowledged_is_applied_by_everyone_once_and_runs_repeat_by_their_seed(tmp_path: Path):
    drill = small("reconnect_storm")
    one, two = (run_all(tmp_path / name, drill) for name in ("one", "two"))
    assert troubles(judged(one)) == []
    header, rows = columns(folder_of(one, drill))
    conservation(header, rows)
    other_header, other_rows = columns(folder_of(two, drill))
    assert other_header.plan == header.plan
    assert other_header.subscriptions == header.subscriptions
    delays, others = backoffs(rows), backoffs(other_rows)
    common = delays.keys() & others.keys()
    assert len(common) >= 2 * drill.fleet.clients
    assert {key: delays[key] for key in common} == {key: others[key] for key in common}
    left = sorted(path.name for path in folder_of(one, drill).iterdir())
    assert left == ["drill.json", FILE_NAME, "run.json", "runtime.log", metrics_book.FILE_NAME]
    assert (folder_of(one, drill) / "runtime.log").read_text() == ""


def conservation(header: RunHeader, rows: list[dict]) -> None:
    """Published, applied and settled add up, client by client and stream by stream."""
    published = {(row["stream"], row["seq"]) for row in rows if row["kind"] == Kind.PUBLISHED}
    heads = Counter(stream for stream, _ in published)
    assert published == {(stream, seq) for stream, head in heads.items() for seq in range(1, head + 1)}
    applied = Counter((row["client"], row["stream"], row["seq"]) for row in rows if row["kind"] == Kind.APPLIED)
    assert set(applied.values()) == {1}
    starts = {
        (row["client"], row["stream"]): row["seq"]
        for row in rows
        if row["kind"] == Kind.REBOOTSTRAPPED and row["detail"] == "fresh"
    }
    for client, streams in header.subscriptions.items():
        for stream in streams:
            start = starts.get((int(client), stream), 0)
            wanted = {(int(client), stream, seq) for seq in range(start + 1, heads[stream] + 1)}
            assert wanted == {key for key in applied if key[:2] == (int(client), stream)}
    settled = {row["client"] for row in rows if row["kind"] == Kind.SETTLED}
    assert settled == {int(client) for client in header.subscriptions}
    cut = [row["value"] for row in rows if row["kind"] == Kind.FAULT_OBSERVED]
    assert len(cut) == 2
    assert min(cut) >= 1


def test_a_steady_state_that_is_never_reached_is_an_error_and_nothing_is_broken(tmp_path: Path):
    """A runtime that drops everybody at once for being silent."""
    silent = ("runtime.client_timeout_s=0.01", "phases.steady_limit_s=0.5", "phases.settle_s=1")
    verdict = storm(tmp_path, small("reconnect_storm", "phases.steady_s=0.3", *silent))
    states = {check.name: check.state for check in verdict.checks}
    assert states["drill.steady_state"] == "error"
    assert states["drill.faults_observed"] == "error"
    assert verdict.status != "pass"


def test_a_generator_that_cannot_keep_up_measures_itself(tmp_path: Path):
    """Its own callback blocks the event loop: the drill says so, and passes nothing off as the runtime's latency."""
    drill = small("reconnect_storm", "fleet.clients=10")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)

    def block(phase: str, text: str) -> None:
        if phase in ("fault", "recovery"):
            time.sleep(1.5)

    folder = results.create_drill_folder(run_dir, drill)
    header = engine.run(drill, engine.Options(folder, progress=block, run_id=run_dir.name))
    assert header.complete
    verdict = judged(run_dir)
    (lag,) = (check for check in verdict.checks if check.name == "drill.generator_lag_ms")
    assert (lag.state, "saturated" in lag.reason) == ("error", True)
    assert verdict.status == "error"


def test_what_a_message_does_is_computed_once_for_all_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    computed: Counter[str] = Counter()
    compute = notices.run_of

    def counted(*arguments):
        computed["messages"] += 1
        return compute(*arguments)

    monkeypatch.setattr(notices, "run_of", counted)
    folder = results.create_drill_folder(run_dir := tmp_path / "run", drill := small("reconnect_storm"))
    engine.run(drill, engine.Options(folder, run_id=run_dir.name))
    _, rows = columns(folder)
    received = sum(row["kind"] == Kind.RECEIVED for row in rows)
    assert 0 < computed["messages"] < received / 4, "40 clients get the same messages"


def test_a_fault_that_does_nothing_proves_nothing(tmp_path: Path):
    """A window of 1000 that is shrunk to 900 when it holds fewer forgets nothing."""
    drill = small("dropped_delivery", "fleet.clients=10")
    idle = Drill(
        **{**{f: getattr(drill, f) for f in drill.__struct_fields__}, "faults": (ShrinkWindow(at_s=0.0, keep_events=900),)}
    )
    verdict = storm(tmp_path, idle)
    states = {check.name: check.state for check in verdict.checks}
    assert states["drill.faults_observed"] == "error"
    assert verdict.status != "pass"
    assert red(verdict) <= set(OF_TIME)


def test_a_defect_of_ours_in_a_callback_ends_the_run_as_one_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self: object, socket: object, data: bytes, is_text: bool) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr(engine.ClientDriver, "socket_message", broken)
    drill = small("reconnect_storm", "fleet.clients=3")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    with pytest.raises(ZeroDivisionError):
        engine.run(drill, engine.Options(results.create_drill_folder(run_dir, drill)))
    assert judged(run_dir).status == "error"


def test_a_disk_that_fails_in_the_middle_heals_ends_and_says_so(tmp_path: Path):
    """From the fault phase on there is no folder any more to write to."""
    drill = small("dropped_delivery", "fleet.clients=5", "phases.steady_s=0.5")
    run_dir = results.create_run(tmp_path, [drill], engine="sockets", target="embedded mock", target_kind="mock", seed=1)
    folder = results.create_drill_folder(run_dir, drill)
    seen = []

    def spoil(phase: str, text: str) -> None:
        seen.append(phase)
        if phase == "fault":
            (folder / CHUNK_FOLDER).rename(folder / "kept")
            (folder / CHUNK_FOLDER).write_text("no folder any more")

    with pytest.raises(StorageError, match="observations cannot be written"):
        engine.run(drill, engine.Options(folder, progress=spoil))
    assert seen[-1] == "recovery", "it healed, and did not go on for nothing"
    assert "cannot be written" in read_header(folder).stopped_because
    assert judged(run_dir).status == "error"


def test_what_this_machine_or_target_cannot_do_is_said_before_anything_starts():
    endpoints = Endpoints("l", "mock", "http://127.0.0.1:9", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="2000000 clients need about 2000200 file descriptors"):
        engine.check(small("reconnect_storm", "fleet.clients=2000000"), None)
    with pytest.raises(UsageError, match="kills the service's process"):
        engine.check(small("runtime_restart"), endpoints)
    with pytest.raises(UsageError, match="sets token lifetimes"):
        engine.check(small("token_lifetime"), endpoints)
    engine.check(small("control_outage"), endpoints)
    with pytest.raises(TargetError, match="nothing answers at"):
        engine.check_service(endpoints)


def test_no_sessions_are_revoked_on_a_service_that_is_not_ours():
    async def revoke() -> None:
        theirs = Endpoints(
            "theirs", "staging", "http://127.0.0.1:9", "http://127.0.0.1:9", forms=ServiceForms(revoke=None), session="s3cret"
        )
        http = ServiceHttp(theirs)
        try:
            await http.ask(service_api.revoke, [Token("text", 1.0, 2.0, session_id="a")])
        finally:
            await http.close()

    with pytest.raises(TargetError, match=r"target theirs has no \[revoke\] request"):
        asyncio.run(revoke())


def test_endpoints_never_show_their_session():
    assert "s3cret" not in repr(Endpoints("l", "staging", "http://r", "http://c", session="s3cret"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_to_happen_on_a_signal_happens_again_afterwards(number: signal.Signals, tmp_path: Path):
    gone = Endpoints("gone", "mock", "http://127.0.0.1:9", "http://127.0.0.1:9")
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(TargetError):
            engine.run(small("reconnect_storm"), engine.Options(tmp_path, endpoints=gone))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
