"""Raw streams to a container daemon: the connection of a request that was upgraded.

The daemon answers `POST /exec/ID/start` with 101 and from then on the connection carries the bytes
of the command: its input from us, both its outputs from there, in frames. Format: Docker Engine API,
"Attach to a container". This is asyncio's own, since the SDK's blocks a thread for each stream, and may
lose what arrives together with the header.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.transports.shell.streams import STDOUT, Receiver

__all__ = ["DaemonAddress", "HijackError", "RawStream", "open_stream"]

_FRAME = struct.Struct(">BxxxL")  # STDOUT or STDERR, length
_HEADER_END = b"\r\n\r\n"
_LONGEST_HEADER = 64 << 10
_OPEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """Where a daemon listens. `kind` is unix, tcp or ssh; `tls` is for https.

    `path` is that of a Unix socket on this machine: the daemon's own, or one that leads to it by ssh.
    """

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    user: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that file system and kernel may be shared."""
        return self.kind == "unix"

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}"
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.kind}://{user}{self.host}{port}"


class HijackError(Exception):
    """The daemon did not upgrade a connection; `status` is 0 when it gave no answer at all."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status
        self.explanation = explanation


class RawStream(asyncio.Protocol):
    """One upgraded connection, from its request on."""

    def __init__(self, *, framed: bool = True) -> None:
        """`framed`: both outputs come in frames; else there is but one, as it is."""
        self._framed = framed
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _refuse
        self._pending = bytearray()
        self._left = 0  # bytes of the current frame still to come
        self._stream = STDOUT
        self._receiver: Receiver | None = None
        self._upgraded = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_closed = False
        self.failure: BenchscaleError | None = None  # the daemon is asked about it

    # --- for its user ---

    async def upgrade(self, request: bytes) -> None:
        """Send the request and wait for the daemon to upgrade the connection.

        Raises:
            HijackError: it did not.
        """
        self._write(request)
        await self._upgraded

    def deliver_to(self, receiver: Receiver) -> None:
        """Name who takes the output; what has come already is handed over at once."""
        self._receiver = receiver
        self._parse()
        if self.is_closed:
            receiver.closed()

    def write(self, data: bytes) -> None:
        """Send input without waiting; for little."""
        if not self.is_closed:
            self._write(data)

    async def send(self, data: bytes) -> None:
        """Send input; waits while the daemon takes no more.

        Raises:
            anyio.BrokenResourceError: the connection is closed.
        """
        await self._writable.wait()
        if self.is_closed:
            raise anyio.BrokenResourceError
        self._write(data)

    def end_input(self) -> None:
        """Close the input: the command reads to the end of the file."""
        transport = self._transport
        if self.is_closed or transport is None:
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:  # TLS cannot close one direction
            transport.close()

    def pause(self) -> None:
        """Stop reading: the daemon, and then the command, has to wait."""
        if self._transport is not None and not self.is_closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None and not self.is_closed:
            self._transport.resume_reading()

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # --- for the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  for the type checker
        self._transport = transport
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        """Take bytes of the header or of frames."""
        self._pending += data
        if not self._upgraded.done():
            self._read_header()
        if self._receiver is not None:
            self._parse()

    def eof_received(self) -> None:
        """The daemon has said everything; asyncio closes the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        self.is_closed = True
        self._writable.set()
        if not self._upgraded.done():
            reason = f": {exc}" if exc else ""
            self._upgraded.set_exception(
                HijackError(0, f"the daemon closed the connection{reason}")
            )
            self._upgraded.exception()  # perhaps nobody waits any more
        if self._receiver is not None:
            self._receiver.closed()

    def pause_writing(self) -> None:
        """Have `send` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._writable.set()

    def _read_header(self) -> None:
        end = self._pending.find(_HEADER_END)
        if end < 0:
            if len(self._pending) > _LONGEST_HEADER:
                self._upgraded.set_exception(HijackError(0, "no answer of a container daemon"))
            return
        status = _status_of(bytes(self._pending[:end]))
        if status in (101, 200):
            del self._pending[: end + len(_HEADER_END)]
            self._upgraded.set_result(None)
        elif _is_whole(self._pending, end):
            body = bytes(self._pending[end + len(_HEADER_END) :])
            self._upgraded.set_exception(HijackError(status, _message_of(body)))
            self.close()

    def _parse(self) -> None:
        """Hand over every complete or partial frame there is."""
        pending, receiver = self._pending, self._receiver
        assert receiver is not None  # noqa: S101  for the type checker
        if not self._framed:
            data = bytes(pending)
            pending.clear()
            if data:
                receiver.received(STDOUT, data)
            return
        position, size = 0, len(pending)
        while position < size:
            if not self._left:
                if size - position < _FRAME.size:
                    break
                self._stream, self._left = _FRAME.unpack_from(pending, position)
                position += _FRAME.size
                continue
            taken = min(self._left, size - position)
            receiver.received(self._stream, bytes(pending[position : position + taken]))
            self._left -= taken
            position += taken
        del pending[:position]


async def open_stream(
    address: DaemonAddress, path: str, body: object, *, framed: bool = True
) -> RawStream:
    """Send a request that the daemon answers by upgrading the connection; return the raw stream.

    Raises:
        HijackError: the daemon refused, cannot be reached or did not answer.
    """
    payload = json.dumps(body).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {address.host or 'localhost'}\r\n"
        "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    stream: RawStream | None = None
    try:
        with anyio.fail_after(_OPEN_SECONDS):
            stream = await _connect(address, framed=framed)
            await stream.upgrade(request)
    except BaseException as error:
        if stream is not None:
            stream.close()
        if isinstance(error, OSError):  # TimeoutError is one
            reason = str(error) or f"no answer within {_OPEN_SECONDS:g} s"
            raise HijackError(0, f"{address}: {reason}") from error
        raise
    return stream


async def _connect(address: DaemonAddress, *, framed: bool) -> RawStream:
    loop = asyncio.get_running_loop()
    make = functools.partial(RawStream, framed=framed)
    if address.path:
        _, stream = await loop.create_unix_connection(make, address.path)
    else:
        _, stream = await loop.create_connection(make, address.host, address.port, ssl=address.tls)
    return stream


def _status_of(header: bytes) -> int:
    words = header.split(None, 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _is_whole(answer: bytearray, header_end: int) -> bool:
    """Return whether the body of a refusal has come; without a length it is whatever there is."""
    for line in bytes(answer[:header_end]).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(answer) - header_end - len(_HEADER_END) >= int(line[15:])
    return True


def _message_of(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    start = text.find("{")
    if start >= 0:
        try:
            message = json.loads(text[start : text.rfind("}") + 1]).get("message")
        except (ValueError, AttributeError):
            message = None
        if message:
            return str(message)
    return text or "the daemon refused"


def _refuse(data: bytes) -> None:
    raise anyio.BrokenResourceError
