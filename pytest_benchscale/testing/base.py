"""What all parts of the contract share: the attributes a backend sets, labs, small helpers."""

from __future__ import annotations

import asyncio
import functools
import itertools
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import NotSupported
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.node import Node
from pytest_benchscale.lab.process import Process
from pytest_benchscale.results import ExecResult
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.topology.model import Topology

__all__ = [
    "MIB",
    "Contract",
    "count_sleeping",
    "needs_python",
    "requires",
    "unique_seconds",
    "until_sleeping",
]

MIB = 1 << 20

PAIR = """
metadata: {name: contract-pair}
network: {name: lan}
nodes:
  - name: alpha
    env: {ROLE: first, GREETING: "it's \\"quoted\\" $HOME"}
  - name: beta
"""

SERVER = """
import socket, sys
address, port, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode() * int(sys.argv[4])
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((address, port))
server.listen()
print("serving", flush=True)
while True:
    client, peer = server.accept()
    print("client", peer[0], flush=True)
    with client:
        client.sendall(answer)
"""

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as server:
    while data := server.recv(65536):
        sys.stdout.buffer.write(data)
"""

Self = TypeVar("Self", bound="Contract")
P = ParamSpec("P")
Test = Callable[Concatenate[Self, P], Coroutine[Any, Any, None]]


@pytest.mark.asyncio
class Contract:
    """The common base of the contract's parts; see `BackendContract` for how to use it."""

    backend: ClassVar[str] = ""
    image: ClassVar[str | None] = None
    python: ClassVar[str | None] = "python3"
    lacking: ClassVar[frozenset[Capability]] = frozenset()
    known_failures: ClassVar[Mapping[str, str]] = {}
    side_by_side: ClassVar[int] = 4
    slack: ClassVar[int] = 2

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Mark the known failures: a test that begins to pass must be taken off the list."""
        super().__init_subclass__(**kwargs)
        for known, reason in cls.__dict__.get("known_failures", {}).items():
            name, _, case = known.removesuffix("]").partition("[")
            test = getattr(cls, name, None)
            if not isinstance(test, types.FunctionType) or (case and case not in _cases(test)):
                raise TypeError(f"{cls.__name__}.known_failures names no test: {known!r}")
            setattr(cls, name, _expected_to_fail(test, case, reason))

    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        """The backend under test, by its entry point's name."""
        return cls.backend

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _backend_under_test(cls, backend_name: str) -> None:
        cls.backend = backend_name

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, _backend_under_test: None) -> Iterator[Lab]:
        """Two nodes on one network, shared by every test that leaves them as they were."""
        with cls.open(PAIR) as lab:
            yield lab

    @pytest.fixture
    def node(self, pair: Lab) -> Node:
        """A running node."""
        return pair["alpha"]

    @pytest.fixture
    def inside(self, node: Node) -> str:
        """A fresh directory inside `node`."""
        path = f"/tmp/contract-{next(_numbers)}"  # noqa: S108  the node's own /tmp
        node.sync.exec(["mkdir", "-p", path]).check()
        return path

    @classmethod
    def open(cls, text: str, directory: Path | None = None) -> AbstractContextManager[Lab]:
        """Bring up a lab from YAML text; paths in it are relative to `directory`."""
        return Lab.open_sync(cls.topology(text, directory), backend=cls.backend)

    @classmethod
    def open_in_loop(cls, text: str) -> AbstractAsyncContextManager[Lab]:
        """Bring up a lab from YAML text in an event loop."""
        return Lab.open(cls.topology(text), backend=cls.backend)

    @classmethod
    def topology(cls, text: str, directory: Path | None = None) -> Topology:
        """Load YAML text, with the image of this class on every node that names none."""
        path = directory / "topology.yaml" if directory else None
        topology = load_text(text, path=path)
        if cls.image is None:
            return topology
        nodes = tuple(
            node if node.image else node.model_copy(update={"image": cls.image})
            for node in topology.nodes
        )
        return topology.model_copy(update={"nodes": nodes})

    def program(self, text: str, *arguments: object) -> list[str]:
        """Return the command that runs a Python program inside a node."""
        assert self.python
        return [self.python, "-c", text, *map(str, arguments)]

    @asynccontextmanager
    async def serve(
        self,
        node: Node,
        port: int,
        *,
        address: str = "0.0.0.0",  # noqa: S104  inside the node
        times: int = 1,
    ) -> AsyncIterator[Process]:
        """Serve TCP inside the node: each client is sent the node's name, `times` over.

        The process says `client ADDRESS` for each.
        """
        server = self.program(SERVER, address, port, node.name, times)
        async with node.process(server) as process:
            await process.wait_for_line("serving", timeout=10)
            yield process

    async def fetch(self, node: Node, host: object, port: int) -> ExecResult:
        """Connect from the node to a server of `serve`; what it sent is the result's stdout."""
        return await node.exec(self.program(CLIENT, host, port), timeout=30)

    async def connects(self, node: Node, host: object, port: int) -> bool:
        """Return whether a server answers the node there, within two seconds."""
        return (await self.fetch(node, host, port)).ok

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the backend can do: what it declares, less what is not to be had here."""
        return registry.get(self.backend).capabilities - self.lacking


def requires(*needed: Capability) -> Callable[[Test[Self, P]], Test[Self, P]]:
    """The test needs capabilities. On a backend without one of them the test proves that it says so.

    There, the same steps must raise `NotSupported` that names the backend and what is missing.
    """

    def decorate(test: Test[Self, P]) -> Test[Self, P]:
        @functools.wraps(test)
        async def checked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
            missing = set(needed) - self.capabilities
            if not missing:
                await test(self, *args, **kwargs)
                return
            with pytest.raises(NotSupported) as caught:
                await test(self, *args, **kwargs)
            assert caught.value.backend == self.backend
            assert caught.value.capability in missing

        return checked

    return decorate


def needs_python(test: Test[Self, P]) -> Test[Self, P]:
    """The test runs Python inside its nodes: skipped, visibly, where the image has none."""

    @functools.wraps(test)
    async def checked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.python is None:
            pytest.skip("`python = None`: the image of this backend's contract has no Python")
        await test(self, *args, **kwargs)

    return checked


def unique_seconds() -> str:
    """Return an argument for `sleep` that no other process has, so that the process can be counted.

    It is months long: what still sleeps was never ended.
    """
    return str(10_000_000 + next(_numbers))


async def count_sleeping(node: Node, seconds: str) -> int:
    """Count the node's processes `sleep SECONDS`. One that has ended but is not reaped is none."""
    script = "cat /proc/[0-9]*/cmdline 2>/dev/null; true"
    listing = await node.exec(script, check=True)
    arguments = listing.stdout_bytes.split(b"\0")
    assert script.encode() in arguments, "it cannot be seen what runs in the node"
    return arguments.count(seconds.encode())


async def until_sleeping(node: Node, seconds: str, count: int = 1) -> None:
    """Wait until the node has that many processes `sleep SECONDS`: they need a moment to begin."""
    async with asyncio.timeout(20):
        while await count_sleeping(node, seconds) != count:
            await asyncio.sleep(0.02)


def _expected_to_fail(test: types.FunctionType, case: str, reason: str) -> types.FunctionType:
    """Return a copy of a test, or of one case of it, that is marked; the original stays as it is."""
    copy = types.FunctionType(
        test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__
    )
    copy.__kwdefaults__ = test.__kwdefaults__
    copy.__annotations__ = test.__annotations__
    copy.__dict__.update(test.__dict__)
    xfail = pytest.mark.xfail(reason=reason, strict=True)
    marks: list[pytest.Mark] = test.__dict__.get("pytestmark", [])
    if case:
        copy.__dict__["pytestmark"] = [_mark_case(mark, case, xfail) for mark in marks]
    else:
        copy.__dict__["pytestmark"] = [*marks, xfail.mark]
    return copy


def _cases(test: types.FunctionType) -> list[object]:
    """Return the values that a test is parametrised with."""
    marks: list[pytest.Mark] = test.__dict__.get("pytestmark", [])
    return [value for mark in marks if mark.name == "parametrize" for value in mark.args[1]]


def _mark_case(mark: pytest.Mark, case: str, xfail: pytest.MarkDecorator) -> pytest.Mark:
    """Return a parametrize mark with one more mark on one of its cases."""
    if mark.name != "parametrize":
        return mark
    names, values = mark.args
    marked = [pytest.param(value, marks=xfail) if value == case else value for value in values]
    return pytest.mark.parametrize(names, marked).mark


_numbers = itertools.count(1)
