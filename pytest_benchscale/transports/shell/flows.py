"""Bytes between a command's streams and what blocks: iterators, and worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import anyio
from anyio import to_thread

from pytest_benchscale.transports.base import ByteReader, ByteWriter
from pytest_benchscale.transports.shell.relay import Relay, RelayBroken

__all__ = ["collect", "pump", "send"]

_MOST_KEPT = 64 << 10  # bytes


async def send(stream: ByteWriter, chunks: Iterator[bytes], *, ahead: bool = False) -> None:
    """Send what an iterator gives; with `ahead` the next chunk is got while one is sent.

    That pays for chunks that are read, not for those that are made: both would need the interpreter.
    """
    coming: asyncio.Future[bytes] | None = None
    try:
        while chunk := await (coming or to_thread.run_sync(next, chunks, b"")):
            coming = None
            if ahead:
                coming = asyncio.ensure_future(to_thread.run_sync(next, chunks, b""))
            await stream.send(chunk)
        await stream.aclose()
    except anyio.BrokenResourceError:
        pass  # why it reads no more, its exit code tells
    finally:
        if coming is not None:  # or a thread would use what its caller has closed
            with anyio.CancelScope(shield=True):
                await asyncio.gather(coming, return_exceptions=True)


async def pump(stream: ByteReader, relay: Relay) -> None:
    """Hand what comes over a stream to a worker thread, until either has enough."""
    try:
        while True:
            await relay.send(await stream.receive())
    except (anyio.EndOfStream, RelayBroken):
        pass
    finally:
        relay.end()


async def collect(stream: ByteReader) -> bytes:
    """Return the beginning of a stream, once it has ended."""
    kept = bytearray()
    with suppress(anyio.EndOfStream):
        while True:
            chunk = await stream.receive()
            kept += chunk[: _MOST_KEPT - len(kept)]
    return bytes(kept)
