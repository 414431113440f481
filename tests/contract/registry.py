"""A registry with one small image, on a loopback port, that counts what it is asked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["DIGEST", "Registry", "serve"]

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _layer() -> tuple[bytes, str]:
    """Return a compressed layer with one file that cannot be compressed, and the digest of its content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("noise")
        member.size = 300_000
        archive.addfile(member, io.BytesIO(os.urandom(member.size)))
    return gzip.compress(content.getvalue(), mtime=0), _digest(content.getvalue())


_LAYER, _CONTENT = _layer()
_CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/noise"]},
        "rootfs": {"type": "layers", "diff_ids": [_CONTENT]},
    }
).encode()
_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(_CONFIG),
            "digest": _digest(_CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": len(_LAYER),
                "digest": _digest(_LAYER),
            }
        ],
    }
).encode()
_BLOBS = {_digest(_LAYER): _LAYER, _digest(_CONFIG): _CONFIG}

DIGEST = _digest(_MANIFEST)


class Registry:
    """Has the image `tool` with the tags `latest` and `other`; `asked` holds the paths of all requests."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.asked: list[str] = []
        self.go_on = threading.Event()  # layers are held back while it is not set
        self.go_on.set()

    def find(self, path: str) -> tuple[bytes, str] | None:
        """Return what is at a path, and of which type it is."""
        self.asked.append(path)
        if path in ("/v2", "/v2/"):
            return b"{}", "application/json"
        if path in {f"/v2/tool/manifests/{tag}" for tag in ("latest", "other", DIGEST)}:
            return _MANIFEST, _MANIFEST_TYPE
        blob = _BLOBS.get(path.removeprefix("/v2/tool/blobs/"))
        if blob is _LAYER:
            self.go_on.wait(30)
        return (blob, "application/octet-stream") if blob else None


@contextmanager
def serve() -> Iterator[Registry]:
    """Serve until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  inherited
            pass

        def do_GET(self) -> None:
            found = registry.find(self.path)
            body, kind = found or (
                b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}',
                "application/json",
            )
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  inherited

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = Registry(f"127.0.0.1:{server.server_address[1]}")
        server.handle_error = _ignore  # type: ignore[method-assign]  # daemons hang up on cancelled pulls
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield registry
        finally:
            registry.go_on.set()
            server.shutdown()
            thread.join()


def _ignore(request: object, client_address: object) -> None: ...
