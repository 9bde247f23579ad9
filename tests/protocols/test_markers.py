"""Markers: what a delivered payload says about its event, whatever a service did to its form."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.json_pointer import find
from sim.engines.shared.client_setup import run_marker
from sim.protocols.markers import FOREIGN, KEY, Marker, MarkerReader, bytes_of, marked, parse
from sim.protocols.payloads import canonical_json

RUN, OTHER_RUN, STREAM, OTHER_STREAM = "5f0c9b1a77d2", "000000000000", "runtime.run.1.events", "runtime.run.2.events"
PAYLOAD = {"number": 3, "text": 'x"ä'}
NUMBERS = st.integers(1, 10**12 - 1)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def delivered(payload: object, **form: Any) -> msgspec.Raw:
    """An event of the mock, with the JSON formatted in any way."""
    return msgspec.Raw(json.dumps({"event_type": "run.progress", "payload": payload, "run_id": "1"}, **form).encode())


def read(raw: msgspec.Raw, stream: str = STREAM, pointer: str = "/payload") -> tuple[int, str]:
    return MarkerReader(RUN, pointer).read(raw, stream)


@given(number=NUMBERS, payload=st.dictionaries(st.text(), JSON).filter(lambda made: KEY not in made))
def test_a_marker_survives_every_form_of_the_json(number: int, payload: dict[str, Any]) -> None:
    sent = marked(payload, RUN, STREAM, number)
    assert len(sent[KEY]) <= 64
    assert sent[KEY].isascii()
    assert parse(sent[KEY]) == Marker(RUN, sent[KEY].split(".")[2], number, sent[KEY].split(".")[4])
    for form in ({}, {"indent": 2}, {"ensure_ascii": False, "sort_keys": True}):
        try:
            raw = delivered(sent, **form)
        except UnicodeEncodeError:  # a text that is not Unicode
            continue
        assert read(raw) == (number, "")


@given(number=NUMBERS, size=st.integers(0, 300))
def test_the_bytes_of_a_marker_are_known_before_it_is_made(number: int, size: int) -> None:
    payload = {"text": "x" * size}
    added = len(canonical_json(marked(payload, RUN, STREAM, number))) - len(canonical_json(payload))
    assert added == bytes_of(number)


def test_every_change_of_the_content_is_seen() -> None:
    sent = marked(PAYLOAD, RUN, STREAM, 3)
    assert read(delivered({**sent, "number": 4})) == (3, "checksum")
    assert read(delivered({**sent, "more": None})) == (3, "checksum")
    assert read(delivered({key: value for key, value in sent.items() if key != "text"})) == (3, "checksum")


def test_a_marker_of_another_stream_or_of_another_run_is_a_problem() -> None:
    raw = delivered(marked(PAYLOAD, RUN, STREAM, 3))
    assert read(raw, OTHER_STREAM) == (-1, "stream")
    assert MarkerReader(OTHER_RUN).read(raw, STREAM) == (-1, "run")
    assert MarkerReader().read(raw, STREAM) == FOREIGN, "a run without markers reads none"


@pytest.mark.parametrize(
    "payload",
    [
        *("", "null", "[]", "{}", '{"payload": 7}', '{"payload": {}}', '{"payload": {"marker": 7}}', "{" * 9, "\x00"),
        *('{"payload": {"marker": "sg.5f0c9b1a77d2.0a1b2c3d.-1.89abcdef"}}', '{"payload": {"marker": "sg"}}', "[" * 200_000),
        '{"payload": {"marker": "sg.5f0c9b1a77d2.0a1b2c3d.' + "9" * 30 + '.89abcdef"}}',
    ],
)
def test_whatever_a_peer_sends_instead_is_foreign(payload: str) -> None:
    assert read(msgspec.Raw(payload.encode())) == FOREIGN


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(payload: bytes) -> None:
    assert read(msgspec.Raw(payload)) == FOREIGN


@pytest.mark.parametrize(
    ("pointer", "shape"), [("", None), ("/a~1b/1", {"a/b": [0, None]}), ("/data/x~0", {"data": {"x~": None}})]
)
def test_the_published_payload_is_found_where_the_target_says(pointer: str, shape: Any) -> None:
    text = json.dumps(marked(PAYLOAD, RUN, STREAM, 3))
    raw = msgspec.Raw(json.dumps(shape).replace("null", text).encode())
    assert read(raw, pointer=pointer) == (3, "")
    assert find(json.loads(bytes(raw)), pointer)[KEY]


def test_the_run_of_a_marker_is_random_on_a_wall_clock_and_repeats_on_a_virtual_one() -> None:
    assert run_marker("virtual", 7) == run_marker("virtual", 7) != run_marker("virtual", 8)
    assert run_marker("wall", 7) != run_marker("wall", 7)
    assert all(parse(marked(PAYLOAD, run_marker(clock, 2**63), STREAM, 1)[KEY]) for clock in ("virtual", "wall"))


def test_a_reader_forgets_old_payloads_and_keeps_no_large_ones() -> None:
    reader = MarkerReader(RUN)
    for number in range(1, 3000):
        assert reader.read(delivered(marked({"text": "x" * (number % 2 * 5000)}, RUN, STREAM, number)), STREAM).number == number
    assert len(reader._known) <= 1024
    assert max(len(payload) for _, payload in reader._known) < 4096
