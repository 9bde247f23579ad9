"""Tokens that are signed here: with a shared secret, or with a private key."""

import base64

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sim.base.errors import UsageError
from sim.service.forms import TokenForm
from sim.service.tokens import signed_token

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LINE = base64.b64encode(KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())).decode()
VALUES = {"now": 1_700_000_000, "ttl_s": 60, "unique": "u"}
CLAIMS = {"sub": "drill", "exp": "{expires_at}"}


def test_token_is_signed_with_a_private_key_under_the_servers_name_of_the_algorithm() -> None:
    form = TokenForm(source="signing_key", algorithm="EdDSA", claims=CLAIMS, header={"alg": "ed25519-nkey"})
    token = signed_token(form, VALUES, LINE)
    assert jwt.get_unverified_header(token) == {"typ": "JWT", "alg": "ed25519-nkey"}
    text, _, signature = token.rpartition(".")
    KEY.public_key().verify(base64.urlsafe_b64decode(signature + "=="), text.encode())
    assert jwt.decode(token, options={"verify_signature": False}) == {"sub": "drill", "exp": 1_700_000_060}


def test_token_is_signed_with_a_shared_secret_by_default() -> None:
    secret = "a secret of thirty-two characters."
    token = signed_token(TokenForm(source="signing_key", claims=CLAIMS), VALUES, secret)
    options = {"verify_exp": False}
    assert jwt.decode(token, secret, ["HS256"], options=options) == {"sub": "drill", "exp": 1_700_000_060}


def test_key_of_another_algorithm_is_refused() -> None:
    with pytest.raises(UsageError, match="no key for EdDSA"):
        signed_token(TokenForm(source="signing_key", algorithm="EdDSA", claims=CLAIMS), VALUES, "a secret")
