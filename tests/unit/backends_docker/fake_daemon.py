"""A daemon that says what a test wants it to say, over HTTP on a Unix socket or a loopback port."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

__all__ = ["DOCKER", "FakeDaemon", "Request", "on_port", "on_socket"]

DOCKER = {"ApiVersion": "1.41", "Version": "20.10", "Components": [{"Name": "Engine"}]}


class Request:
    """What a client asked for, and the way to answer."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = parts.path.partition("/v1.41")[2] or parts.path
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.headers = handler.headers

    def answer(self, body: object, status: int = 200) -> None:
        """Answer with JSON."""
        payload = json.dumps(body).encode()
        self._handler.send_response(status)
        self._handler.send_header("Content-Length", str(len(payload)))
        self._handler.end_headers()
        self._handler.wfile.write(payload)

    def begin(self) -> None:
        """Begin an answer in pieces."""
        self._handler.send_response(200)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def say(self, message: Mapping[str, object]) -> None:
        """Send a piece of it."""
        payload = json.dumps(message).encode() + b"\r\n"
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))
        self._handler.wfile.flush()

    def end(self) -> None:
        """Send the last piece."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def until_hung_up(self) -> None:
        """Wait until the client has closed the connection."""
        self._handler.connection.settimeout(30)
        with suppress(ConnectionResetError):  # it closed without having read all that was sent
            while self._handler.connection.recv(1 << 16):  # what nobody has read of the request
                pass


class FakeDaemon:
    """Answers with what is registered for `METHOD /path`; `seen` is what was asked for."""

    def __init__(self, url: str, version: object) -> None:
        self.url = url
        self.seen: list[Request] = []
        self.routes: dict[str, Callable[[Request], None]] = {
            "GET /version": lambda request: request.answer(version)
        }

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        request = Request(handler)
        self.seen.append(request)
        route = self.routes.get(f"{request.method} {request.path}")
        if route is None:
            request.answer({"message": f"no such thing: {request.path}"}, 404)
        else:
            route(request)

    def count(self, name: str) -> int:
        """Return how often `METHOD /path` was asked for."""
        return sum(f"{request.method} {request.path}" == name for request in self.seen)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def on_socket(path: Path, version: object = DOCKER) -> Iterator[FakeDaemon]:
    """Serve on a Unix socket."""
    daemon = FakeDaemon(f"unix://{path}", version)
    with _UnixServer(str(path), _handler(daemon)) as server, _running(server):
        yield daemon


@contextmanager
def on_port(
    version: object = DOCKER, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[FakeDaemon]:
    """Serve on a port of this machine's loopback interface, with TLS when given its context."""
    with _TcpServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        daemon = FakeDaemon(f"tcp://{host}:{server.server_address[1]}", version)
        server.RequestHandlerClass = _handler(daemon)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        with _running(server):
            yield daemon


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    server.handle_error = _ignore  # type: ignore[method-assign]  # clients may hang up
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def _ignore(request: object, client_address: object) -> None: ...


def _handler(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  inherited
            pass

        def do_GET(self) -> None:
            daemon.serve(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            daemon.serve(self)

        do_DELETE = do_GET  # noqa: N815  inherited

    return Handler


def silent_socket(path: Path) -> socket.socket:
    """Return a socket that takes connections and never answers, as that of a stopped daemon."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    return listener
