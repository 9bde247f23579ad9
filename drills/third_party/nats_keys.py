"""Keys and signed statements of a NATS operator: who its accounts are, and who may connect to them.

They are the same on every machine, and public: only servers that drills start on this machine trust them.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OPERATOR, _ACCOUNT, _USER = 14 << 3, 0, 20 << 3  # first byte of a public key: its text then begins with O, A or U
_UNLIMITED = dict.fromkeys(("subs", "data", "payload"), -1)
_ACCOUNT_LIMITS = _UNLIMITED | dict.fromkeys(("imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
_STORAGE_LIMITS = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"stormgate {name}".encode()).digest())


def _public(kind: int, name: str) -> str:
    """Return a public key as NATS writes it: base32 of its kind, its bytes and a checksum."""
    raw = bytes([kind]) + _key(name).public_key().public_bytes_raw()
    return base64.b32encode(raw + _crc16(raw).to_bytes(2, "little")).rstrip(b"=").decode()


def _crc16(data: bytes) -> int:
    """Return the checksum CRC-16/XMODEM."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = crc << 1 ^ (0x1021 if crc & 0x8000 else 0)
        crc &= 0xFFFF
    return crc


def _signed(signer: str, claims: Mapping[str, Any]) -> str:
    parts = ({"typ": "JWT", "alg": ALGORITHM}, {"jti": "drill", "iat": 1_700_000_000, **claims})
    text = b".".join(_base64(msgspec.json.encode(part)) for part in parts)
    return (text + b"." + _base64(_key(signer).sign(text))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _account(name: str, limits: Mapping[str, object], **more: object) -> str:
    claims = {"type": "account", "version": 2, "limits": {**_ACCOUNT_LIMITS, **limits}, **more}
    return _signed("operator", {"iss": OPERATOR, "sub": _public(_ACCOUNT, name), "name": name, "nats": claims})


def clients_account(revoked_until: int = 0) -> str:
    """Return the signed statement of the clients' account. What they got up to this moment (Unix seconds) is revoked."""
    return _account("clients", _STORAGE_LIMITS, revocations={USER: revoked_until})


ALGORITHM = "ed25519-nkey"
OPERATOR, CLIENTS, SYSTEM, USER, _SETUP = (
    _public(kind, name)
    for kind, name in ((_OPERATOR, "operator"), (_ACCOUNT, "clients"), (_ACCOUNT, "system"), (_USER, "user"), (_USER, "setup"))
)
BEARER = {"type": "user", "version": 2, "bearer_token": True, "pub": {}, "sub": {}, **_UNLIMITED}  # needs no key of its own
OPERATOR_JWT = _signed(
    "operator",
    {"iss": OPERATOR, "sub": OPERATOR, "name": "drill", "nats": {"type": "operator", "version": 2, "system_account": SYSTEM}},
)
ACCOUNTS = {CLIENTS: clients_account(), SYSTEM: _account("system", {})}
USERS = {
    account: _signed(name, {"iss": account, "sub": _SETUP, "name": name, "nats": BEARER})
    for name, account in (("clients", CLIENTS), ("system", SYSTEM))
}
"""A token without an end, by account."""
_DER = _key("clients").private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
SIGNING_KEY = base64.b64encode(_DER).decode()  # of the account of clients
