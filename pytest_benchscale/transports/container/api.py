"""What this transport asks of a container daemon, and how the daemon says no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pytest_benchscale.transports.container.hijack import DaemonAddress

__all__ = ["ApiError", "DaemonApi"]

T = TypeVar("T")


class ApiError(Exception):
    """The daemon refused a request; `status` is that of HTTP, `explanation` the daemon's words."""

    def __init__(self, status: int, explanation: str) -> None:
        super().__init__(f"{explanation} (HTTP {status})")
        self.status = status
        self.explanation = explanation


class DaemonApi(Protocol):
    """A connection to a daemon. `client` is the Docker SDK's `APIClient`, which blocks."""

    name: str
    client: Any
    address: DaemonAddress

    async def call(self, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call a method of `client` in a worker thread.

        Raises:
            ApiError: the daemon refused.
            BackendUnavailable: it cannot be reached, or did not answer in time.
        """
        ...

    async def leisure(self) -> None:
        """Return once no bring-up needs the daemon."""
        ...
