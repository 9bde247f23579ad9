"""Allow requests from our own page only; another site in the operator's browser can neither read nor change anything."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_OWN = ("same-origin", "none")  # of `Sec-Fetch-Site`: our own page, or the address bar


def refusal(headers: Mapping[str, str], host: str, listens_on: str, *, changes: bool) -> str:
    """Return why a request is refused, as a sentence; empty if it is allowed. `host`: the request's Host header."""
    if _is_loopback(listens_on) and not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return f"this page is served on this machine only; open it as http://127.0.0.1:{urlsplit(f'//{host}').port or ''}."
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    is_foreign = site not in (*_OWN, None) or (origin is not None and urlsplit(origin).netloc != host)
    if is_foreign and (changes or headers.get("Sec-Fetch-Mode") != "navigate"):
        return "refused: the request comes from a page of another site."
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
