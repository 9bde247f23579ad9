"""The mock's durable memory: events, idempotency keys, runs and signing keys in one SQLite file.

WAL mode with `synchronous=NORMAL`: a committed event survives the process being killed at any moment.
It may not survive the machine losing power, which no drill does.
"""

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from sim.contract.stream_log import Entry, StreamLog
from sim.contract.streams import topic_class
from sim.contract.tokens import Key
from sim.errors import StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    topic TEXT NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL,
    payload BLOB NOT NULL, payload_hash TEXT NOT NULL, appended_at REAL NOT NULL,
    PRIMARY KEY (topic, seq)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_keys ON events (topic, key);
CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, worker_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS signing_keys (number INTEGER PRIMARY KEY, kid TEXT NOT NULL, secret BLOB NOT NULL);
"""


class Store:
    """One open file; every method commits before it returns. Raises `StorageError`."""

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
        """The key tokens are signed with, made at the first start, so that tokens outlive a restart."""
        row = self._db.execute("SELECT kid, secret FROM signing_keys ORDER BY number DESC LIMIT 1").fetchone()
        if row is None:
            row = (f"key-{secrets.token_hex(4)}", secrets.token_bytes(32))
            self._commit("INSERT INTO signing_keys (kid, secret) VALUES (?, ?)", [row])
        return Key(row[0], row[1])

    def add_run(self, worker_id: str) -> str:
        """Create a run; its id counts up, so that a drill's streams have the same names each time."""
        try:
            return f"r{self._db.execute('INSERT INTO runs (worker_id) VALUES (?)', (worker_id,)).lastrowid}"
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be written ({error}).") from None

    def has_run(self, run_id: str) -> bool:
        """Whether a run was created."""
        number = run_id.removeprefix("r")
        if not (number.isascii() and number.isdigit() and len(number) < 18):
            return False
        return self._db.execute("SELECT 1 FROM runs WHERE number = ?", (int(number),)).fetchone() is not None

    def commit(self, entries: Iterable[tuple[str, Entry]]) -> None:
        """Make (topic, entry) pairs durable, all or none."""
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
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: cannot be written ({error}).") from None

    def load(self, window_events: int) -> dict[str, StreamLog]:
        """Every stream as it was: all keys, and the newest `window_events` entries."""
        logs: dict[str, StreamLog] = {}
        for topic, head in self._db.execute("SELECT topic, MAX(seq) FROM events GROUP BY topic").fetchall():
            keys = {
                key: (seq, payload_hash)
                for key, seq, payload_hash in self._db.execute(
                    "SELECT key, seq, payload_hash FROM events WHERE topic = ?", (topic,)
                )
            }
            rows = self._db.execute(
                "SELECT seq, key, payload, payload_hash, appended_at FROM events WHERE topic = ? AND seq > ?",
                (topic, head - window_events),
            )
            entries = [Entry(*row) for row in rows]
            logs[topic] = StreamLog.restore(window_events, topic_class(topic).retention_s, entries, keys, head)
        return logs

    def forget_events(self) -> None:
        """Lose every event (the defect `lose_log_on_restart`)."""
        self._db.execute("DELETE FROM events")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
