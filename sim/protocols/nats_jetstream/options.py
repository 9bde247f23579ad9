"""The `[protocol_options]` of a NATS target, and what a client asks because of them."""

import base64
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from sim.base.config import to_struct
from sim.protocols.adapter import Credentials
from sim.protocols.events import Position

Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]*$", max_length=200)]
_NANOSECONDS = 1_000_000_000


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `stream`, each stream of a drill is a subject of that JetStream stream; otherwise a JetStream stream of its name."""

    stream: Word = ""
    subject: Word = "{stream}"  # to publish to, without `stream`
    credentials: Literal["none", "token", "user", "jwt"] = "none"  # what a token is; user: `NAME:PASSWORD`
    message_ids: bool = True  # publish with Nats-Msg-Id, so that a retry is stored once
    idle_heartbeat_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 5.0  # of each consumer
    inactive_threshold_s: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 30.0  # an unread consumer is then deleted

    @classmethod
    def read(cls, table: Mapping[str, object]) -> "Options":
        """Convert the table. Raises `UsageError`."""
        return to_struct(dict(table), cls, "[protocol_options]")

    def stream_of(self, topic: str) -> str:
        """The JetStream stream of a drill's stream."""
        return self.stream or topic

    def subject_of(self, topic: str) -> str:
        """The subject to publish a drill's stream to."""
        return topic if self.stream else self.subject.replace("{stream}", topic)

    def api(self, request: str, topic: str) -> str:
        """The subject of a request about a stream."""
        return f"$JS.API.{request}.{self.stream_of(topic)}"

    def consumer(self, topic: str, deliver_to: str, after: Position | None) -> dict[str, object]:
        """The configuration of a consumer that starts after a position. The server chooses its name."""
        config: dict[str, object] = {
            "deliver_subject": deliver_to,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": round(self.inactive_threshold_s * _NANOSECONDS),
            "flow_control": True,
            "idle_heartbeat": round(self.idle_heartbeat_s * _NANOSECONDS),
            "replay_policy": "instant",
        }
        if after is not None and isinstance(after.offset, int):
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after.offset + 1}
        else:
            config["deliver_policy"] = "all"
        return config | {"filter_subject": topic} if self.stream else config

    def introduction(self, credentials: Credentials, nonce: str) -> dict[str, str]:
        """The part of CONNECT that says who connects. A JWT without a signer must be a bearer token."""
        if self.credentials == "token":
            return {"auth_token": credentials.token}
        if self.credentials == "user":
            user, _, password = credentials.token.partition(":")
            return {"user": user, "pass": password}
        if self.credentials == "jwt":
            if credentials.sign is None or not nonce:
                return {"jwt": credentials.token}
            signature = base64.urlsafe_b64encode(credentials.sign(nonce.encode())).rstrip(b"=").decode()
            return {"jwt": credentials.token, "sig": signature}
        return {}
