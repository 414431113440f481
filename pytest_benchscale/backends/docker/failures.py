"""What a daemon's refusal means, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_benchscale.backends.docker.engine import ApiError
from pytest_benchscale.errors import LabError

__all__ = ["explain", "lacks_init", "port_holder", "taken_port", "told"]

_TAKEN_PORT = (
    re.compile(r"Bind for \S*?:(?P<port>\d+) failed: port is already allocated"),
    re.compile(r"listen (?P<protocol>tcp|udp)\S* \S*?:(?P<port>\d+): bind: address already in use"),
    re.compile(r"bind host port \S*?:(?P<port>\d+)\S*: .*address already in use"),
    re.compile(r"listen on .*?:(?P<port>\d+).*address already in use"),
)
_ADVICE = {
    r"executable file not found|no such file or directory: unknown": "check the node's `command`: its "
    "image has no such program",
    r"permission denied: unknown": "check the node's `command`: it is not executable",
    r"is already in use by container|name is already in use": "remove the other container, which is not "
    "this lab's, or rename it",
    r"no command specified": "the image has neither a command nor `sleep`: give the node a `command`",
    r"bind source path does not exist|not a shared|mounts denied": "the daemon does not see this directory: "
    "it must be on the daemon's machine, and shared with it",
    r"minimum memory limit": "give the node a larger `memory_mb`",
    r"range of cpus": "give the node other `vcpus`",
    r"no space left": "make room on the daemon's disk, `docker system df` shows what takes it",
    r"all predefined address pools|no available": "remove networks that nobody needs: `docker network prune`",
    r"address already in use|not in the subnet|outside": "give the network a larger `subnet:`, or the node "
    "another address",
    r"operation not permitted|permission denied": "the daemon may not do this; look at its log",
}


def explain(error: ApiError, what: str, step: str, node: str | None = None) -> LabError:
    """Return what to tell when the daemon refused something."""
    text = error.explanation.strip()
    advice = (cure for pattern, cure in _ADVICE.items() if re.search(pattern, text, re.IGNORECASE))
    return LabError(f"{what}: {text}", node=node, step=step, resolution=next(advice, None))


@contextmanager
def told(what: str, step: str, node: str | None = None) -> Iterator[None]:
    """Make a `LabError` of a refusal."""
    try:
        yield
    except ApiError as error:
        raise explain(error, what, step, node) from error


def lacks_init(error: ApiError) -> bool:
    """Return whether a container did not start because the daemon's machine has no init for it."""
    return (
        re.search(r"(docker-init|catatonit|tini)\S* ?.*(not found|no such file)", error.explanation)
        is not None
    )


def taken_port(error: ApiError) -> int | None:
    """Return the port that somebody else has, when that is what the daemon says."""
    for pattern in _TAKEN_PORT:
        if match := pattern.search(error.explanation):
            return int(match["port"])
    return None


def port_holder(port: int, containers: Iterable[Mapping[str, Any]], own: str | None) -> str:
    """Return who has a port, of the daemon's containers or else another program."""
    for container in containers:
        published = {entry.get("PublicPort") for entry in container.get("Ports") or ()}
        if port in published and container["Id"] != own:
            return f"container {container['Names'][0].lstrip('/')!r} has it"
    return "another program on the daemon's machine has it"
