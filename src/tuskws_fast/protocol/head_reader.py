"""The head of a request from pieces of any size: what ext/head leaves to others, read by httptools (llhttp, strict).

    feed(piece) ─▶ None: more is needed │ Head, and in `behind` what came after it │ HeadError: its status is the answer

Bounded before it is complete: in bytes, in headers. No I/O.
"""

from __future__ import annotations

from http import HTTPStatus

import httptools
from tuskws_fast_ext.head import Head

HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100


class HeadError(ValueError):
    """No request, or too large a one."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class HeadReader:
    """One request; also the receiver of httptools' callbacks."""

    __slots__ = ("_complete", "_headers", "_parser", "_received", "_target", "behind")

    def __init__(self) -> None:
        self.behind = b""
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._received = 0
        self._complete = False

    def feed(self, data: bytes) -> Head | None:
        """Raises `HeadError`."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.behind = data[upgrade.args[0] :]
            self._complete = True
        except httptools.HttpParserError:
            self._check_size()
            raise HeadError(HTTPStatus.BAD_REQUEST) from None
        self._check_size()
        if not self._complete:
            return None
        method, version = self._parser.get_method().decode("ascii"), self._parser.get_http_version()
        return Head(method, self._target, version, self._headers)

    def _check_size(self) -> None:
        if self._received - len(self.behind) > HEAD_BYTES_MAX or len(self._headers) > HEADERS_MAX:
            raise HeadError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    # -- httptools -----------------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 §5.5: white space around a value is no part of it; the parser leaves what is behind.
        self._headers.append((name.lower(), value.rstrip(b" \t")))
        if len(self._headers) > HEADERS_MAX:
            raise httptools.HttpParserError("too many headers")

    def on_message_complete(self) -> None:
        self._complete = True
