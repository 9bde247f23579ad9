"""Two revisions of one service: which one serves, which keys are routed to the new one, and the service's rate limits."""

import hashlib
from typing import Annotated, Any

import msgspec

from sim.server.settings import Defect, Positive, Switches

CANARY_SEED = "runtime-canary-v1"
ROUTING_SCOPE = "thread"
CANARY, CONTROL = "canary", "control"
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Revision = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
RevisionOrNone = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The available revisions. All defaults are [ours]: there are two, and all keys are routed to the new one."""

    revision: Revision = "mock-r2"  # the one that is being rolled out
    previous_revision: RevisionOrNone = "mock-r1"  # the last known good one; may be empty
    cohort_percent: Percent = 100  # initial share of all keys that is routed to `revision`
    canary_defects: tuple[Defect, ...] = ()  # of `revision` only, so a rollback removes them

    def __post_init__(self) -> None:
        if self.previous_revision == self.revision:
            raise ValueError(f"key 'previous_revision' is {self.revision!r}, as 'revision' is; expected another.")

    @property
    def revisions(self) -> tuple[str, ...]:
        """All revisions, the new one first."""
        return (self.revision, self.previous_revision) if self.previous_revision else (self.revision,)


class Throttle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rate limits of the whole service; None: only each topic's own limit."""

    publishes_per_s: Positive | None = None
    connects_per_s: Positive | None = None


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that can change while the service runs. `serving` is the revision that serves all clients."""

    serving: str
    cohort_percent: Percent
    throttle: Throttle = Throttle()


def first_traffic(deployment: Deployment) -> Traffic:
    """Return the initial traffic: the new revision serves all clients."""
    return Traffic(deployment.revision, deployment.cohort_percent)


def routing_answer(deployment: Deployment, traffic: Traffic, thread_id: str, key: str) -> dict[str, Any]:
    """Return the routing service's answer for a key. No key is routed to a revision that was rolled back."""
    bucket = cohort_bucket(ROUTING_SCOPE, key)
    in_canary = bucket < traffic.cohort_percent
    is_new = in_canary and traffic.serving == deployment.revision
    return {
        "thread_id": thread_id,
        "cohort_key": key,
        "bucket": bucket,
        "cohort": CANARY if in_canary else CONTROL,
        "percent": traffic.cohort_percent,
        "revision": deployment.revision if is_new else deployment.previous_revision or deployment.revision,
    }


def switches_in_force(deployment: Deployment, traffic: Traffic, chosen: Switches) -> Switches:
    """Return the chosen switches with the defects of the serving revision added."""
    return msgspec.structs.replace(chosen, defects=chosen.defects | defects_of(deployment, traffic.serving))


def defects_of(deployment: Deployment, revision: str) -> set[Defect]:
    """Return the defects of a revision itself."""
    return set(deployment.canary_defects) if revision == deployment.revision else set()


def unknown_revision(deployment: Deployment, revision: str) -> str:
    """Return the error message for an unknown revision; empty for a known one."""
    if revision in deployment.revisions:
        return ""
    return f"there is no revision {revision!r}; there are: {', '.join(deployment.revisions)}"


def cohort_bucket(scope: str, key: str, seed: str = CANARY_SEED) -> int:
    """The bucket of a key: first 4 bytes, big-endian, of SHA-256 of `<seed>|<scope>|<key>`, mod 100 (the control service's)."""
    digest = hashlib.sha256(f"{seed}|{scope}|{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100


def in_cohort(scope: str, key: str, percent: int, seed: str = CANARY_SEED) -> bool:
    """Whether a key is among the first `percent` (0..100) of its scope."""
    return cohort_bucket(scope, key, seed) < percent
