"""Names and limits of streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.spacetime.streams import (
    CODEX_WORKER_EVENTS,
    FALLBACK,
    SINGLE_TOPICS,
    run_events,
    stream_id,
    topic_class,
    topic_of,
)


def test_names_are_mapped_like_shipped_client(vectors):
    for line in vectors("mapping"):
        assert stream_id(line["topic"]) == line["stream_id"], line
        assert topic_of(line["stream_id"]) == line["back"], line


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "runtime.topic",
        "runtime.topic.",
        "runtime.run..events",
        "runtime.run.42",
        "runtime.fleet.user..workers",
        "elsewhere",
    ],
)
def test_invalid_stream_id_has_no_topic(stream):
    assert topic_of(stream) is None


def test_prefix_and_suffix_do_not_overlap():
    assert stream_id("run:events") == "runtime.topic.run.events"
    assert topic_class("run:events") is FALLBACK


@given(st.text())
def test_every_topic_has_a_stream_and_a_class(topic):
    assert stream_id(topic).startswith("runtime.")
    assert topic_class(topic).replay_budget_events > 0


@given(st.text())
def test_any_stream_id_is_read_without_empty_topic(stream):
    assert topic_of(stream) != ""


@given(st.text(min_size=1))
def test_known_topic_forms_round_trip(middle):
    for topic in (
        run_events(middle),
        f"worker:{middle}:lifecycle",
        f"fleet:user:{middle}:workers",
        f"fleet:guest:{middle}:workers",
    ):
        assert topic_of(stream_id(topic)) == topic
        assert topic_class(topic) is not FALLBACK


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("run:42:events", ("run_events", "warm", 20_000, 604_800, 240, 262_144, 300)),
        ("runtime.run_summaries", ("run_summaries", "warm", 20_000, 604_800, 240, 262_144, 300)),
        ("worker:w:lifecycle", ("worker_lifecycle", "warm", 10_000, 259_200, 180, 65_536, 120)),
        ("fleet:user:9:workers", ("fleet", "warm", 10_000, 259_200, 180, 65_536, 120)),
        ("fleet:guest:9:workers", ("fleet", "warm", 10_000, 259_200, 180, 65_536, 120)),
        ("runtime.codex_worker_summaries", ("codex_worker_summaries", "warm", 10_000, 259_200, 180, 65_536, 120)),
        (CODEX_WORKER_EVENTS, ("codex_worker_events", "hot", 3_000, 86_400, 240, 131_072, None)),
        ("runtime.notifications", ("notifications", "cold", 500, 43_200, 90, 65_536, None)),
        ("fleet:org:3:workers", ("fallback", "cold", 500, 43_200, 90, 65_536, None)),
        ("run::events", ("fallback", "cold", 500, 43_200, 90, 65_536, None)),
    ],
)
def test_topic_classes_have_their_limits(topic, expected):
    found = topic_class(topic)
    assert tuple(getattr(found, name) for name in found.__slots__) == expected


def test_single_topics_have_distinct_streams():
    assert len({stream_id(topic) for topic in SINGLE_TOPICS}) == len(SINGLE_TOPICS)
