"""The log of one stream against a model, cursors against its window, canonical JSON and hashes."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sim.protocols.payloads import canonical_json, hash_matches, payload_hash
from sim.server import stream_log
from sim.server.stream_log import Entry, StreamLog, Window, WrongNextSeqError, effective_budget, replay_lag, stale_reasons

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WINDOW_EVENTS = 4
RETENTION_S = 10.0


def filled(count: int, window_events: int = 1000, retention_s: float = 1e9) -> StreamLog:
    log = StreamLog(window_events, retention_s)
    for n in range(1, count + 1):
        log.append(f"key-{n}", b"%d" % n, float(n))
    return log


def seqs(log: StreamLog, cursor: int = 0, limit: int = 10**9) -> list[int]:
    return [entry.seq for entry in log.after(cursor, limit)]


class NaiveLog:
    """A reference model of the log that keeps every entry."""

    def __init__(self) -> None:
        self.all: list[Entry] = []
        self.trimmed = 0  # seqs up to this one are trimmed

    def retained(self) -> list[Entry]:
        return [entry for entry in self.all if entry.seq > self.trimmed]

    def trim(self, now: float) -> None:
        self.trimmed = max(self.trimmed, len(self.all) - WINDOW_EVENTS)
        while self.retained() and self.retained()[0].appended_at < now - RETENTION_S:
            self.trimmed += 1


class LogMachine(RuleBasedStateMachine):
    """Appends, trims, faults, undos and restarts in any order leave log and model alike."""

    def __init__(self) -> None:
        super().__init__()
        self.log = StreamLog(WINDOW_EVENTS, RETENTION_S)
        self.model = NaiveLog()
        self.now = 0.0

    @rule(key=st.integers(0, 30), payload=JSON_VALUES, waited=st.floats(0, 4))
    def append(self, key, payload, waited):
        self.now += waited
        raw = canonical_json(payload)
        known = next((entry for entry in self.model.all if entry.key == str(key)), None)
        answer = self.log.append(str(key), raw, self.now)
        assert answer.duplicate is (known is not None)
        if known is None:
            known = Entry(len(self.model.all) + 1, str(key), raw, payload_hash(raw), self.now)
            self.model.all.append(known)
        assert (answer.entry.seq, answer.entry.key, answer.entry.payload_hash) == (known.seq, known.key, known.payload_hash)
        if known.seq > self.model.trimmed:
            assert answer.entry == known

    @rule(waited=st.floats(0, 8))
    def trim(self, waited):
        self.now += waited
        before = len(self.model.retained())
        self.model.trim(self.now)
        assert self.log.trim(self.now) == before - len(self.model.retained())

    @rule(count=st.integers(-1, 6))
    def keep_newest(self, count):
        before = len(self.model.retained())
        self.model.trimmed = max(self.model.trimmed, len(self.model.all) - max(count, 0))
        assert self.log.keep_newest(count) == before - len(self.model.retained())

    @precondition(lambda self: self.model.all)
    @rule(data=st.data())
    def truncate(self, data):
        head = data.draw(st.integers(0, len(self.model.all)))
        self.log.truncate(head)
        del self.model.all[head:]
        self.model.trimmed = min(self.model.trimmed, head)

    @rule()
    def restart(self):
        keys = {entry.key: (entry.seq, entry.payload_hash) for entry in self.model.all}
        self.log = StreamLog.restore(WINDOW_EVENTS, RETENTION_S, self.model.retained(), keys, len(self.model.all))

    @rule(cursor=st.integers(-3, 40), limit=st.integers(-1, 6))
    def read(self, cursor, limit):
        expected = [entry for entry in self.model.retained() if entry.seq > cursor][: max(limit, 0)]
        assert self.log.after(cursor, limit) == expected

    @invariant()
    def ends_agree(self):
        head = len(self.model.all)
        assert self.log.head == head
        assert self.log.next_seq == head + 1
        assert self.log.oldest == self.model.trimmed + 1
        assert self.log.retained == len(self.model.retained())
        assert self.log.window() == (Window(self.model.trimmed + 1, head) if head else None)

    @invariant()
    def digests_agree(self):
        joined = "".join(entry.payload_hash for entry in self.model.all)
        assert self.log.digest() == hashlib.sha256(joined.encode()).hexdigest()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_compaction_changes_nothing(monkeypatch):
    monkeypatch.setattr(stream_log, "_COMPACT_AT", 8)
    log = filled(0, window_events=5)
    for n in range(1, 200):
        log.append(str(n), b"{}", float(n))
        log.trim(float(n))
        assert seqs(log) == list(range(max(n - 4, 1), n + 1))
        assert len(log._entries) <= 5 + 1 + 9


def test_read_returns_limited_events_from_any_cursor():
    log = filled(50_000)
    log.keep_newest(20_000)
    assert seqs(log, 40_000, 3) == [40_001, 40_002, 40_003]
    assert seqs(log, 5, 2) == [30_001, 30_002]
    assert seqs(log, 50_000, 3) == []
    assert seqs(log, 10**12, 3) == []


def test_only_trim_forgets_events_and_keeps_those_at_the_limit():
    log = filled(10, window_events=2, retention_s=1.0)
    assert log.retained == 10
    assert log.trim(10.0) == 8
    log = filled(5, retention_s=2.0)
    log.trim(5.0)
    assert seqs(log) == [3, 4, 5]


def test_known_key_returns_its_first_entry():
    log = filled(3)
    answer = log.append("key-2", b"other", 9.0, expected_next_seq=77)
    assert answer.duplicate
    assert answer.entry == Entry(2, "key-2", b"2", payload_hash(b"2"), 2.0)
    assert log.head == 3


def test_trimmed_key_still_returns_seq_and_hash():
    log = filled(3)
    log.keep_newest(0)
    answer = log.append("key-1", b"other", 9.0)
    assert answer.duplicate
    assert (answer.entry.seq, answer.entry.payload_hash, answer.entry.payload) == (1, payload_hash(b"1"), b"")
    assert log.window() == Window(4, 3)


def test_wrong_expected_seq_appends_nothing():
    log = filled(3)
    with pytest.raises(WrongNextSeqError, match="next seq is 4, but the publisher expected 3") as refused:
        log.append("new", b"{}", 4.0, expected_next_seq=3)
    assert (refused.value.expected, refused.value.found) == (4, 3)
    assert log.head == 3
    assert not log.append("new", b"{}", 4.0, expected_next_seq=4).duplicate


def test_truncated_append_can_be_repeated():
    log = filled(3)
    log.truncate(1)
    assert log.append("key-2", b"second", 9.0).entry == Entry(2, "key-2", b"second", payload_hash(b"second"), 9.0)


def entry(seq: int) -> Entry:
    return Entry(seq, f"key-{seq}", b"{}", payload_hash(b"{}"), 0.0)


def restored(*seqs: int, stray: int | None = None) -> StreamLog:
    """A log with these entries and the head 3."""
    keys = {} if stray is None else {"stray": (stray, "sha256:00")}
    return StreamLog.restore(10, 10.0, [entry(seq) for seq in seqs], keys, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((lambda head=head: filled(3).truncate(head), "the head is 3") for head in (-1, 4)),
        *(
            (lambda seqs=seqs: restored(*seqs), "not consecutive up to seq 3")
            for seqs in ([1, 2], [2, 4], [1, 3], [0, 1, 2, 3])
        ),
        *((lambda seq=seq: restored(3, stray=seq), r"outside 1\.\.3") for seq in (0, 4)),
    ],
)
def test_truncate_and_restore_refuse_impossible_logs(change, words):
    with pytest.raises(ValueError, match=words):
        change()


def test_restored_log_accepts_rows_in_any_order():
    log = StreamLog.restore(10, 10.0, [entry(3), entry(2)], {"key-3": (3, "x"), "key-1": (1, "sha256:11")}, 3)
    assert seqs(log) == [2, 3]
    assert log.append("key-1", b"{}", 1.0).entry.payload_hash == "sha256:11"
    log.truncate(1)
    assert not log.append("key-2", b"{}", 1.0).duplicate


def test_restored_keys_are_undone_in_the_order_of_the_log():
    keys = {"a": (3, "sha256:22"), "z": (1, "sha256:33"), "m": (2, "sha256:11")}
    log = StreamLog.restore(10, 10.0, [], keys, 3)
    log.truncate(1)
    assert log.append("z", b"{}", 1.0).duplicate
    assert [log.append(key, b"{}", 1.0).duplicate for key in ("a", "m")] == [False, False]


def test_snapshot_contains_head_and_history_digest():
    log = filled(3)
    snapshot = log.snapshot(12.5)
    assert snapshot == {
        "format": "openagents.sync.snapshot.v1",
        "watermark": 3,
        "events": 3,
        "digest": log.digest(),
        "taken_at": 12.5,
    }
    log.keep_newest(0)
    assert log.digest() == snapshot["digest"]
    log.append("more", b"{}", 13.0)
    assert log.digest() != snapshot["digest"]


@given(JSON_VALUES)
def test_canonical_json_is_sorted_and_has_no_whitespace(value):
    reference = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert json.loads(canonical_json(value)) == json.loads(reference)
    assert canonical_json(json.loads(reference)) == canonical_json(value)


def test_canonical_json_sorts_keys_at_all_levels():
    assert canonical_json({"b": [{"d": 1, "c": 2}], "a": "ü"}) == '{"a":"ü","b":[{"c":2,"d":1}]}'.encode()


def circular() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value", [circular(), pytest.param(object(), id="an object"), {1: 2}, {"a": {(1,): 2}}, "\ud800"], ids=repr
)
def test_value_outside_json_raises_value_error(value):
    with pytest.raises(ValueError, match="not a JSON value"):
        canonical_json(value)


def test_payload_hash_is_a_prefixed_sha256():
    assert payload_hash(b"{}") == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(JSON_VALUES, st.sampled_from([None, 2]))
def test_hash_matches_payload_with_any_whitespace(value, indent):
    declared = payload_hash(canonical_json(value))
    assert hash_matches(json.dumps(value, indent=indent).encode(), declared)


@given(st.binary(), st.text())
def test_hash_check_never_raises(raw, declared):
    assert not hash_matches(raw, declared)


@pytest.mark.parametrize("raw", [b"", b"[" * 100_000, b"1e999", b'"\\ud800"', b"\xff", b'{"a":1}x'])
def test_payload_outside_json_matches_no_hash(raw):
    assert not hash_matches(raw, payload_hash(b"{}"))


@pytest.mark.parametrize("raw", [b'{"b":1,"a":2}', b'{ "a":2}', b'"\\u0041"'])
def test_hash_of_non_canonical_text_does_not_match(raw):
    assert not hash_matches(raw, payload_hash(raw))


def test_stale_reasons_match_shipped_client(vectors):
    for line in vectors("continuity"):
        window = Window(line["oldest"], line["head"])
        assert list(stale_reasons(line["after"], window, line["budget"])) == line.get("reasons", []), line
        if not line["resume"]:
            assert window.floor == line["floor"], line
            assert replay_lag(line["after"], window) == line["lag"], line
            assert effective_budget(line["budget"]) == line["effective_budget"], line


def test_vectors_cover_every_stale_reason(vectors):
    assert {tuple(line.get("reasons", [])) for line in vectors("continuity")} == {
        (),
        ("retention_floor_breach",),
        ("replay_budget_exceeded",),
        ("retention_floor_breach", "replay_budget_exceeded"),
    }


@given(st.integers(0), st.integers(0))
def test_stream_without_window_and_cursor_above_head_resume(after, budget):
    assert stale_reasons(after, None, budget) == ()
    assert stale_reasons(11, Window(5, 10), 1) == ()
    assert replay_lag(11, Window(5, 10)) == 0


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 120), st.integers(0, 30))
def test_cursor_that_resumes_misses_nothing(oldest, length, after, budget):
    window = Window(oldest, oldest + length - 1)
    if not stale_reasons(after, window, budget):
        missed = range(after + 1, window.head + 1)
        assert all(seq >= oldest for seq in missed)
        assert len(missed) <= max(budget, 1)
