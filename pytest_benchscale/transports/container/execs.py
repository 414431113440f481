"""Exec sessions of a container daemon: create, start, ask. Format: Docker Engine API, "Exec"."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.base import Command
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.container.hijack import HijackError, RawStream, open_stream

__all__ = ["ExecState", "create", "inspect", "start"]


@dataclass(frozen=True, slots=True)
class ExecState:
    """What a daemon knows of an exec session; `pid` is the process on the daemon's machine."""

    is_running: bool
    exit_code: int | None
    pid: int


async def create(api: DaemonApi, container: str, command: Command, *, stdin: bool) -> str:
    """Create an exec session and return its id; nothing runs yet.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    created = await api.call(
        api.client.exec_create,
        container,
        list(command.argv),
        stdin=stdin,
        environment=dict(command.env),
        workdir=command.cwd,
        user=command.user or "",
    )
    return str(created["Id"])


async def start(api: DaemonApi, exec_id: str) -> RawStream:
    """Start an exec session and return its streams.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    path = f"/v{api.client.api_version}/exec/{exec_id}/start"
    try:
        return await open_stream(api.address, path, {"Detach": False, "Tty": False})
    except HijackError as error:
        if error.status:
            raise ApiError(error.status, error.explanation) from error
        raise BackendUnavailable(
            api.name,
            f"its daemon gave no connection: {error.explanation}",
            resolution="check that the daemon still runs",
        ) from error


async def inspect(api: DaemonApi, exec_id: str) -> ExecState:
    """Return the state of an exec session.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    state = await api.call(api.client.exec_inspect, exec_id)
    return ExecState(bool(state["Running"]), state["ExitCode"], int(state.get("Pid") or 0))
