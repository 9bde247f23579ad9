"""The mock's storage: committed events survive a restart, and others leave no trace."""

import asyncio
import resource
import sqlite3
from pathlib import Path

import pytest

from sim.base.errors import StorageError
from sim.mock.publishing import Authority
from sim.mock.requests import RequestRefusedError
from sim.mock.revisions import Rollout
from sim.mock.store import Store
from sim.protocols.payloads import payload_hash
from sim.protocols.spacetime.profile import PROFILE
from sim.server.deployment import Deployment
from sim.server.runtime import Runtime
from sim.server.settings import RuntimeSettings, Switches
from sim.server.stream_log import Entry, StreamLog
from sim.server.tokens import Key, Keyring
from tests.served import joined, seqs, serving, updates_in

TOPIC = "run:r1:events"


def entry(seq: int) -> Entry:
    payload = b'{"n":%d}' % seq
    return Entry(seq, f"key-{seq}", payload, payload_hash(payload), 1e9 + seq)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


def filled(path: Path, count: int = 10) -> None:
    store = Store(path)
    store.commit([(TOPIC, entry(seq)) for seq in range(1, count + 1)])
    store.close()


def test_a_reload_is_the_log_as_it_was(path: Path):
    filled(path)
    log = Store(path).load(100, PROFILE)[TOPIC]
    assert log.after(0, 100) == [entry(seq) for seq in range(1, 11)]
    original = StreamLog(100, 1e9)
    for seq in range(1, 11):
        original.append(f"key-{seq}", entry(seq).payload, 1e9 + seq)
    assert (log.head, log.oldest, log.digest()) == (original.head, original.oldest, original.digest())


def test_keys_survive_a_restart_and_the_window(path: Path):
    filled(path)
    log = Store(path).load(3, PROFILE)[TOPIC]
    assert (log.oldest, log.head) == (8, 10)
    for seq in (1, 7, 10):
        known = log.append(f"key-{seq}", b"other", 2e9)
        assert (known.duplicate, known.entry.seq, known.entry.payload_hash) == (True, seq, entry(seq).payload_hash)
    assert log.append("key-11", b"{}", 2e9).entry.seq == 11


def test_a_commit_is_all_or_nothing(path: Path):
    filled(path, 3)
    store = Store(path)
    with pytest.raises(StorageError, match="cannot be written"):
        store.commit([(TOPIC, entry(4)), (TOPIC, entry(3))])
    assert store.load(100, PROFILE)[TOPIC].head == 3
    store.commit([(TOPIC, entry(4))])
    assert store.load(100, PROFILE)[TOPIC].head == 4


def test_a_key_is_unique_in_its_topic_and_free_in_another(path: Path):
    filled(path, 1)
    store = Store(path)
    store.commit([("run:r2:events", entry(1))])
    with pytest.raises(StorageError):
        store.commit([(TOPIC, Entry(2, "key-1", b"{}", payload_hash(b"{}"), 1.0))])


def test_runs_and_signing_keys_survive_a_restart(path: Path):
    store = Store(path)
    assert [store.add_run("w") for _ in range(3)] == ["r1", "r2", "r3"]
    key = store.signing_key()
    store.close()
    store = Store(path)
    assert store.signing_key() == key
    assert store.add_run("w") == "r4"
    assert [run for run in ("r1", "r4", "r5", "r", "1", "r01", "r0", "rx", "r1 ", "r-1", "r1²") if store.has_run(run)] == [
        "r1",
        "r4",
    ]


def test_forgetting_events_forgets_nothing_else(path: Path):
    filled(path)
    store = Store(path)
    store.add_run("w")
    key = store.signing_key()
    store.forget_events()
    assert (store.load(100, PROFILE), store.has_run("r1"), store.signing_key()) == ({}, True, key)


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_not_a_log_is_one_sentence(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(StorageError) as raised:
        Store(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_place_where_no_file_can_be_is_one_sentence(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be used"):
        Store(tmp_path / "none" / "log.sqlite")


def test_a_log_with_a_hole_is_one_sentence(path: Path):
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM events WHERE seq = 5")
    with pytest.raises(StorageError, match="not consecutive"):
        Store(path).load(100, PROFILE)


def test_a_log_of_another_shape_is_one_sentence(path: Path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE events (something TEXT)")
    with pytest.raises(StorageError, match="cannot be used"):
        Store(path)


def test_a_damaged_log_is_one_sentence(path: Path):
    filled(path, 2000)
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(bytes(content))
    with pytest.raises(StorageError):
        Store(path).load(100, PROFILE)


# --- a disk that is full ----------------------------------------------------------------------------


def test_an_event_that_could_not_be_committed_is_not_in_the_log(path: Path):
    """SQLite's own limit on a file's pages, met in the middle of a group of publishes."""

    async def publish_all() -> list[object]:
        store = Store(path)
        runtime = Runtime(RuntimeSettings(), Keyring(Key("k", b"s" * 32)), PROFILE)
        authority = Authority(runtime, store, Rollout(Deployment(), Switches(), store))
        announced = []
        authority.committed = lambda: announced.append(runtime.streams.head(TOPIC))
        await authority.publish(TOPIC, "first", b"{}", None)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        group = [authority.publish(TOPIC, f"key-{n}", b"x" * 1000, None) for n in range(100)]
        outcomes = await asyncio.gather(*group, return_exceptions=True)
        assert announced == [1]
        assert runtime.streams.head(TOPIC) == 1
        assert runtime.counters.published == 1
        assert "full" in authority.failure
        with pytest.raises(RequestRefusedError, match="full"):
            await authority.publish(TOPIC, "later", b"{}", None)
        store.close()
        return outcomes

    outcomes = asyncio.run(publish_all())
    assert {(type(one), one.status, one.code) for one in outcomes} == {(RequestRefusedError, 503, "log_unavailable")}
    assert Store(path).load(100, PROFILE)[TOPIC].after(0, 10)[0].key == "first"
    assert Store(path).load(100, PROFILE)[TOPIC].head == 1


def test_a_full_disk_is_reported_and_acknowledged_events_stay(tmp_path: Path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    with serving(tmp_path, before=small_files) as mock:
        run = mock.run()
        topic = f"run:{run}:events"
        with joined(mock, topic) as raw:
            raw.subscribe(topic)
            answers = [mock.publish(run, "x" * 10_000) for _ in range(60)]
            acknowledged = [answer.json()["event"]["seq"] for answer in answers if answer.status_code == 201]
            refused = [answer for answer in answers if answer.status_code != 201]
            assert acknowledged == list(range(1, len(acknowledged) + 1))
            assert refused
            assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(503, "log_unavailable")}
            assert mock.http.get("/readyz").status_code == 503
            assert mock.http.get("/healthz").status_code == 200
            assert mock.token_response().status_code == 200
            assert seqs(raw.updates(len(acknowledged))) == acknowledged
            status, _, before = raw.ask("sync:heartbeat", {})
            assert (status, updates_in(before)) == ("ok", [])
    assert "Traceback" not in mock.log.read_text()
    with serving(tmp_path) as mock, joined(mock, topic) as raw:
        assert seqs(updates_in(raw.subscribe(topic)[2])) == acknowledged
        assert mock.publish(run).json()["event"]["seq"] == len(acknowledged) + 1
