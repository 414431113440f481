"""The traffic control of a container's network, changed by a short-lived container beside it.

For daemons whose containers cannot be entered from here: on another machine, or an ordinary user's. The
helper shares the node's network namespace and nothing else, and is removed as soon as it has ended.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress

import anyio

from pytest_benchscale.backends.docker import failures, images
from pytest_benchscale.backends.docker.containers import Containers
from pytest_benchscale.backends.docker.contents import has_one_of
from pytest_benchscale.backends.docker.engine import ApiError
from pytest_benchscale.backends.docker.errand import Errand
from pytest_benchscale.backends.docker.node import DockerNode, Fate
from pytest_benchscale.errors import BenchscaleError, LabError
from pytest_benchscale.network.standing import undoing
from pytest_benchscale.network.steps import DeleteClassifier, SetNetem, Step
from pytest_benchscale.network.tc_text import Batch, batches
from pytest_benchscale.topology import images as catalogue
from pytest_benchscale.topology.images import TOOLS

_SOMEBODY_ELSES = "Exclusivity flag on"  # what tc says of a `clsact` that is there already
__all__ = ["HelpedConduit", "Helper"]

_ADVICE = (
    f"name an image with iproute2 in it, by --benchscale-image {TOOLS}=REFERENCE, which is run beside the "
    "node for a moment; or have iproute2 in the node's own image; or run pytest as root on the daemon's "
    "machine, which needs neither"
)
_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_PLACES = {tool: tuple(f"{place}/{tool}" for place in _DIRECTORIES) for tool in ("tc", "ip")}
_SHELL = "/bin/sh"
_LONGEST = 64 * 1024  # characters of an argument; Linux takes twice as many
_NO_TOOL = 127  # what a shell ends with when a command is not there
_SIGNS = {"qdisc kind is unknown": errno.ENOENT, "Cannot find device": errno.ENODEV}
_ANSWERS = "RTNETLINK answers: "
_REMOVAL_SECONDS = 15.0


class Helper:
    """Runs commands of iproute2 in network namespaces at the daemon of one lab."""

    def __init__(self, containers: Containers) -> None:
        self._engine, self._remover = containers.engine, containers.remover
        self._lab, self._labels = containers.lab, containers.labels
        self._dialect = containers.dialect
        self._has_tools: dict[str, asyncio.Future[bool]] = {}

    async def has_netem(self) -> bool:
        """Return whether the kernel there has netem: tried where the user has named an image for that.

        Without one True: it cannot be known before there is a container.
        """
        if TOOLS not in self._lab.images:
            return True
        try:
            trial = SetNetem("lo", delay=1_000_000, limit=1000)
            await self.run(await self._named(), "none", batches([trial]))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise LabError(
                    f"the image {self._lab.images[TOOLS]!r} cannot change traffic control: {error}",
                    step="conditions",
                    resolution=_ADVICE,
                ) from error
            return False
        return True

    async def image_for(self, node: DockerNode) -> str:
        """Return the image to run beside a node: the one that the user has named, else the node's own.

        Raises:
            LabError: there is neither; says what to do.
        """
        if TOOLS in self._lab.images:
            return await self._named()
        if node.image not in self._has_tools:
            self._has_tools[node.image] = asyncio.ensure_future(self._look(str(node.container)))
        if await asyncio.shield(self._has_tools[node.image]):
            return node.image
        name = node.plan.name
        raise LabError(
            f"the links of node {name!r} cannot be changed: its daemon at {self._engine.address} runs it "
            "where this process cannot enter its network, and its image has no `tc` and `ip`",
            node=name,
            step="conditions",
            resolution=_ADVICE,
        )

    async def run(self, image: str, network: str, commands: Sequence[Batch]) -> None:
        """Run commands one after the other in a container with this network mode, and remove it.

        Raises:
            OSError: one of them failed; `strerror` has what it said.
            ApiError, BackendUnavailable: the daemon did not run it.
        """
        client = self._engine.client
        errand = Errand(
            self._engine,
            client.create_container_from_config,
            config=self._config(image, network, commands),
            name=f"benchscale-{self._lab.lab_id}-{TOOLS}-{uuid.uuid4().hex[:8]}",
            platform=None,
        )
        try:
            container = await errand.identifier()
            await self._start(image, container)
            code = (await self._engine.call(client.wait, container))["StatusCode"]
            words = await self._engine.call(client.logs, container) if code else b""
        finally:
            with anyio.move_on_after(_REMOVAL_SECONDS, shield=True):
                if (made := await errand.outcome()) is not None:
                    await self._remover.container(made)
        if code:
            raise _error(image, code, words.decode(errors="replace").strip())

    async def _start(self, image: str, container: str) -> None:
        try:
            await self._engine.call(self._engine.client.start, container)
        except ApiError as error:
            if _SHELL not in error.explanation:
                raise
            raise _error(image, _NO_TOOL, error.explanation) from error

    async def _named(self) -> str:
        return await images.ensure(
            self._engine,
            catalogue.resolve(TOOLS, self._engine.name, self._lab.images),
            directory=self._lab.directory,
            platform=None,
            labels=self._labels,
            progress=self._lab.progress,
        )

    async def _look(self, container: str) -> bool:
        look = functools.partial(has_one_of, self._engine, container)
        return all([await self._engine.call(look, places) for places in _PLACES.values()])

    def _config(self, image: str, network: str, commands: Sequence[Batch]) -> dict[str, object]:
        logging = {
            "Type": self._dialect.log_driver,
            "Config": dict(self._dialect.log_options),
        }
        return {
            "Image": image,
            "User": "0:0",
            "Entrypoint": [],
            "Cmd": _command(commands),
            "Healthcheck": {"Test": ["NONE"]},
            "Labels": dict(self._labels),
            "HostConfig": {
                "NetworkMode": network,
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_ADMIN", "DAC_OVERRIDE"],
                "LogConfig": logging,
            },
        }


class HelpedConduit:
    """The way to the traffic control of one run of a container, through helpers beside it."""

    def __init__(self, node: DockerNode, helper: Helper, fate: Fate) -> None:
        self._node = node
        self._container = node.container
        self._helper = helper
        self._fate = fate
        self._turn = asyncio.Lock()
        self._error: BenchscaleError | None = None

    async def change(self, steps: Sequence[Step]) -> None:
        """Have a helper carry out the steps.

        Raises:
            OSError: the kernel refused one, or a tool is missing.
            NodeDied: the container has ended, and with it everything that acted on its links.
            LabError: there is no image for a helper, or the daemon refused it.
            BackendUnavailable: the daemon does not answer.
        """
        async with self._turn:
            self._check()
            image = await self._helper.image_for(self._node)
            name = self._node.plan.name
            try:
                with failures.told(f"the links of node {name!r} were not changed", "links", name):
                    network = f"container:{self._container}"
                    await self._run(image, network, steps)
            except (OSError, LabError) as error:
                self._check()
                if (reason := await self._fate()) is not None:
                    raise reason from error
                raise

    async def _run(self, image: str, network: str, steps: Sequence[Step]) -> None:
        try:
            await self._helper.run(image, network, batches(steps))
        except OSError as error:
            for step in undoing(steps):
                if isinstance(step, DeleteClassifier) and _SOMEBODY_ELSES in str(error):
                    continue
                with suppress(OSError):  # it was not made
                    await self._helper.run(image, network, batches([step]))
            raise

    def lost(self, error: BenchscaleError) -> None:
        """Take note that the container has ended."""
        self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _command(commands: Sequence[Batch]) -> list[str]:
    """Return a command that runs others; what each of them reads is among its arguments.

    So a helper takes no more requests than any container: each is slow where the daemon is far away.
    """
    parts: list[str] = []
    words: list[str] = []
    for argv, text in commands:
        places = []
        for start in range(0, len(text), _LONGEST):
            words.append(text[start : start + _LONGEST])
            places.append(f'"${{{len(words)}}}"')
        parts.append(f"printf %s {' '.join(places)} | {' '.join(argv)}")
    script = f"PATH=$PATH:{':'.join(_DIRECTORIES)}; {' && '.join(parts)}"
    return [_SHELL, "-c", script, _SHELL, *words]


def _error(image: str, code: int, words: str) -> OSError:
    """Return what a helper's end means, with the kernel's own number where it told."""
    if code == _NO_TOOL:
        return OSError(errno.ENOPKG, f"{image} lacks `ip`, `tc` or a shell: {words}")
    number = next((number for sign, number in _SIGNS.items() if sign in words), errno.EIO)
    for line in words.splitlines():
        if line.startswith(_ANSWERS):
            texts = {os.strerror(one): one for one in errno.errorcode}
            number = texts.get(line.removeprefix(_ANSWERS).strip(), number)
            break
    return OSError(number, words or f"it ended with exit code {code}", image)
