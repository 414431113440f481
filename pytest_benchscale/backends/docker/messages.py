"""What a daemon sends while it pulls or builds an image: one JSON object after the other."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import docker.errors
import docker.types
import requests

from pytest_benchscale.backends.docker.engine import Engine
from pytest_benchscale.backends.sharing import Failed, Shared
from pytest_benchscale.errors import BackendUnavailable

__all__ = ["Layers", "Refused", "messages", "reaching"]

Message = dict[str, Any]

_FAILURES = (requests.RequestException, docker.errors.DockerException, OSError, ValueError)
_CONNECT_SECONDS = 10.0
_SAY_SECONDS = 0.5  # between two lines of progress
_MB = 1_000_000


class Refused(Exception):
    """The daemon refused, at once or in the middle; the text is its own words."""


def messages(
    engine: Engine, shared: Shared, path: str, silence: float | None, **request: Any
) -> Iterator[Message]:
    """Send a POST request and return what the daemon says, until its end or until nobody waits.

    `silence` is how many seconds it may say nothing.

    Raises:
        Refused: the daemon says that it cannot.
        GivenUp: nobody waits any more.
    """
    client = engine.client
    response = client.post(
        f"{client.base_url}/v{client.api_version}{path}",
        stream=True,
        timeout=(_CONNECT_SECONDS, silence),
        **request,
    )
    # The SDK's CancellableStream can be closed by another thread, a response cannot.
    stream = docker.types.CancellableStream(None, response)
    with contextlib.closing(response), shared.reading(stream):
        if not response.ok:
            raise Refused(_words(response.text))
        for line in response.iter_lines():
            if not line.strip():
                continue
            message = json.loads(line)
            if error := message.get("error"):
                raise Refused(str((message.get("errorDetail") or {}).get("message") or error))
            yield message
    shared.check()


class reaching:  # noqa: N801  a context manager, used like a function
    """Turn what the SDK raises in a block into an error of ours, for each of those who wait."""

    def __init__(self, engine: Engine, doing: str) -> None:
        self._engine = engine
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, _FAILURES):
            return
        engine, doing = self._engine, self._doing
        timeouts = (requests.Timeout, TimeoutError)
        silent = isinstance(error, timeouts) or "timed out" in str(error).lower()
        what = "said nothing for too long" if silent else f"broke off: {error}"
        raise Failed(
            lambda: BackendUnavailable(
                engine.name,
                f"its daemon at {engine.address} {what}, while {doing}",
                resolution="look at the daemon's log; it may be stopped or overloaded",
            )
        ) from error


class Layers:
    """How far the layers of an image have come."""

    def __init__(self, shared: Shared, title: str) -> None:
        self._shared = shared
        self._title = title
        self._done: dict[str, int] = {}  # bytes
        self._total: dict[str, int] = {}
        self._complete: set[str] = set()
        self._said = 0.0
        shared.say(title)

    def take(self, message: Message) -> None:
        """Take what the daemon says of one layer, and say how far all of them are."""
        layer, status = message.get("id"), str(message.get("status", ""))
        detail = message.get("progressDetail") or {}
        if not layer or status.startswith("Pulling from"):
            return
        self._done.setdefault(layer, 0)
        if status == "Downloading" and detail.get("total"):
            self._done[layer], self._total[layer] = detail.get("current", 0), detail["total"]
        elif status.startswith(("Download complete", "Pull complete", "Already exists")):
            self._done[layer] = self._total.get(layer, self._done[layer])
        if status.startswith(("Pull complete", "Already exists")):
            self._complete.add(layer)
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self._said = time.monotonic()
            self._shared.say(str(self))

    def __str__(self) -> str:
        done, total = (sum(each.values()) / _MB for each in (self._done, self._total))
        size = f", {done:.1f} of {total:.1f} MB" if total else ""
        return f"{self._title}: {len(self._complete)} of {len(self._done)} layers{size}"


def _words(body: str) -> str:
    """Return what a refusal says."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body.strip()
    return str(answer.get("message") or body) if isinstance(answer, dict) else body.strip()
