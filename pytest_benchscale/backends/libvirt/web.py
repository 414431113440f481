"""One request for a file, or for the rest of one; it can be ended from another thread."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["Answer", "Broken", "Line", "NoSuchRange", "Refused", "get", "shown"]

_SILENCE = 30.0  # seconds that a server may say nothing
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_TRY_BY_HAND = "check the address and the network: does `curl -fL` get it?"


class Broken(Exception):
    """It did not work, and may work in a moment; says why."""

    def __init__(self, reason: str, resolution: str = _TRY_BY_HAND) -> None:
        super().__init__(reason)
        self.resolution = resolution
        self.was_fruitful = False
        """Whether something came before."""


class Refused(Broken):
    """It will not work; says why."""


class NoSuchRange(Exception):
    """The server's file ends before what was asked for."""


class Line:
    """The connection under a request."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_closed = False

    def hold(self, opened: socket.socket) -> None:
        """Take note of the connection."""
        self._socket = opened
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """End it: whoever reads from it stops at once."""
        self._is_closed = True
        if self._socket is not None:
            with suppress(OSError):
                # Not the method of ssl's sockets, which takes the reader's state away under it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Answer:
    """What a server sends: from byte `start` on, `total` in all if that is known.

    `validator` names this state of the file, if the server has a name for it.
    """

    def __init__(self, response: Any, asked: int) -> None:
        self._response = response
        self.start, self.total = _extent(response, asked)
        self.validator = _validator(response)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._response.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            Broken: the connection broke.
        """
        try:
            data: bytes = self._response.read1(size)  # what has come, not all of it
        except (OSError, http.client.HTTPException) as error:
            raise _meaning(error) from error
        return data


def get(url: str, line: Line, start: int = 0, validator: str | None = None) -> Answer:
    """Ask for a file from byte `start` on, if it is still the one that `validator` names, else for all of it.

    Raises:
        Broken, Refused: there is none.
        NoSuchRange: it has no such byte.
    """
    bare, login = _without_login(url)
    try:
        # Only http and https come here, and redirects lead nowhere else.
        request = urllib.request.Request(bare)  # noqa: S310
        request.add_header("User-Agent", "pytest-benchscale")
        request.add_header("Accept-Encoding", "identity")
        if login:
            request.add_unredirected_header("Authorization", f"Basic {login}")
        if start and validator:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", validator)
        opener = urllib.request.build_opener(_Plain(line), _Tls(line))
        return Answer(opener.open(request, timeout=_SILENCE), start)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise NoSuchRange from error
        raise _status(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _meaning(error) from error


def shown(url: str) -> str:
    """Return a URL as messages show it: without what may be secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it is no URL
        return url.rpartition("@")[2]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="..." if parts.query else "", fragment=""))


class _Connection(http.client.HTTPConnection):
    line: Line

    def connect(self) -> None:
        super().connect()
        self.line.hold(self.sock)


class _TlsConnection(http.client.HTTPSConnection):
    line: Line

    def connect(self) -> None:
        super().connect()
        self.line.hold(self.sock)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def make(host: str, **options: Any) -> _Connection:
            connection = _Connection(host, **options)
            connection.line = self._line
            return connection

        return self.do_open(make, req)


class _Tls(urllib.request.HTTPSHandler):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def make(host: str, **options: Any) -> _TlsConnection:
            connection = _TlsConnection(host, context=ssl.create_default_context(), **options)
            connection.line = self._line
            return connection

        return self.do_open(make, req)


def _without_login(url: str) -> tuple[str, str]:
    """Return a URL without user and password, and those two as HTTP's basic login has them."""
    parts = urlsplit(url)
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url, ""
    login = base64.b64encode(unquote(user).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), login


def _extent(response: Any, asked: int) -> tuple[int, int | None]:
    """Return where what is sent begins, and how long the file is."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != asked:
            raise Broken("the server sent another part than was asked for")
        return asked, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(response: Any) -> str | None:
    """Return a strong validator (RFC 9110, section 8.8)."""
    tag: str | None = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    changed: str | None = response.headers.get("Last-Modified")
    return changed


def _status(error: urllib.error.HTTPError) -> Broken:
    reason = f"the server answers {error.code} {error.reason}".rstrip()
    if error.code in _PASSING:
        return Broken(reason, "try again later, or take the image from another server")
    if error.code in {401, 403, 407}:
        return Refused(reason, "give user and password as in https://USER:PASSWORD@HOST/...")
    return Refused(reason, "correct the address; images move when a new version is out")


def _meaning(error: Exception) -> Broken:
    """Return what an error of the network means."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Refused(
            f"the server's certificate is not to be trusted: {cause.verify_message}",
            "install the authority that signed it, or name it by SSL_CERT_FILE",
        )
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return Refused(f"there is no machine of that name: {cause.strerror}", _TRY_BY_HAND)
    if isinstance(cause, ConnectionRefusedError):
        return Broken("no server listens there")
    if isinstance(cause, TimeoutError):
        return Broken(f"the server said nothing for {_SILENCE:g} s")
    if isinstance(cause, http.client.InvalidURL) or (
        isinstance(cause, ValueError) and not isinstance(cause, OSError)
    ):
        return Refused(f"that is no address: {cause}", "correct it")
    return Broken(f"the connection broke: {cause}")
