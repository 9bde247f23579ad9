"""The streams of the deceiving server: what was published, and what readers are told of it."""

import hashlib
import json
import os
import re

from tests.peers.deceiving_lies import lies, options

LARGE_STEP = 7  # every so many events, one is a lie
SNAPSHOT_EVERY = 10  # events; the same snapshot is for all clients that come in between
streams = {}


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(value):
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


class Stream:
    """One log; event N is at `events[N - 1]`."""

    def __init__(self, name):
        self.name = name
        self.events = []
        self.by_key = {}
        self.tries = {}
        self.readers = set()
        self.held = []  # updates that wait for somebody
        self.unanswered = set()  # positions that every second reader gets
        self.digest = ""

    @property
    def head(self):
        return len(self.events)

    @property
    def floor(self):
        """The position before the first event that is retained."""
        return max(self.head - options.retain, 0)

    def update(self, position):
        payload = self.told(position)
        declared = hash_of({"no": "such payload"}) if lies("bad_hash") and self.is_chosen(position) else hash_of(payload)
        return {"topic": self.name, "payload": payload, "payload_hash": declared, "watermark": position}

    def is_chosen(self, position):
        return position % LARGE_STEP == 3

    def told(self, position):
        """The payload that readers get for a position."""
        payload = self.events[position - 1]
        if lies("swap") and position % LARGE_STEP in (3, 4):
            other = position + 1 if self.is_chosen(position) else position - 1
            return self.events[other - 1] if 0 < other <= self.head else payload
        if not self.is_chosen(position):
            return payload
        published = payload["payload"]
        if lies("alter"):
            return {"payload": {**published, "altered": True}}
        if lies("truncate"):
            largest = max(published, key=lambda key: (key != "marker") * len(canonical(published[key])))
            return {"payload": {key: value for key, value in published.items() if key != largest}}
        if lies("other_tenant"):
            others = [stream for stream in streams.values() if stream is not self and stream.events]
            return others[0].events[0] if others else payload
        if lies("retype"):
            return {"payload": {**published, "number": str(published["number"])}}
        if lies("earlier_run"):
            return {"payload": {**published, "marker": of_earlier_run(published.get("marker", ""))}}
        return payload

    def snapshot(self):
        at = self.head - self.head % SNAPSHOT_EVERY
        if lies("low_snapshot"):
            at = self.floor // 2
        if lies("high_snapshot"):
            at = self.head + 25
        events = 0 if lies("empty_snapshot") else at // 2 if lies("unfit_snapshot") else at
        digest = hashlib.sha256("".join(hash_of(event) for event in self.events[:at]).encode()).hexdigest()
        self.digest = self.digest or digest
        if lies("wrong_digest"):
            digest = hashlib.sha256(os.urandom(8)).hexdigest()
        if lies("old_digest"):
            digest = self.digest
        return {"format": "openagents.sync.snapshot.v1", "watermark": at, "events": events, "digest": digest, "taken_at": 0.0}


def of_earlier_run(marker):
    return re.sub(r"^sg\.[0-9a-f]{12}", "sg.00000000abcd", marker)
