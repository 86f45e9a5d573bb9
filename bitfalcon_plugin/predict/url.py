"""One picture from the web, for `allow_url=True` alone: the only file of the package that opens a connection.

Nothing but a picture's bytes is taken over: http and https, a total time, a size, and a server that calls it a picture.
"""

from __future__ import annotations

import time
import urllib.request
from http.client import HTTPException

from ..config.errors import UserError

SECONDS = 20.0  # for the whole picture
MOST_BYTES = 64 << 20
CHUNK = 1 << 16
SCHEMES = ("http", "https")


class _SameKind(urllib.request.HTTPRedirectHandler):
    # urllib by itself would follow a redirect to ftp.
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(address: str) -> None:
    """Raise UserError for an address that is not http or https with a host."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise UserError(f"'{address}' cannot be fetched: expected http://host/picture.jpg or https://host/picture.jpg.")


def fetch_picture(address: str, *, seconds: float = SECONDS, most: int = MOST_BYTES) -> bytes:
    """The bytes of the picture at `address`. seconds: for all of it; most: bytes.

    Raises UserError with what is wrong: no such host or file, too slow, too large, or not called a picture by the server.
    """
    check_address(address)
    end = time.monotonic() + seconds
    opener = urllib.request.OpenerDirector()  # without the handlers of files, ftp and data
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _SameKind(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(address, headers={"User-Agent": "bitfalcon", "Accept": "image/*"})
    try:
        with opener.open(request, timeout=seconds) as answer:
            kind = answer.headers.get_content_type()
            if not kind.startswith("image/"):
                raise UserError(f"'{address}' is {kind}, not a picture.")
            return _body(answer, address, end, most)
    except urllib.error.HTTPError as error:
        raise UserError(f"'{address}': the server answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise UserError(f"'{address}' cannot be fetched: {reason}.") from error


def _body(answer, address: str, end: float, most: int) -> bytes:
    parts, size = [], 0
    while chunk := answer.read1(CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise UserError(f"'{address}' is larger than {most >> 20} MiB.")
        if time.monotonic() > end:
            raise UserError(f"'{address}' takes too long.")
    return b"".join(parts)
