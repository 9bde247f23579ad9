"""The mock while its keys change, its minting is out, its delivery is down: what HTTP and sockets answer."""

import pytest
from websockets.exceptions import InvalidStatus

from tests.served import Raw, Served


def opens(mock: Served, token: str) -> int:
    """The status that an upgrade is answered with."""
    try:
        with Raw(mock, token):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_keys_are_rotated_and_retired(mock: Served):
    old = mock.token()
    kid = mock.http.put("/_mock/keys", json={"rotate": True}).json()["kid"]
    assert mock.token_response().json()["data"]["kid"] == kid
    new = mock.token()
    assert (opens(mock, old), opens(mock, new)) == (101, 101)
    assert mock.http.put("/_mock/keys", json={"rotate": False}).json()["kid"] == kid
    assert (opens(mock, old), opens(mock, new)) == (403, 101)


def test_without_delivery_only_http_is_served(mock: Served):
    token, run_id = mock.token(), mock.run()
    try:
        with Raw(mock, token) as raw:
            raw.join()
            mock.switch(delivery_down=True)
            assert raw.to_the_end() == []
        assert opens(mock, token) == 503
        assert mock.publish(run_id).status_code == 201
        assert mock.token_response().status_code == 200
    finally:
        mock.switch()
    assert opens(mock, token) == 101


@pytest.mark.parametrize(("switches", "kind"), [({"mint_outage": True}, "mint_outage"), ({"mint_ahead_s": 9}, "skew_control")])
def test_minting_faults_have_an_observed_effect(mock: Served, switches: dict[str, object], kind: str):
    before = mock.state()["acted"].get(kind, 0)
    mock.switch(**switches)
    mock.token_response()
    mock.switch()
    assert mock.state()["acted"][kind] == before + 1
