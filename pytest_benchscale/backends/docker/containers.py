"""Making and starting the containers of one lab, with as few requests as possible."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import anyio
import requests

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.backends.docker import failures, images
from pytest_benchscale.backends.docker.ability import Ability
from pytest_benchscale.backends.docker.attachments import Attachments
from pytest_benchscale.backends.docker.contents import has_one_of
from pytest_benchscale.backends.docker.dialect import Dialect
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.errand import Errand
from pytest_benchscale.backends.docker.logs import with_times
from pytest_benchscale.backends.docker.network import Wiring
from pytest_benchscale.backends.docker.node import DockerNode, how_it_ended
from pytest_benchscale.backends.docker.removal import Remover
from pytest_benchscale.backends.docker.spec import (
    container_config,
    container_name,
    published,
)
from pytest_benchscale.errors import LabError

__all__ = ["AHEAD", "FORMER", "LAB_LABEL", "NETWORK_LABEL", "NODE_LABEL", "Containers"]

LAB_LABEL, NODE_LABEL, NETWORK_LABEL = "benchscale.lab", "benchscale.node", "benchscale.network"

AHEAD, FORMER = "_next", "_former"
"""What follows the name of a node's container in that of one that will be, or was; no host name has a "_"."""

_SLEEP = ("/bin/sleep", "/usr/bin/sleep")
_LAST_LINES = 20
_GONE = 404
_AT_ONCE_SECONDS = 0.1  # a command that does not live for so long was no node


@dataclasses.dataclass
class Containers:
    """What it takes to make the containers of a lab."""

    engine: Engine
    lab: LabPlan
    attachments: Attachments
    ability: Ability
    dialect: Dialect
    remover: Remover
    _has_sleep: dict[str, asyncio.Future[bool]] = dataclasses.field(default_factory=dict)

    @property
    def wirings(self) -> Mapping[str, Wiring]:
        """How each network of the lab is made, by its name."""
        return self.attachments.wirings

    @property
    def labels(self) -> dict[str, str]:
        """The labels of everything that belongs to the lab."""
        return {**self.lab.labels, LAB_LABEL: self.lab.lab_id}

    async def create(self, node: DockerNode) -> None:
        """Create a node's container and start it.

        Raises:
            LabError: that failed, or it ended at once; shows its last output.
        """
        plan = node.plan
        node.image = image = await self.image(plan)
        config = await self._config(node, image)
        await self._create(node, config)
        if not plan.spec.command and await self._lacks_sleep(image, node):
            node.own_command = True
            config = await self._config(node, image)
            await self._create_again(node, config)
        await self._start_first(node, config)

    async def create_again(self, node: DockerNode) -> None:
        """Create a container with the files that a node had when it was ready, and start it.

        Raises:
            LabError: that failed, or it ended at once.
        """
        config = await self._config(node, node.checkpoint or node.image)
        await self._create(node, config)
        await self._start_first(node, config)

    async def create_ahead(self, node: DockerNode) -> None:
        """Do the same under another name, and without connecting it: `connect` does, when it is needed.

        For nodes whose links are ours.

        Raises:
            LabError, ApiError: that failed.
        """
        config = await self._config(node, node.checkpoint or node.image)
        await self._create(node, config, AHEAD)
        await self.engine.call(self.engine.client.start, node.container)

    async def rename(self, node: DockerNode, suffix: str = "") -> None:
        """Give a node's container its name, or one besides it; one that is gone is no error.

        Raises:
            ApiError: the daemon refuses.
        """
        name = container_name(self.lab, node.plan) + suffix
        try:
            await self.engine.call(self.engine.client.rename, node.container, name)
        except ApiError as error:
            if error.status != _GONE:
                raise

    async def remove(self, node: DockerNode, *, paused: bool = False) -> None:
        """Remove a node's container, whatever has come of it, and its files.

        Raises:
            ApiError: the daemon refuses.
        """
        if node.creation is not None and (made := await node.creation.outcome()) is not None:
            await self.remover.container(made, paused=paused)
        await self.attachments.forget(node)

    async def _start_first(self, node: DockerNode, config: dict[str, Any]) -> None:
        """Start a container that was just created; without an init where there is none."""
        try:
            await self.start(node)
        except _NoInit:
            self.ability = dataclasses.replace(self.ability, init=False)
            config["HostConfig"]["Init"] = False
            await self._create_again(node, config)
            await self.start(node)

    async def image(self, plan: NodePlan) -> str:
        """Return what a node's container is to be made of; it is there then.

        Raises:
            LabError: it cannot be had.
        """
        return await images.ensure(
            self.engine,
            plan.image,
            directory=self.lab.directory,
            platform=plan.spec.platform,
            labels=self.labels,
            progress=self.lab.progress,
        )

    async def start(self, node: DockerNode, *, again: bool = False) -> None:
        """Start a container, and attach it to those networks that have to wait until then.

        `again`: its neighbours may have looked for it in vain.

        Raises:
            LabError: that failed, or it ended at once; shows its last output.
        """
        container = node.container
        assert container is not None  # noqa: S101  it was created
        try:
            await self.engine.call(self.engine.client.start, container)
        except ApiError as error:
            if self.ability.init and failures.lacks_init(error):
                raise _NoInit from error
            raise await self._did_not_start(node, error) from error
        await self.attachments.join_after_start(node)
        await self.connect(node, again=again)

    async def connect(self, node: DockerNode, *, again: bool = False) -> None:
        """Have a started container reach its networks; `again` as in `start`.

        Raises:
            LabError: that failed, or it has ended; shows its last output.
        """
        container, plan = node.container, node.plan
        assert container is not None  # noqa: S101  it was created
        known = await self.inspect(container)
        state = known["State"]
        if not state["Running"]:
            raise await self._ended_at_once(node, state)
        node.ports = published(known)
        if plan.interfaces:
            try:
                await self.attachments.settle(node, state["Pid"], again=again)
            except OSError as error:
                raise await self._not_attached(node, error) from error
        node.started(state)
        # Whom it was not to hear it hears until that is applied again: then there is no time to lose.
        if plan.spec.command and not node.lost_links:
            with anyio.move_on_after(_AT_ONCE_SECONDS):
                await node.ended.wait()
        node.lost_links = False
        if not node.is_alive:
            raise await self._ended_at_once(node, (await self.inspect(container))["State"])

    async def inspect(self, container: str) -> Mapping[str, Any]:
        """Return what the daemon knows of a container."""
        known: Mapping[str, Any] = await self.engine.call(
            self.engine.client.inspect_container, container
        )
        return known

    async def log(self, node: DockerNode, *, timestamps: bool = False) -> str:
        """Return what a container has written."""
        if node.container is None:
            return ""
        since = 0 if timestamps else node.log.since
        read = functools.partial(_read_log, self.engine, node, since, timestamps)
        text: str = await self.engine.call(read)
        return text

    async def _config(self, node: DockerNode, image: str) -> dict[str, Any]:
        binds = await self.attachments.binds(node)
        return container_config(
            node.plan,
            self.lab,
            self.wirings,
            image,
            self.labels | {NODE_LABEL: node.plan.name},
            ability=self.ability,
            dialect=self.dialect,
            own_command=node.own_command,
            binds=binds,
        )

    async def _create(self, node: DockerNode, config: dict[str, Any], suffix: str = "") -> None:
        plan = node.plan
        node.creation = Errand(
            self.engine,
            self.engine.client.create_container_from_config,
            config=config,
            name=container_name(self.lab, plan) + suffix,
            platform=plan.spec.platform,
        )
        try:
            node.container = await node.creation.identifier()
        except ApiError as error:
            what = f"node {plan.name!r} could not be created"
            raise failures.explain(error, what, "create", plan.name) from error
        await self.attachments.join_before_start(node)

    async def _create_again(self, node: DockerNode, config: dict[str, Any]) -> None:
        assert node.container is not None  # noqa: S101  it was created
        await self.remover.container(node.container)
        await self._create(node, config)

    async def _lacks_sleep(self, image: str, node: DockerNode) -> bool:
        """Return whether an image has no `sleep`; looked up once for all nodes, in the first one's files."""
        if image not in self._has_sleep:
            look = functools.partial(has_one_of, self.engine, str(node.container), _SLEEP)
            self._has_sleep[image] = asyncio.ensure_future(self.engine.call(look))
        return not await asyncio.shield(self._has_sleep[image])

    async def _not_attached(self, node: DockerNode, error: OSError) -> LabError:
        name = node.plan.name
        with anyio.move_on_after(_AT_ONCE_SECONDS):  # for the news, if it has ended just now
            await node.ended.wait()
        state = (await self.inspect(str(node.container)))["State"]
        if not state["Running"]:
            return await self._ended_at_once(node, state)
        return LabError(
            f"node {name!r} could not be attached to its networks: {error}",
            node=name,
            step="networks",
        )

    async def _did_not_start(self, node: DockerNode, error: ApiError) -> LabError:
        name = node.plan.name
        port = failures.taken_port(error)
        if port is None:
            return failures.explain(error, f"node {name!r} could not be started", "start", name)
        others = await self.engine.call(self.engine.client.containers)
        holder = failures.port_holder(port, others, node.container)
        return LabError(
            f"node {name!r} could not be started: port {port} is taken, {holder}",
            node=name,
            step="ports",
            resolution=f"end what has port {port}, or publish another one under `ports:`",
        )

    async def _ended_at_once(self, node: DockerNode, state: dict[str, Any]) -> LabError:
        name = node.plan.name
        lines = (await self.log(node)).splitlines()[-_LAST_LINES:]
        return LabError(
            f"node {name!r} ended as soon as it was started: {how_it_ended(state)}",
            node=name,
            step="start",
            details="\n".join(lines) or "it wrote nothing",
            resolution="correct its `command`: a node lives as long as its main process",
        )


class _NoInit(Exception):
    """The machine of the daemon has no program that could be the first process."""


def _read_log(engine: Engine, node: DockerNode, since: int, timestamps: bool) -> str:
    wanted = {"stdout": 1, "stderr": 1, "timestamps": 1, "since": since}
    try:
        body = _get(engine, f"containers/{node.container}/logs", wanted).content
    except ApiError as error:
        if error.status != _GONE:
            raise
        return node.log.text  # somebody has removed the container
    return with_times(body) if timestamps else node.log.update(body)


def _get(engine: Engine, path: str, parameters: Mapping[str, Any]) -> requests.Response:
    client = engine.client
    url = f"{client.base_url}/v{client.api_version}/{path}"
    response: requests.Response = client.get(url, params=parameters, timeout=client.timeout)
    if not response.ok:
        raise ApiError(response.status_code, response.json().get("message", response.reason))
    return response
