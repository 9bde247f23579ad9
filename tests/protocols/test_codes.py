"""Disconnect reasons and the classification of error texts."""

from hypothesis import given
from hypothesis import strategies as st

from sim.protocols.events import MINTS_FIRST, DisconnectReason
from sim.protocols.spacetime.codes import classify


def test_error_texts_are_classified_as_the_shipped_client_does(vectors):
    for line in vectors("classify"):
        assert classify(line["error"]) == line["reason"], line


def test_a_reason_classifies_as_itself():
    for reason in DisconnectReason:
        assert classify(reason) is reason


@given(st.text())
def test_any_text_has_a_reason_whatever_its_case(text):
    assert classify(text) in DisconnectReason
    assert classify("TOKEN_REFRESH_DUE " + text) is DisconnectReason.TOKEN_REFRESH_DUE


def test_reasons_that_mint_first():
    assert {"token_refresh_due", "unauthorized", "forbidden"} == MINTS_FIRST
