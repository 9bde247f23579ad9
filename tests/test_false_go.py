"""Ways to a go that should be none: each was one once, or nearly."""

import asyncio
import hashlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drills.judging import gates
from drills.judging.checks.verdicts import DrillVerdict, State
from drills.runs import results
from sim.base.errors import EvidenceError, StorageError
from sim.client import policies
from sim.client.session import Session
from sim.drill.fault_kinds import AnyFault, DropSockets, ShrinkReplayBudget
from sim.drill.fault_lifecycle import Completion
from sim.drill.fault_schedule import PlannedFault
from sim.drill.model import Drill, Load, Phases
from sim.engines.shared import client_setup, service_api
from sim.engines.shared.endpoints import Endpoints
from sim.engines.shared.publishing import Try
from sim.engines.shared.service_api import PublishedEvent, PublishFailedError
from sim.engines.sockets import engine
from sim.engines.sockets.faults import ServiceProcess, SocketsFaultActions
from sim.engines.sockets.http import ServiceHttp
from sim.engines.sockets.publisher import Publisher
from sim.mock.process import MockProcess
from sim.protocols.payloads import canonical_json, payload_hash
from sim.protocols.spacetime.streams import CODEX_WORKER_EVENTS, run_events, stream_id
from sim.record.columns import Columns
from sim.record.observations import SCHEMA, Kind
from sim.record.parquet import FILE_NAME, Recorder, read
from sim.record.run_header import HEADER_NAME, read_header, write_header
from sim.server.settings import RuntimeSettings
from sim.service.requests import Answer, Request
from tests.histories import AUDITOR, STREAM, Story, good_storm, storm_drill
from tests.served import serving
from tests.storms import red, run_all, storm

ENOUGH = ("delivery.dropped_deliveries", "ux.integrity")
WORKERS = stream_id(CODEX_WORKER_EVENTS)
EVENT_KINDS = (Kind.PUBLISHED, Kind.APPLIED, Kind.CHECKPOINT_WRITTEN, Kind.REBOOTSTRAPPED)

# --- evidence that was never written ----------------------------------------------------------------


def test_rows_that_the_writer_could_not_make_sense_of_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread died of anything but a disk's trouble, and the run was sealed as whole without those rows."""
    recorder = Recorder(tmp_path)
    recorder.add(0.5, "phase", detail="steady")
    recorder.flush()

    def fails(_: Columns) -> None:
        raise ValueError("columns of different lengths")

    monkeypatch.setattr(Columns, "table", fails)
    recorder.add(1.0, "gap", 1, "runtime.run.1.events", 7)
    with pytest.raises(StorageError, match="different lengths"):
        recorder.seal()


@pytest.mark.parametrize("name", ["observations.partial", "observations/000001.parquet"])
def test_what_vanished_meanwhile_is_missed_or_not_needed(tmp_path: Path, name: str):
    recorder = Recorder(tmp_path)
    for t in range(3):
        recorder.add(float(t), "phase", detail="steady")
        recorder.flush()
    while not (tmp_path / "observations" / "000002.parquet").exists():
        pass
    (tmp_path / name).unlink()
    if name == "observations.partial":
        with pytest.raises(StorageError, match="cannot be written"):
            recorder.seal()
    else:
        assert recorder.seal()[1] == read(tmp_path).num_rows == 3


def test_a_chunk_that_was_never_written_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Columns, "table", lambda columns: SCHEMA.empty_table())
    recorder = Recorder(tmp_path)
    recorder.add(1.0, "phase", detail="steady")
    with pytest.raises(StorageError, match="0 rows were written where 1 were observed"):
        recorder.seal()


# --- what went wrong behind the engine's back -------------------------------------------------------


def tiny(*faults: AnyFault, **load: Any) -> Drill:
    """A drill of a second or two over real processes and sockets."""
    phases = Phases(steady_s=0.3, fault_s=0.5, recovery_s=0.2, settle_s=5.0)
    return msgspec.structs.replace(
        storm_drill(clients=4, checks=("delivery.dropped_deliveries",)),
        phases=phases,
        load=Load(events_per_s=40.0, **load),
        faults=faults or (DropSockets(at_s=0.0),),
    )


def test_a_sampler_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exception lay in a task that nobody asked, and what it should have sampled was simply not there."""

    def fails(*_: object) -> None:
        raise LookupError("the sampler died")

    monkeypatch.setattr(client_setup, "lag_events", fails)
    with pytest.raises(LookupError, match="the sampler died"):
        run_all(tmp_path, tiny())


def test_a_publisher_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Publisher._publish

    def fails(self: Publisher, due: Try) -> Coroutine[Any, Any, None]:
        if int(due.event.key.rpartition("-")[2]) > 10:
            raise LookupError("the publisher died")
        return publish(self, due)

    monkeypatch.setattr(Publisher, "_publish", fails)
    with pytest.raises(LookupError, match="the publisher died"):
        run_all(tmp_path, tiny())


async def killed(process: MockProcess) -> float:
    await process.kill()
    return 1


def test_a_runtime_that_dies_in_the_storm_is_not_quietly_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Healing started it again, and everybody came back: a crash under load was a pass."""
    processes: list[MockProcess] = []
    init, revert = ServiceProcess.__init__, SocketsFaultActions.revert

    def remember(self: ServiceProcess, http: ServiceHttp, process: MockProcess, *rest: Any) -> None:
        processes.append(process)
        init(self, http, process, *rest)

    def and_the_runtime_dies(self: SocketsFaultActions, fault: PlannedFault) -> Completion:
        revert(self, fault)
        return self._driver.carry_out(killed(processes[0]))

    monkeypatch.setattr(ServiceProcess, "__init__", remember)
    monkeypatch.setattr(SocketsFaultActions, "revert", and_the_runtime_dies)
    assert "runtime_died" in red(storm(tmp_path, tiny()))


def test_a_fault_does_not_mend_what_is_wrong_with_the_target(tmp_path: Path) -> None:
    """The engine put its own idea of a healthy runtime in force, and the target's defects were gone before they could show."""
    with serving(tmp_path / "mock", defects=["duplicate_delivery"], mint_delay_ms=1.0) as mock:
        endpoints = Endpoints(mock.url, "mock", mock.url, mock.url)
        folder = tmp_path / "drill"
        fault = ShrinkReplayBudget(at_s=0.0, events=7, for_s=0.2)
        header = engine.run(tiny(fault), engine.Options(folder, endpoints=endpoints))
        left = mock.state()["switches"]
    assert header.complete
    assert header.defects == left["defects"] == ["duplicate_delivery"]
    assert (left["mint_delay_ms"], left["shrunk_budget_events"]) == (1.0, 0)


# --- evidence that looks well -----------------------------------------------------------------------


def judged(story: Story, **expect: Any) -> DrillVerdict:
    return gates.judge(storm_drill(checks=ENOUGH, **expect), story.history(), gates.load_thresholds(), "observations.parquet")


def states(story: Story, **expect: Any) -> dict[str, str]:
    """What is not a pass, by name; broken laws are `law`."""
    verdict = judged(story, **expect)
    return {check.name: str(check.state) for check in verdict.checks if check.state is not State.PASS} | {
        violation.invariant: "law" for violation in verdict.violations
    }


def invariants(story: Story) -> set[str]:
    return {violation.invariant for violation in judged(story).violations}


def test_a_storm_that_went_well_is_a_pass() -> None:
    assert states(good_storm()) == {}


def test_a_runtime_that_calls_everybody_stale_is_no_recovery() -> None:
    """It never replays: everyone is told to take a snapshot, and what a snapshot covers counts as delivered."""
    story = good_storm()
    for client in range(story.clients):
        story.tell(22.0, Kind.STALE, client, STREAM, 250, value=10.0, detail="replay_budget_exceeded")
        story.tell(22.1, Kind.SUBSCRIBED, client, value=10.0)
    assert states(story)["drill.unexpected_stale"] == "fail"
    assert "drill.unexpected_stale" not in states(story, stale_reasons=("replay_budget_exceeded",))


def test_connections_lost_while_nothing_is_broken_count() -> None:
    """A runtime that dies in peace and is back in a second looked like one that never did."""
    for t in (10.0, 40.0):
        story = good_storm()
        story.tell(t, Kind.DISCONNECTED, 3, detail="network").tell(t + 0.5, Kind.SUBSCRIBED, 3, value=10.0)
        assert states(story) == {"drill.undisturbed": "fail"}


def test_tokens_that_are_renewed_all_the_time_are_no_peace() -> None:
    """A control service has every client renew its token each second: everybody was cut for ever, and that was well."""

    def renewing(every_s: float) -> Story:
        story = good_storm().tell(8.0, Kind.TOKEN_MINTED, 3, value=4.0)
        story.tell(8.0 + every_s, Kind.DISCONNECTED, 3, detail="token_refresh_due")
        return story.tell(8.2 + every_s, Kind.SUBSCRIBED, 3, value=10.0)

    drill = msgspec.structs.replace(storm_drill(checks=ENOUGH), runtime=RuntimeSettings(token_ttl_s=60))
    for every_s, state in ((1.0, State.FAIL), (30.0, State.PASS)):
        verdict = gates.judge(drill, renewing(every_s).history(), gates.load_thresholds(), "observations.parquet")
        (found,) = [check for check in verdict.checks if check.name == "drill.undisturbed"]
        assert found.state is state, found.reason


def test_a_storm_that_hit_a_few_is_none() -> None:
    few = good_storm().changed(lambda row: row.kind is Kind.FAULT_OBSERVED, value=20.0)
    assert states(few) == {"drill.faults_observed": "error"}
    unnoticed = good_storm().without(lambda row: row.kind in (Kind.DISCONNECTED, Kind.BACKOFF) and row.client > 20)
    assert states(unnoticed)["drill.faults_observed"] == "error"


def test_a_publisher_that_fell_silent_leaves_little_to_lose() -> None:
    story = good_storm().without(lambda row: row.seq > 100 and row.kind in EVENT_KINDS)
    assert states(story)["drill.load"] == "error"


def test_unmeasured_lateness_is_an_error() -> None:
    story = good_storm().without(lambda row: row.kind is Kind.GENERATOR_LAG and row.t > 15.0)
    assert states(story) == {"drill.generator_lag_ms": "error"}


# --- drills that break nothing ----------------------------------------------------------------------


def peaceful() -> Story:
    """A run of a drill without faults that went well."""
    faults = (Kind.FAULT_INJECTED, Kind.FAULT_OBSERVED, Kind.FAULT_REVERTED, Kind.DISCONNECTED, Kind.BACKOFF)
    story = good_storm().without(lambda row: row.kind in faults)
    story.header["plan"] = []
    return story


def states_of_peace(story: Story, *checks: str) -> dict[str, str]:
    drill = msgspec.structs.replace(storm_drill(checks=(*ENOUGH, *checks)), faults=())
    verdict = gates.judge(drill, story.history(), gates.load_thresholds(), "observations.parquet")
    return {check.name: str(check.state) for check in verdict.checks if check.state is not State.PASS}


def test_a_drill_that_breaks_nothing_can_pass_and_says_so() -> None:
    assert states_of_peace(peaceful(), "ux.publish_to_apply_ms", "replay.client_lag_events") == {}


def test_without_a_fault_nothing_is_said_of_recovery() -> None:
    assert states_of_peace(peaceful(), "reconnect.live_again_99_s") == {"reconnect.live_again_99_s": "not_run"}


def test_without_a_fault_every_lost_connection_counts_and_no_phase_excuses_a_late_event() -> None:
    lost = peaceful().tell(22.0, Kind.DISCONNECTED, 3, detail="network").tell(22.5, Kind.SUBSCRIBED, 3, value=10.0)
    assert states_of_peace(lost) == {"drill.undisturbed": "fail"}
    late = peaceful().changed(lambda row: row.kind is Kind.APPLIED and 20.0 < row.t < 24.9, t=24.95)
    assert states_of_peace(late, "ux.publish_to_apply_ms")["ux.publish_to_apply_ms"] == "fail"


def test_a_fault_that_the_drill_does_not_have_is_no_peace() -> None:
    story = good_storm()
    assert states_of_peace(story)["drill.faults_observed"] == "error"


# --- runtimes with defects that have no name --------------------------------------------------------


def test_two_publishes_acknowledged_as_one_event_are_one_lost() -> None:
    """It takes different idempotency keys for one, and answers the second publish with the first one's event."""
    assert invariants(good_storm().publish(7, t=12.0)) == {"acknowledged_lost"}


def test_frames_that_are_none_are_jumbled_messages() -> None:
    assert invariants(good_storm().tell(40.0, Kind.MALFORMED, 3, detail="malformed_frame")) == {"jumbled_message"}


def test_a_replay_that_is_called_complete_too_early_is_seen() -> None:
    """The time to be caught up was taken from the runtime's word, and the events came seconds later, in the fault phase."""
    story = good_storm()
    done = max(
        (row for row in story.rows if row.kind is Kind.REPLAY_COMPLETED and row.client != AUDITOR), key=lambda row: row.t
    )
    late = story.changed(
        lambda row: row.client == done.client and row.kind in EVENT_KINDS and 20.1 < row.t <= done.t, t=done.t + 0.01
    )
    assert invariants(late) == {"early_replay_complete"}


def test_what_is_still_there_is_not_lost() -> None:
    """A client that declares everything lost when it is told that it is stale, and a runtime that makes it do so."""
    story = good_storm().tell(30.0, Kind.DECLARED_LOSS, 3, STREAM, 200, value=50.0)
    assert "needless_loss" in {violation.invariant for violation in judged(story, declared_loss=True).violations}


def test_a_fresh_client_gets_everything_that_must_be_retained() -> None:
    """It forgets what it acknowledged once everybody has it: whoever comes next starts at the head."""
    story = good_storm().without(lambda row: row.client == AUDITOR and row.kind in EVENT_KINDS)
    story.tell(58.9, Kind.REBOOTSTRAPPED, AUDITOR, STREAM, 330, detail="fresh")
    assert states(story) == {"drill.audited": "fail"}


@pytest.mark.parametrize("stream", [STREAM, WORKERS])
def test_only_a_stream_without_snapshots_has_anything_to_declare_lost(stream: str) -> None:
    """A runtime without the snapshots it owes: where a drill allows loss to be declared, it was allowed everywhere."""
    story = good_storm().tell(30.0, Kind.DECLARED_LOSS, 3, stream, 200, value=50.0)
    found = states(story, declared_loss=True)
    assert found.get("drill.declared_loss") == ("fail" if stream == STREAM else None)


class Answering:
    """A runtime that answers every publish with this event."""

    def __init__(self, **event: object) -> None:
        self.event = event

    async def exchange(self, request: Request[object]) -> Answer:
        return Answer(201, "application/json", msgspec.json.encode({"event": self.event}))


def published(**event: object) -> PublishedEvent:
    async def ask() -> PublishedEvent:
        http = ServiceHttp(Endpoints("a mock", "mock", "http://127.0.0.1:1", "http://127.0.0.1:1"))
        http._exchange = Answering(**event).exchange
        return await http.ask(service_api.publish, "r1", "run.progress", {"number": 1}, "r1-1")

    return asyncio.run(ask())


def test_what_comes_out_is_held_against_what_went_in() -> None:
    """A runtime that keeps another payload than it was sent, under a hash that fits that one, agrees with itself."""
    sent = payload_hash(canonical_json({"run_id": "r1", "event_type": "run.progress", "payload": {"number": 1}}))
    assert published(seq=3, payload_hash=payload_hash(b"null")).payload_hash == sent


def test_no_event_waits_behind_a_storm_of_mints() -> None:
    """No false go: the wait for one of our own connections counted as the runtime's latency."""

    class MintsHang(Answering):
        async def exchange(self, request: Request[object]) -> Answer:
            if request.url.endswith("/token"):
                await asyncio.Event().wait()
            return await super().exchange(request)

    async def storm_of_mints() -> int:
        http = ServiceHttp(Endpoints("a mock", "mock", "http://127.0.0.1:1", "http://127.0.0.1:1"))
        http._exchange = MintsHang(seq=3).exchange
        session = Session(0, [run_events("r1")], policies.get("reference"), client_setup.client_settings(tiny(), 1))
        mints = [asyncio.create_task(http.ask(service_api.mint, session)) for _ in range(200)]
        await asyncio.sleep(0)
        event = await asyncio.wait_for(http.ask(service_api.publish, "r1", "run.progress", {}, "r1-1"), 5.0)
        for mint in mints:
            mint.cancel()
        return event.seq

    assert asyncio.run(storm_of_mints()) == 3


@pytest.mark.parametrize("seq", [0, -1])
def test_an_acknowledgement_of_no_event_is_none(seq: int) -> None:
    """The ledger knows no such event, so it could be lost without being missed."""
    with pytest.raises(PublishFailedError, match="unknown_outcome"):
        published(seq=seq)


# --- folders of other runs and other versions -------------------------------------------------------


def written(out: Path, **header: Any) -> Path:
    drill = storm_drill(checks=ENOUGH)
    run_dir = results.create_run(out, [drill], engine="sockets", target="mock", target_kind="mock", seed=7)
    good_storm().write(results.create_drill_folder(run_dir, drill), drill, **header)
    return run_dir


def trouble(run_dir: Path) -> str:
    (verdict,) = results.judge_run(run_dir).drills
    return next(check.reason for check in verdict.checks if check.name == "drill.evidence" and check.state is State.ERROR)


def test_a_run_as_it_is_written_is_a_go(tmp_path: Path) -> None:
    assert results.judge_run(written(tmp_path)).exit_code == 0


def test_evidence_from_before_the_run_is_another_runs(tmp_path: Path) -> None:
    assert "before this run was created" in trouble(written(tmp_path, started_at="2026-01-23T14:05:01+00:00"))
    assert "before this run was created" in trouble(written(tmp_path, started_at="yesterday"))


def test_evidence_of_another_target_is_another_runs(tmp_path: Path) -> None:
    assert "has target 'http://127.0.0.1:8080'" in trouble(written(tmp_path, target="http://127.0.0.1:8080"))


def test_newer_evidence_of_the_same_drill_is_another_runs(tmp_path: Path) -> None:
    """Same drill, same seed, same target, and later than this run began: only the run's own name tells them apart."""
    older, newer = written(tmp_path), written(tmp_path)
    ours, theirs = (results.drill_folder(run_dir, "storm") for run_dir in (older, newer))
    for name in (HEADER_NAME, FILE_NAME):
        (ours / name).write_bytes((theirs / name).read_bytes())
    assert f"has run_id '{newer.name}', but this run's is '{older.name}'" in trouble(older)
    assert "has run_id ''" in trouble(written(tmp_path, run_id=""))


@pytest.mark.parametrize("schema", [0, 2])
def test_files_of_another_version_are_not_guessed_at(schema: int, tmp_path: Path) -> None:
    assert f"schema {schema}" in trouble(written(tmp_path, schema=schema))
    plan = written(tmp_path) / results.PLAN_NAME
    plan.write_text(plan.read_text().replace('"schema": 1', f'"schema": {schema}'))
    with pytest.raises(EvidenceError, match=f"schema {schema}"):
        results.judge_run(plan.parent)


def test_a_drill_is_known_by_what_was_written_not_by_keys_that_came_later(tmp_path: Path) -> None:
    """No false go: a version with one more key, at its default, could not judge any older run."""
    run_dir = written(tmp_path)
    path = results.drill_folder(run_dir, "storm") / results.DRILL_NAME
    older = msgspec.json.decode(path.read_bytes())
    del older["runtime"]["sync_frames"]
    content = msgspec.json.encode(older, order="deterministic")
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(msgspec.json.format(content, indent=2))
    plan = run_dir / results.PLAN_NAME
    plan.write_text(plan.read_text().replace(storm_drill(checks=ENOUGH).digest(), digest))
    header = read_header(path.parent)
    header.drill_sha256 = digest
    write_header(path.parent, header)
    assert results.judge_run(run_dir).exit_code == 0
