"""Disconnect reasons and the classification of error texts."""

from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import MINTS_FIRST, DisconnectReason
from sim.protocols.spacetime.codes import classify


def test_error_texts_are_classified_like_shipped_client(vectors):
    for line in vectors("classify"):
        assert classify(line["error"]) == line["reason"], line


def test_reason_classifies_as_itself():
    for reason in DisconnectReason:
        assert classify(reason) is reason


@given(st.text())
def test_any_text_has_a_reason_in_any_case(text):
    assert classify(text) in DisconnectReason
    assert classify("TOKEN_REFRESH_DUE " + text) is DisconnectReason.TOKEN_REFRESH_DUE


def test_three_reasons_mint_first():
    assert {"token_refresh_due", "unauthorized", "forbidden"} == MINTS_FIRST
