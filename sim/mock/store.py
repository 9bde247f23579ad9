"""The mock's storage: events, idempotency keys, runs, signing keys and notes in one SQLite file.

WAL mode with `synchronous=NORMAL`: a committed event survives a SIGKILL at any moment, but perhaps not a power failure.
"""

import re
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sim.base.errors import StorageError
from sim.protocols.profile import ServerProfile
from sim.server.stream_log import Entry, StreamLog
from sim.server.tokens import Key

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    topic TEXT NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL,
    payload BLOB NOT NULL, payload_hash TEXT NOT NULL, appended_at REAL NOT NULL,
    PRIMARY KEY (topic, seq)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_keys ON events (topic, key);
CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, worker_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS signing_keys (number INTEGER PRIMARY KEY, kid TEXT NOT NULL, secret BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, content BLOB NOT NULL);
"""
_RUN_ID = re.compile(r"r[1-9][0-9]{0,17}", re.ASCII)  # only one spelling per run, so only one topic


class Store:
    """The storage in one open file. Every method commits before it returns, and raises `StorageError` on failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(f"{path}: cannot be used as the runtime's log ({error}).") from None

    def signing_key(self) -> Key:
        """Return the signing key. It is created at the first start, so that tokens remain valid after a restart."""
        rows = self._rows("SELECT kid, secret FROM signing_keys ORDER BY number DESC LIMIT 1")
        if not rows:
            rows = [(f"key-{secrets.token_hex(4)}", secrets.token_bytes(32))]
            self._commit("INSERT INTO signing_keys (kid, secret) VALUES (?, ?)", rows)
        return Key(*rows[0])

    def add_run(self, worker_id: str) -> str:
        """Create a run and return its id. Ids count up, so that a drill's streams have the same names in every run."""
        try:
            return f"r{self._db.execute('INSERT INTO runs (worker_id) VALUES (?)', (worker_id,)).lastrowid}"
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be written ({error}).") from None

    def has_run(self, run_id: str) -> bool:
        """Return whether a run exists."""
        if not _RUN_ID.fullmatch(run_id):
            return False
        return bool(self._rows("SELECT 1 FROM runs WHERE number = ?", int(run_id[1:])))

    def has_worker(self, worker_id: str) -> bool:
        """Return whether a run of this worker exists."""
        return bool(self._rows("SELECT 1 FROM runs WHERE worker_id = ?", worker_id))

    def events_of(self, worker_id: str) -> int:
        """Return how many events of a worker are stored."""
        return int(self._rows("SELECT COUNT(*) FROM events WHERE json_extract(payload, '$.worker_id') = ?", worker_id)[0][0])

    def commit(self, entries: Iterable[tuple[str, Entry]]) -> None:
        """Store (topic, entry) pairs durably, all or none."""
        rows: list[tuple[object, ...]] = [
            (topic, e.seq, e.key, e.payload, e.payload_hash, e.appended_at) for topic, e in entries
        ]
        self._commit("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _commit(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN")
            try:
                self._db.executemany(statement, rows)
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:  # SQLite rolls back by itself on a full disk
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be written ({error}).") from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be read ({error}).") from None

    def load(self, window_events: int, profile: ServerProfile) -> dict[str, StreamLog]:
        """Load every stream: all keys, and the newest `window_events` entries."""
        heads = self._rows("SELECT topic, MAX(seq) FROM events GROUP BY topic")
        return {topic: self._log(topic, head, window_events, profile) for topic, head in heads}

    def _log(self, topic: str, head: int, window_events: int, profile: ServerProfile) -> StreamLog:
        known = self._rows("SELECT key, seq, payload_hash FROM events WHERE topic = ?", topic)
        keys = {key: (seq, payload_hash) for key, seq, payload_hash in known}
        newest = "SELECT seq, key, payload, payload_hash, appended_at FROM events WHERE topic = ? AND seq > ?"
        entries = [Entry(*row) for row in self._rows(newest, topic, head - window_events)]
        retention_s = profile.topics.topic_class(topic).retention_s
        try:
            return StreamLog.restore(window_events, retention_s, entries, keys, head, profile.payload_hash)
        except ValueError as error:
            raise StorageError(f"{self._path}: stream {topic} is inconsistent ({error}).") from None

    def note(self, name: str) -> bytes:
        """Return the note with this name, or empty bytes."""
        rows = self._rows("SELECT content FROM notes WHERE name = ?", name)
        return bytes(rows[0][0]) if rows else b""

    def keep_note(self, name: str, content: bytes) -> None:
        """Store a note, replacing the previous one."""
        self._commit("INSERT OR REPLACE INTO notes (name, content) VALUES (?, ?)", [(name, content)])

    def forget_stream(self, topic: str) -> None:
        """Delete every event of one stream, for the fault `recreate_log`."""
        self._commit("DELETE FROM events WHERE topic = ?", [(topic,)])

    def forget_events(self) -> None:
        """Delete every event, for the defect `lose_log_on_restart`."""
        self._commit("DELETE FROM events", [()])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
