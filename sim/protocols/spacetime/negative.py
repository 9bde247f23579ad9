"""Messages of negative clients: commands over the sync channel, which only delivers, and malformed frames."""

from collections.abc import Mapping

import msgspec

from sim.protocols.events import Position
from sim.protocols.intents import Raw
from sim.protocols.spacetime.codec import encode_client
from sim.protocols.spacetime.frames import CHANNEL, TRANSPORT_CHANNEL, Request
from sim.protocols.spacetime.streams import run_events

OTHER_USER = "stormgate-stranger"
_DEPTH = 5_000  # deep enough to overflow any recursive parser


def malformed(topic: str, ref: str, max_bytes: int) -> dict[str, Raw]:
    """See `NegativeForms.malformed`."""

    def frame(*parts: object) -> Raw:
        return Raw(msgspec.json.encode(parts))

    def subscribe(payload: object) -> Raw:
        return frame("1", ref, CHANNEL, "sync:subscribe", payload)

    nothing: dict[str, list[str]] = {"topics": []}  # a harmless unsubscribe
    long = frame("1", ref, CHANNEL, "sync:unsubscribe", {"topics": "x" * max_bytes})
    deep = b"[" * _DEPTH + b"]" * _DEPTH
    return {
        "no_text": Raw(b""),
        "no_json": Raw(b"this is no JSON"),
        "no_array": Raw(b'{"event":"sync:unsubscribe","payload":{"topics":[]}}'),
        "too_short": frame("1", ref, CHANNEL, "sync:unsubscribe"),
        "too_long": frame("1", ref, CHANNEL, "sync:unsubscribe", nothing, "one too many"),
        "number_as_join_reference": frame(1, ref, CHANNEL, "sync:unsubscribe", nothing),
        "object_as_reference": frame("1", {"ref": ref}, CHANNEL, "sync:unsubscribe", nothing),
        "number_as_channel": frame("1", ref, 1, "sync:unsubscribe", nothing),
        "null_as_event": frame("1", ref, CHANNEL, None, nothing),
        "array_as_payload": subscribe([topic]),
        "unknown_channel": frame("1", ref, "sync:v0", "sync:unsubscribe", nothing),
        "unknown_event": frame("1", ref, CHANNEL, "stormgate:unknown", {}),
        "numbers_as_topics": subscribe({"topics": [1, 2]}),
        "text_as_topics": frame("1", ref, CHANNEL, "sync:unsubscribe", {"topics": topic}),
        "text_as_cursors": subscribe({"topics": [topic], "resume_after": "yesterday"}),
        "negative_cursor": subscribe({"topics": [topic], "resume_after": {topic: -1}}),
        "endless_cursor": subscribe({"topics": [topic], "resume_after": {topic: 2**63}}),
        "deep_nesting": Raw(b'["1","%s","%s","sync:unsubscribe",{"topics":%s}]' % (ref.encode(), CHANNEL.encode(), deep)),
        "binary": Raw(b"\x00\xff\xfe\x80", is_text=False),
        "not_utf8": Raw(b'["1","%s","%s","sync:unsubscribe",{"topics":["\xff\xfe"]}]' % (ref.encode(), CHANNEL.encode())),
        "huge": long,
        "null_reference": frame(None, None, TRANSPORT_CHANNEL, "heartbeat", {}),
    }


KINDS = tuple(malformed("", "", 0))


class SpacetimeForms:
    """See `sim.protocols.adapter.NegativeForms`."""

    mutations = (
        *("sync:publish", "sync:append", "sync:update_batch", "sync:frame", "sync:retract", "sync:trim"),
        *("run:append_event", "presence_diff", "stormgate:unknown"),
    )
    kinds = KINDS
    lawful = ("null_reference",)
    foreign_stream = run_events(OTHER_USER)
    unmintable_streams = (f"fleet:user:{OTHER_USER}:workers", "stormgate:no:such:topic")

    def request(self, ref: str, name: str, payload: object) -> Raw:
        """See `NegativeForms`."""
        frame = Request(ref, name, msgspec.Raw(msgspec.json.encode(payload)))
        return Raw(encode_client(frame).encode(), ref)

    def hidden_mutations(
        self, refs: tuple[str, str], mutation: dict[str, object], after: Mapping[str, Position | None]
    ) -> tuple[Raw, Raw]:
        """See `NegativeForms`."""
        resume_after = {topic: position.offset for topic, position in after.items() if position is not None}
        subscribe = {**mutation, "topics": list(after), "resume_after": resume_after}
        return self.request(refs[0], "sync:heartbeat", mutation), self.request(refs[1], "sync:subscribe", subscribe)

    def malformed(self, topic: str, ref: str, max_bytes: int) -> dict[str, Raw]:
        """See `NegativeForms`."""
        return malformed(topic, ref, max_bytes)
