"""The trusted certificate authorities, read once per process because reading takes longer than a connection."""

import ssl
from functools import cache


@cache
def trusted() -> ssl.SSLContext:
    """The system's authorities, or those of `SSL_CERT_FILE`."""
    return ssl.create_default_context()
