"""Fetch a picture from the web, only with `allow_url=True`. No other file of the package opens a connection.

Limits: http and https, a total time, a number of bytes, and an answer whose content type is a picture's.
"""

from __future__ import annotations

import time
import urllib.request
from http.client import HTTPException, HTTPResponse

from ..config.errors import UserError

MAX_SECONDS = 20.0  # for the whole picture
MAX_BYTES = 64 << 20
CHUNK = 1 << 16  # bytes
SCHEMES = ("http", "https")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only: urllib also follows those to ftp."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(address: str) -> None:
    """Raise UserError for an address that is not http or https with a host."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise UserError(f"'{address}' cannot be fetched: expected http://host/picture.jpg or https://host/picture.jpg.")


def fetch_picture(address: str, *, seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> bytes:
    """Fetch the bytes of the picture at `address`, within `seconds` and at most `max_bytes`.

    Raises UserError with the reason: no such host or file, too slow, too large, or another content type.
    """
    check_address(address)
    end = time.monotonic() + seconds
    opener = urllib.request.OpenerDirector()  # build_opener would add handlers of files, ftp and data
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _CheckedRedirects(),
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
            return _read_body(answer, address, end, max_bytes)
    except urllib.error.HTTPError as error:
        raise UserError(f"'{address}': the server answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise UserError(f"'{address}' cannot be fetched: {reason}.") from error


def _read_body(answer: HTTPResponse, address: str, end: float, max_bytes: int) -> bytes:
    parts, size = [], 0
    while chunk := answer.read1(CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise UserError(f"'{address}' is larger than {max_bytes >> 20} MiB.")
        if time.monotonic() > end:
            raise UserError(f"'{address}' takes too long.")
    return b"".join(parts)
