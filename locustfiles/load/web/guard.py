"""Who may ask: our own page. Another site that an operator's browser has open may neither read nor change anything."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_OWN = ("same-origin", "none")  # of `Sec-Fetch-Site`: our own page, or what was typed into the address bar


def refusal(headers: Mapping[str, str], host: str, listens_on: str, *, changes: bool) -> str:
    """Why a request is not answered, in a sentence; empty if it is. `host`: as the request names us, with the port."""
    if _is_loopback(listens_on) and not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return f"this page is served on this machine only; open it as http://127.0.0.1:{urlsplit(f'//{host}').port or ''}."
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    is_foreign = site not in (*_OWN, None) or (origin is not None and urlsplit(origin).netloc != host)
    if is_foreign and (changes or headers.get("Sec-Fetch-Mode") != "navigate"):
        return "this was asked by a page of another site, which may neither read nor change anything here."
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
