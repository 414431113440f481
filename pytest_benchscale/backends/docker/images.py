"""Have an image where a container is to be made of it: pulled when it is missing, or built."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import docker.auth
import docker.errors
import requests

from pytest_benchscale.backends.base import Progress
from pytest_benchscale.backends.docker import builds
from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.backends.docker.messages import Layers, Refused, messages, reaching
from pytest_benchscale.backends.sharing import Failed, Shared, once
from pytest_benchscale.errors import LabError
from pytest_benchscale.topology.images import BUILD_PREFIX

__all__ = ["discard", "ensure"]

_SILENCE = 120.0  # seconds that a daemon may say nothing while it pulls

# What the daemons say, the library of the registries and Go's network code, and what it means.
_CAUSES: Mapping[str, str] = {
    r"toomanyrequests|rate limit": "the registry serves no more pulls for now",
    r"no space left": "the disk of the daemon's machine is full",
    r"invalid reference format|invalid repository|normalizing|scheme": "that is no reference to an image",
    r"no matching manifest|no image found in manifest": "there is none for this platform",
    r"HTTP response to HTTPS client": "its registry speaks no TLS, and the daemon insists on it",
    r"no such host|connection refused|timeout|unreachable|no route to host|deadline exceeded|"
    r"server misbehaving|name resolution|request canceled|connection reset|unexpected EOF": "its "
    "registry cannot be reached",
    r"not found|unknown|does not exist|denied|unauthorized|authentication required": "its registry "
    "does not have it, or wants a login for it",
}

_ID = re.compile("(sha256:)?[0-9a-f]{64}")
_MACHINES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_PREFIXES = ("docker.io/library/", "docker.io/", "localhost/")

_here: WeakKeyDictionary[Engine, set[tuple[str, str | None]]] = WeakKeyDictionary()
discard = builds.discard


async def ensure(
    engine: Engine,
    image: str,
    *,
    directory: Path,
    platform: str | None,
    labels: Mapping[str, str],
    progress: Progress | None = None,
) -> str:
    """Return the reference or id to make a container from; the image is there then.

    `image` is a reference, without a tag `:latest` of it, or "build:DIRECTORY", relative to `directory`;
    `labels` are for what is built. Whoever asks for the same image at the same time shares one pull.

    Raises:
        LabError: it cannot be had; says why and what to do.
        BackendUnavailable: the daemon does not answer.
    """
    if image.startswith(BUILD_PREFIX):
        source = _source(image, directory)
        return await builds.build(engine, source, platform, labels, progress)
    reference = _complete(image)
    known = _here.setdefault(engine, set())
    if (reference, platform) not in known:
        key = ("pull", str(engine.address), reference, platform)
        work = functools.partial(_fetch, engine, reference, platform)
        await once(key, work, progress)
        known.add((reference, platform))
    return reference


def _source(image: str, directory: Path) -> Path:
    return directory / Path(image.removeprefix(BUILD_PREFIX)).expanduser()


def _complete(image: str) -> str:
    """Return a reference with its tag."""
    name = image.rpartition("/")[2]
    return image if "@" in name or ":" in name or _ID.fullmatch(image) else f"{image}:latest"


def _fetch(engine: Engine, reference: str, platform: str | None, shared: Shared) -> str:
    with reaching(engine, f"pulling {reference!r}"):
        if not _is_here(engine, reference, platform):
            try:
                _pull(engine, reference, platform, shared)
            except (Refused, docker.errors.InvalidRepository) as error:
                words, near = str(error), _near(engine, reference)
                raise Failed(
                    lambda: _missing(engine.name, reference, platform, words, near)
                ) from error
    return reference


def _is_here(engine: Engine, reference: str, platform: str | None) -> bool:
    try:
        found = engine.client.inspect_image(reference)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        words = str(error.explanation or error)
        raise Failed(lambda: _missing(engine.name, reference, platform, words, None)) from error
    return platform is None or _suits(found, platform)


def _suits(found: Mapping[str, Any], platform: str) -> bool:
    """Return whether an image is one for a platform, such as linux/arm64, linux/arm/v7 or arm64."""
    parts = platform.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    parts[1] = _MACHINES.get(parts[1], parts[1])
    has = [str(found.get(key) or "").lower() for key in ("Os", "Architecture", "Variant")]
    return all(not there or there == wanted for there, wanted in zip(has, parts, strict=False))


def _pull(engine: Engine, reference: str, platform: str | None, shared: Shared) -> None:
    repository, tag = _parted(reference)
    parameters = {"fromImage": repository, "tag": tag}
    if platform:
        parameters["platform"] = platform
    headers = {}
    registry, _ = docker.auth.resolve_repository_name(repository)
    if login := docker.auth.get_config_header(engine.client, registry):
        headers["X-Registry-Auth"] = login
    layers = Layers(shared, f"pulling {reference}")
    request = {"params": parameters, "headers": headers}
    for message in messages(engine, shared, "/images/create", _SILENCE, **request):
        layers.take(message)


def _parted(reference: str) -> tuple[str, str]:
    """Return the repository, and the tag or digest."""
    repository, is_digest, digest = reference.partition("@")
    name, has_tag, tag = repository.rpartition(":")
    if not has_tag or "/" in tag:  # the colon, if any, is that of a registry's port
        name, tag = repository, "latest"
    return (name, digest) if is_digest else (name, tag)


def _near(engine: Engine, reference: str) -> str | None:
    """Return the image that the daemon has and whose name is most like the reference."""
    try:
        images = engine.client.images()
    except (docker.errors.DockerException, requests.RequestException):
        return None  # that the image is missing counts for more
    tags = [_short(tag) for image in images for tag in image.get("RepoTags") or ()]
    wanted = _short(reference)
    same = [tag for tag in tags if _parted(tag)[0] == _parted(wanted)[0]]
    return next(iter(difflib.get_close_matches(wanted, same or tags, n=1, cutoff=0.6)), None)


def _short(reference: str) -> str:
    """Return a reference as people write it."""
    prefix = next(filter(reference.startswith, _PREFIXES), "")
    return reference.removeprefix(prefix)


def _missing(
    backend: str, reference: str, platform: str | None, words: str, near: str | None
) -> LabError:
    signs = (cause for sign, cause in _CAUSES.items() if re.search(sign, words, re.IGNORECASE))
    cause = next(signs, "the daemon cannot pull it")
    kind = f" for {platform}" if platform else ""
    hint = f"; {near!r} is there, did you mean that?" if near else ""
    return LabError(
        f"the image {reference!r} is not on this machine{kind} and cannot be pulled: {cause}{hint}",
        step="image",
        details=f"{backend} says: {words}",
        resolution=f"check the name; get it by hand (`{backend} pull {reference}`); or run another with "
        "--benchscale-image NAME=REF (NAME: as in the topology, `default` where it names none)",
    )
