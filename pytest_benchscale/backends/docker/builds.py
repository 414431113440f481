"""Images that are built from a directory with a Dockerfile.

A built image belongs to the lab that it was built for: it is labelled and tagged as that lab's, and
`discard` removes it, together with the images of its steps. What the daemon had before, and took from its
cache, stays.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from weakref import WeakKeyDictionary

import docker.auth
import docker.errors
import docker.utils.build

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.docker.engine import ApiError, Engine
from pytest_benchscale.backends.docker.messages import Refused, messages, reaching
from pytest_benchscale.backends.sharing import Failed, Shared, once
from pytest_benchscale.errors import LabError

__all__ = ["LAB_LABEL", "build", "discard"]

LAB_LABEL = "benchscale.lab"

Ask = Callable[..., Awaitable[Any]]

_REPOSITORY = "benchscale-build"
_FILES = ("Dockerfile", "Containerfile")
_LAST_LINES = 20
_STEP = re.compile(r"^(?:step) \d+(?:/\d+)? ?: .*", re.IGNORECASE)
_LAYER = re.compile(r"^ ?--?-> ([0-9a-f]{11,64})$")  # Docker indents it and has three dashes
_MAY_STAY = (404, 409)  # gone, or the base of somebody else's build


class _Built:
    """What was built through one connection."""

    def __init__(self) -> None:
        self.tags: dict[str, str | None] = {}  # with the image's id, once it is there
        self.layers: list[str] = []  # ids, the newest last


_built: WeakKeyDictionary[Engine, _Built] = WeakKeyDictionary()


async def build(
    engine: Engine,
    directory: Path,
    platform: str | None,
    labels: Mapping[str, str],
    progress: Progress | None,
) -> str:
    """Return the id of the image of a directory, built once for each lab.

    Raises:
        LabError: there is no Dockerfile, or a step of it failed.
        BackendUnavailable: the daemon does not answer.
    """
    recipe = _recipe(directory, platform, labels)
    built = _built.setdefault(engine, _Built())
    if known := built.tags.get(recipe.tag):
        return known
    built.tags[recipe.tag] = None
    work = functools.partial(_build, engine, recipe, built.layers)
    identifier = await once(("build", str(engine.address), recipe.tag), work, progress)
    built.tags[recipe.tag] = identifier
    return identifier


async def discard(engine: Engine, ask: Ask | None = None) -> None:
    """Remove what was built through this connection; its containers are gone by now.

    `ask` is called as `engine.call` would be, for who wants to ask again while the daemon is away.

    Raises:
        ApiError: the daemon refuses, as for an image that another container uses.
        BackendUnavailable: the daemon does not answer.
    """
    built = _built.get(engine)
    while built and built.tags:
        await _remove(engine, ask, next(reversed(built.tags)), may_stay=(404,))
        built.tags.popitem()
    while built and built.layers:
        await _remove(engine, ask, built.layers[-1], may_stay=_MAY_STAY)
        built.layers.pop()


async def _remove(engine: Engine, ask: Ask | None, image: str, *, may_stay: Container[int]) -> None:
    try:
        # Without pruning: a parent that is not ours is somebody's cache.
        await (ask or engine.call)(engine.client.remove_image, image, noprune=True)
    except ApiError as error:
        if error.status not in may_stay:
            raise


@dataclass(frozen=True)
class _Recipe:
    """What to build. The tag is the lab's own, so that no other image ever loses it."""

    path: Path
    file: str
    platform: str | None
    labels: Mapping[str, str]

    @property
    def tag(self) -> str:
        digest = hashlib.sha256(f"{self.path}\0{self.platform or ''}".encode()).hexdigest()[:12]
        return f"{_REPOSITORY}:{self.labels.get(LAB_LABEL, 'none')}-{digest}"

    @property
    def parameters(self) -> dict[str, object]:
        parameters = {
            "t": self.tag,
            "dockerfile": self.file,
            "labels": json.dumps(dict(self.labels)),
            "rm": True,
            "forcerm": True,
        }
        return parameters | ({"platform": self.platform} if self.platform else {})

    def context(self) -> IO[bytes]:
        """Return the directory as a tarball, without what .dockerignore names."""
        try:
            lines = (self.path / ".dockerignore").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        context: IO[bytes] = docker.utils.build.tar(
            str(self.path), exclude=patterns, dockerfile=(self.file, None)
        )
        return context


def _recipe(directory: Path, platform: str | None, labels: Mapping[str, str]) -> _Recipe:
    path = directory.resolve()
    return _Recipe(path, _dockerfile_in(path), platform, labels)


def _dockerfile_in(path: Path) -> str:
    advice = "`image: {build: DIRECTORY}` is relative to the topology file"
    if not path.is_dir():
        what = "is no directory" if path.exists() else "does not exist"
        raise LabError(f"{path}, to build an image from, {what}", step="build", resolution=advice)
    for name in _FILES:
        if (path / name).is_file():
            return name
    raise LabError(
        f"{path} has no Dockerfile to build an image from",
        step="build",
        details=f"it holds: {', '.join(sorted(each.name for each in path.iterdir())[:20]) or 'nothing'}",
        resolution=advice,
    )


def _build(engine: Engine, recipe: _Recipe, layers: list[str], shared: Shared) -> str:
    """Build, and add to `layers` what was not there before."""
    output = _Output(f"building {recipe.path.name}", shared)
    try:
        context = recipe.context()
    except (OSError, ValueError) as error:
        reason = str(error)
        raise Failed(lambda: _unreadable(recipe, reason)) from error
    with reaching(engine, f"building {recipe.path}"), context:
        before = [image["Id"].removeprefix("sha256:") for image in engine.client.images(all=True)]
        request = {"params": recipe.parameters, "headers": _headers(), "data": context}
        try:
            for message in messages(engine, shared, "/build", None, **request):
                output.take(message)
                if (layer := output.layer) and not any(old.startswith(layer) for old in before):
                    layers += [layer] if layer not in layers else []
        except Refused as error:
            words = str(error).partition(" &imagebuilder.")[0]  # Podman shows its own data, too
            raise Failed(lambda: _failed(recipe, words, output)) from error
    if output.result is None:
        raise Failed(lambda: _failed(recipe, "the daemon names no image as the result", output))
    return output.result


def _headers() -> dict[str, str]:
    """Return the logins for all registries, since any of them may have a base image."""
    headers = {"Content-Type": "application/tar"}
    if logins := docker.auth.load_config().get_all_credentials():
        headers["X-Registry-Config"] = docker.auth.encode_header(logins).decode("ascii")
    return headers


class _Output:
    """What a build has said so far."""

    def __init__(self, title: str, shared: Shared) -> None:
        self.lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.step = ""
        self.layer = ""  # the newest
        self.result: str | None = None
        self._title = title
        self._shared = shared
        self._shared.say(title)

    def take(self, message: Mapping[str, Any]) -> None:
        """Take one message of the daemon."""
        if identifier := (message.get("aux") or {}).get("ID"):
            self.result = str(identifier)
        for line in str(message.get("stream") or "").splitlines():
            if not line.strip():
                continue
            self.lines.append(line)
            if _STEP.match(line):
                self.step = line
                self._shared.say(f"{self._title}: {line}")
            if layer := _LAYER.match(line):
                self.layer = layer[1]


def _failed(recipe: _Recipe, words: str, output: _Output) -> LabError:
    hint = ""
    if "BuildKit" in words or "unknown flag: mount" in words.lower():
        hint = (
            " (it is built by the daemon itself, without BuildKit: build such an image beforehand)"
        )
    return LabError(
        f"the image of {recipe.path} cannot be built: "
        f"{output.step + ' failed: ' if output.step else ''}{words}",
        step="build",
        details="\n".join(output.lines) or None,
        resolution=f"correct {recipe.path / recipe.file}{hint}",
    )


def _unreadable(recipe: _Recipe, reason: str) -> LabError:
    return LabError(
        f"the image of {recipe.path} cannot be built: {reason}",
        step="build",
        resolution="name what must not go into it in .dockerignore there",
    )
