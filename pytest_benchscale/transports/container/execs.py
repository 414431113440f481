"""Exec sessions of a container daemon: create, start, ask. Format: Docker Engine API, "Exec"."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_benchscale.errors import BackendUnavailable
from pytest_benchscale.transports.base import Command, TerminalSize
from pytest_benchscale.transports.container.api import ApiError, DaemonApi
from pytest_benchscale.transports.container.hijack import HijackError, RawStream, open_stream

__all__ = ["ExecState", "create", "inspect", "resize", "start"]


@dataclass(frozen=True, slots=True)
class ExecState:
    """What a daemon knows of an exec session; `pid` is the process on the daemon's machine."""

    is_running: bool
    exit_code: int | None
    pid: int


async def create(
    api: DaemonApi, container: str, command: Command, *, stdin: bool, terminal: bool = False
) -> str:
    """Create an exec session and return its id; nothing runs yet.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    created = await api.call(
        api.client.exec_create,
        container,
        list(command.argv),
        stdin=stdin,
        tty=terminal,
        environment=dict(command.env),
        workdir=command.cwd,
        user=command.user or "",
    )
    return str(created["Id"])


async def start(api: DaemonApi, exec_id: str, terminal: TerminalSize | None = None) -> RawStream:
    """Start an exec session and return its streams; one on a terminal has but one output.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    path = f"/v{api.client.api_version}/exec/{exec_id}/start"
    body: dict[str, object] = {"Detach": False, "Tty": terminal is not None}
    if terminal is not None:  # Docker's word for its size, and Podman's; older ones know neither
        body |= {"ConsoleSize": list(terminal), "h": terminal.rows, "w": terminal.columns}
    try:
        return await open_stream(api.address, path, body, framed=terminal is None)
    except HijackError as error:
        if error.status:
            raise ApiError(error.status, error.explanation) from error
        raise BackendUnavailable(
            api.name,
            f"its daemon gave no connection: {error.explanation}",
            resolution="check that the daemon still runs",
        ) from error


async def resize(api: DaemonApi, exec_id: str, size: TerminalSize) -> None:
    """Tell the terminal of an exec session how large it is.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    await api.call(api.client.exec_resize, exec_id, height=size.rows, width=size.columns)


async def inspect(api: DaemonApi, exec_id: str) -> ExecState:
    """Return the state of an exec session.

    Raises:
        ApiError, BackendUnavailable: the daemon refused, or is gone.
    """
    state = await api.call(api.client.exec_inspect, exec_id)
    return ExecState(bool(state["Running"]), state["ExitCode"], int(state.get("Pid") or 0))
