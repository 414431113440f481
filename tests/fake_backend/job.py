"""What a command of the fake backend runs with."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fake_backend.node import FakeNode

__all__ = ["Exit", "Job", "Read", "Write"]

Write = Callable[[bytes], Awaitable[None]]
Read = Callable[[], Awaitable[bytes]]


class Exit(Exception):
    """`exit N`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Job:
    """The node, the environment and the streams; background children are added to `children`."""

    node: FakeNode
    env: dict[str, str]
    cwd: str
    user: str
    read: Read
    out: Write
    err: Write
    children: set[asyncio.Task[int]] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)  # by `trap '' NAME`

    def path(self, text: str) -> str:
        return posixpath.join(self.cwd, text)

    async def complain(self, text: str, code: int = 1) -> int:
        await self.err(f"{text}\n".encode())
        return code
