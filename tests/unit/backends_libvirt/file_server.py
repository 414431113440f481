"""A web server on loopback with files, ranges and faults."""

from __future__ import annotations

import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class File:
    """What is at a path. `cuts` says after how many bytes each of the next answers breaks off."""

    content: bytes
    etag: str | None = '"one"'
    changed: str | None = None
    ranges: bool = True
    length: int | None = None  # what is said, where it is not the truth
    statuses: list[int] = field(default_factory=list)  # of the next answers
    cuts: list[int] = field(default_factory=list)
    stall: threading.Event | None = None  # after the first half, until this is set
    location: str | None = None


@dataclass
class Server:
    url: str
    files: dict[str, File] = field(default_factory=dict)
    requests: list[Message] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def put(self, name: str, content: bytes, **more: Any) -> str:
        """Have a file, and return its URL."""
        self.files[f"/{name}"] = File(content, **more)
        return f"{self.url}/{name}"


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """Run the server; over TLS with a certificate and its key, both in one file."""
    httpd = _Httpd(("127.0.0.1", 0), _Handler)
    scheme = "http"
    if certificate is not None:
        scheme = "https"
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        httpd.socket = tls.wrap_socket(
            httpd.socket, server_side=True, do_handshake_on_connect=False
        )
    httpd.shared = Server(f"{scheme}://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield httpd.shared
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True
    shared: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Httpd

    def do_GET(self) -> None:
        shared = self.server.shared
        shared.requests.append(self.headers)
        file = shared.files.get(self.path.partition("?")[0])
        status = 404 if file is None else file.statuses.pop(0) if file.statuses else 200
        if file is None or status >= 300:
            return self._refuse(status, file)
        start = self._start(file)
        if start > len(file.content):
            return self._refuse(416, file)
        shared.statuses.append(206 if start else 200)
        self.send_response(206 if start else 200)
        if start:
            size = len(file.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in (("ETag", file.etag), ("Last-Modified", file.changed)):
            if value:
                self.send_header(name, value)
        length = file.length if file.length is not None else len(file.content) - start
        if length >= 0:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with suppress(OSError):
            self._send(file, file.content[start:])
        return None

    def _send(self, file: File, data: bytes) -> None:
        if file.stall is not None:
            self.wfile.write(data[: len(data) // 2])
            file.stall.wait(20)
            return
        if file.cuts:
            self.wfile.write(data[: file.cuts.pop(0)])
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)

    def _start(self, file: File) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in {file.etag, file.changed}
        return int(asked[1]) if asked and file.ranges and same else 0

    def _refuse(self, status: int, file: File | None) -> None:
        self.server.shared.statuses.append(status)
        self.send_response(status)
        if file is not None and file.location:
            self.send_header("Location", file.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing."""
