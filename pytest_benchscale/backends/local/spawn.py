"""Starting a command as a child of a node's init, and finding everything that it has started.

The usual way is posix_spawn, which does not copy the parent's page tables (0.4 ms); another user
needs a fork (1 ms). Standard library modules are imported up front: after the change of root there
is no Python installation to import from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from pytest_benchscale.transports.namespace.channel import MARKER

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn

_NOT_FOUND, _CANNOT = 127, 126
_RESET = [
    signum for signum in signal.valid_signals() if signum not in (signal.SIGKILL, signal.SIGSTOP)
]


class Order:
    """What to run. `env` is the whole environment; `user` a name or number, None: root."""

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str | None, user: str | None
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.user = user


class CannotStart(Exception):
    """A command could not be started; `status` is what a shell would return."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def start(order: Order, streams: tuple[int, int, int], terminal: str | None = None) -> int:
    """Start a command in a session of its own; return its pid.

    A `terminal` is the path of what is to be all three streams, and the session's controlling one.

    Raises:
        CannotStart: not found (127), or anything else (126).
    """
    program = _find(order.argv[0], order.env.get("PATH", os.defpath), order.cwd)
    try:
        if order.user is not None:
            return _fork(program, order, streams, terminal)
        return _spawn(program, order, streams, terminal)
    except OSError as error:
        raise _cannot_run(order.argv[0], error) from None


def _spawn(program: str, order: Order, streams: tuple[int, int, int], terminal: str | None) -> int:
    _change_directory(order.cwd)
    try:
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
        if terminal is not None:
            # The first terminal that the leader of a new session opens becomes its controlling one.
            actions[0] = (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0)
        return os.posix_spawn(
            program,
            order.argv,
            order.env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET,
        )
    finally:
        os.chdir("/")


def _fork(program: str, order: Order, streams: tuple[int, int, int], terminal: str | None) -> int:
    account = _account(order.user or "")
    pid = os.fork()
    if pid == 0:
        _become(program, order, streams, account, terminal)
    return pid


def _become(
    program: str,
    order: Order,
    streams: tuple[int, int, int],
    account: _Account,
    terminal: str | None,
) -> NoReturn:
    status = _CANNOT
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        if terminal is not None:
            os.close(os.open(terminal, os.O_RDWR))  # makes it the controlling one
        _change_identity(account, owns=0 if terminal is not None else None)
        _change_directory(order.cwd)
        os.execve(program, order.argv, {**account.environment, **order.env})  # noqa: S606 - that is the point
    except CannotStart as error:
        os.write(2, f"{error}\n".encode(errors="surrogateescape"))
    except OSError as error:
        os.write(2, f"{_cannot_run(order.argv[0], error)}\n".encode(errors="surrogateescape"))
    finally:
        os._exit(status)


def _change_identity(account: _Account, owns: int | None) -> None:
    """Become a user, to whom the file `owns` is given."""
    try:
        if owns is not None:
            os.fchown(owns, account.uid, -1)
        os.setgroups(account.groups)
        os.setgid(account.gid)
        os.setuid(account.uid)
    except OSError:
        # An ordinary user can map but one user and group into a user namespace.
        name = account.environment["USER"]
        raise CannotStart(
            _CANNOT, f"benchscale: cannot run as {name!r}: a node of an ordinary user has only root"
        ) from None


def _change_directory(cwd: str | None) -> None:
    if cwd is None:
        return
    try:
        os.chdir(cwd)
    except OSError as error:
        raise CannotStart(
            _CANNOT, f"benchscale: cannot change to {cwd!r}: {error.strerror}"
        ) from None


def _find(name: str, path: str, cwd: str | None) -> str:
    """Return the program that an argv's first word names, as execvp would."""
    if "/" in name:
        return name
    forbidden = False
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if cwd is not None and not candidate.startswith("/"):
            candidate = os.path.join(cwd, candidate)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            forbidden = True
    if forbidden:
        raise CannotStart(_CANNOT, f"benchscale: cannot run {name!r}: Permission denied")
    raise CannotStart(_NOT_FOUND, f"benchscale: cannot run {name!r}: command not found in {path}")


def _cannot_run(name: str, error: OSError) -> CannotStart:
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    reason = "Is a directory" if os.path.isdir(name) else error.strerror
    return CannotStart(
        _NOT_FOUND if missing else _CANNOT, f"benchscale: cannot run {name!r}: {reason}"
    )


class _Account:
    """A user of this node, and what the environment says of him unless the order says otherwise."""

    def __init__(self, name: str, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid, self.gid, self.groups = uid, gid, groups
        self.environment = {"HOME": home, "USER": name, "LOGNAME": name}


def _account(user: str) -> _Account:
    """Return a user of this node.

    The files are read here: the C library's look-up would load modules of another root.
    """
    for name, _, uid, gid, _, home, *_ in _database("/etc/passwd", 7):
        if user in (name, uid):
            groups = [int(g[2]) for g in _database("/etc/group", 4) if name in g[3].split(",")]
            return _Account(name, int(uid), int(gid), groups, home)
    if user.isdigit():
        return _Account(user, int(user), int(user), [], "/")
    raise CannotStart(_CANNOT, f"benchscale: cannot run as {user!r}: no such user in /etc/passwd")


def _database(path: str, fields: int) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            entries = [line.rstrip("\n").split(":") for line in file]
    except FileNotFoundError:
        return []
    return [entry for entry in entries if len(entry) == fields]


def living() -> list[int]:
    """Return the processes of this node other than init and zombies."""
    return [pid for pid, (_, _, state) in _processes().items() if pid != 1 and state != "Z"]


def family(pid: int | None, marker: str, pipes: list[int]) -> set[int]:
    """Return the living processes that belong to a command.

    They are the command and its descendants, whatever is in its session, and what a daemon still
    has after it has left these two: the marker in the environment, or one of the command's pipes.
    """
    processes = _processes()
    found = {pid} & processes.keys() if pid is not None else set()
    wanted = f"{MARKER}={marker}".encode()
    links = {f"pipe:[{inode}]" for inode in pipes}
    for one in processes:
        if one != 1 and (wanted in _environment(one) or links & _open_files(one)):
            found.add(one)
    size = -1
    while size != len(found):
        size = len(found)
        for one, (parent, session, _) in processes.items():
            if parent in found or (pid is not None and session == pid):
                found.add(one)
    return {one for one in found if one != 1 and processes[one][2] != "Z"}


def _processes() -> dict[int, tuple[int, int, str]]:
    """Return parent, session and state of every process of this pid namespace."""
    processes = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name is in parentheses and may contain anything.
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        processes[int(name)] = (int(fields[1]), int(fields[3]), fields[0].decode())
    return processes


def _open_files(pid: int) -> set[str]:
    links = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass  # it is gone
    return links


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
