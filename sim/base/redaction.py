"""Removes secrets from evidence."""

import base64
from collections.abc import Iterable
from urllib.parse import quote

MARK = b"[secret]"


class Redactor:
    """Replaces known secrets, also in percent-encoding and base64."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)
        self.longest = max(map(len, self._forms), default=0)  # bytes

    def __call__(self, data: bytes) -> bytes:
        """`data` without the secrets."""
        for form in self._forms:
            data = data.replace(form, MARK)
        return data

    def text(self, text: str) -> str:
        """`text` without the secrets."""
        return self(text.encode()).decode()


def _forms(secret: str) -> Iterable[bytes]:
    plain = secret.encode()
    return plain, quote(secret, safe="").encode(), base64.b64encode(plain), base64.urlsafe_b64encode(plain)
