"""What a marker costs: bytes of a payload, and CPU to publish an event, to read its payload first, and to read it again.

`python -m tests.bench.markers` measures it alone.
"""

import time
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console

from sim.client.marks import Marks
from sim.protocols.markers import MarkerReader, bytes_of, marked
from sim.protocols.payloads import canonical_json

EVENTS = 20_000
ROUNDS = 5
PAYLOAD_BYTES = 64  # the default of drills
RUN, STREAM = "5f0c9b1a77d2", "runtime.run.1.events"


def run() -> dict[str, float]:
    """The best of some rounds, per event."""
    texts = ["x" * max(PAYLOAD_BYTES - bytes_of(number), 0) for number in range(1, EVENTS + 1)]
    plain = [{"number": number, "text": text} for number, text in enumerate(texts, 1)]
    sent = [marked(payload, RUN, STREAM, number) for number, payload in enumerate(plain, 1)]
    delivered = [msgspec.Raw(canonical_json({"payload": payload})) for payload in sent]
    reader, marks = MarkerReader(RUN), Marks()
    same = delivered[:1] * EVENTS  # what all other clients of the process get
    return {
        "bytes of a marker, within payload_bytes": float(bytes_of(EVENTS)),
        "us to mark a payload": _us(lambda: [marked(payload, RUN, STREAM, 1) for payload in plain]),
        "us to read a new payload": _us(lambda: _read(MarkerReader(RUN), delivered)),
        "us to read a known payload": _us(lambda: _read(reader, same)),
        "us to note an event as received": _us(lambda: _note(marks)),
    }


def _read(reader: MarkerReader, payloads: Sequence[msgspec.Raw]) -> None:
    for payload in payloads:
        reader.read(payload, STREAM)


def _note(marks: Marks) -> None:
    for number in range(1, EVENTS + 1):
        marks.take((number,))


def _us(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / EVENTS * 1e6


def show(result: dict[str, float]) -> None:
    """One line per cost."""
    for name, value in result.items():
        Console().print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    show(run())
