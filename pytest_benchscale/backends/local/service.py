"""The loop of a node's init: runs commands, opens files, signals, reaps.

Runs as process 1 of the node, inside all its namespaces, so that a command is an ordinary child:
nothing has to enter anything, and no daemon is asked. One message in, one message out; see
`transports.namespace.client` for the other end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from pytest_benchscale.backends.local import spawn
from pytest_benchscale.backends.local.children import Children
from pytest_benchscale.transports.namespace import channel

TYPE_CHECKING = False  # what `typing` calls so; it takes long to import
if TYPE_CHECKING:
    from typing import NoReturn

_KILL_SECONDS = 5.0
_ROOT_ENVIRONMENT = {"HOME": "/root", "USER": "root", "LOGNAME": "root"}


class Service:
    """Serves one node until the channel closes, the main command ends, or it is told to stop."""

    def __init__(self, sock: socket.socket, env: dict[str, str]) -> None:
        self._sock = sock
        self._env = env
        self._running: dict[int, int] = {}  # pid -> exec id
        self._main: int | None = None
        self._frozen = False
        self._postponed: list[tuple[channel.Message, list[int]]] = []
        self._children = Children()

    def start_main(self, argv: list[str], output: int) -> None:
        """Start the node's main command; the node ends with it."""
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._main = spawn.start(
            spawn.Order(argv, {**_ROOT_ENVIRONMENT, **self._env}, "/", None), (null, output, output)
        )
        os.close(null)

    def serve(self) -> NoReturn:
        """Answer requests until the node ends; never returns."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._children.wakeup, select.POLLIN)
        while True:
            for fd, _event in poller.poll():
                if fd == self._children.wakeup:
                    self._reap()
                elif not self._answer():
                    os._exit(0)

    def _answer(self) -> bool:
        received = channel.receive(self._sock)
        if received is None:
            return False
        message, descriptors = received
        try:
            handler = getattr(self, f"_on_{message['op']}")
            handler(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _on_exec(self, message: channel.Message, descriptors: list[int]) -> None:
        if self._frozen:
            # Whoever asked could not know yet; nothing may start in a node that stands still.
            self._postponed.append((message, [os.dup(fd) for fd in descriptors]))
            return
        number = message["id"]
        env = {**self._env, **message["env"]}
        if message["user"] is None:
            env = {**_ROOT_ENVIRONMENT, **env}
        order = spawn.Order(message["argv"], env, message["cwd"], message["user"])
        terminal = message.get("terminal")
        if terminal is not None:
            stdin = stdout = stderr = descriptors[0]
        elif message["stdin"]:
            stdout, stderr, stdin = descriptors
        else:
            stdout, stderr = descriptors
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            descriptors.append(stdin)
        try:
            pid = spawn.start(order, (stdin, stdout, stderr), terminal)
        except spawn.CannotStart as error:
            _write_line(stderr, str(error))
            self._send({"exit": number, "status": error.status})
            return
        self._running[pid] = number

    def _on_terminal(self, message: channel.Message, _descriptors: list[int]) -> None:
        """Make a terminal of this node's; the answer has its two ends."""
        try:
            master, slave = os.openpty()
        except OSError as error:
            self._send({"reply": message["request"], "errno": error.errno})
            return
        try:
            path = os.ttyname(slave)
            self._send({"reply": message["request"], "path": path}, [master, slave])
        finally:
            os.close(master)
            os.close(slave)

    def _on_signal(self, message: channel.Message, _descriptors: list[int]) -> None:
        pid = self._pid_of(message["id"])
        if pid is not None:
            os.kill(pid, message["signal"])

    def _on_kill(self, message: channel.Message, _descriptors: list[int]) -> None:
        """End a command with all its descendants, and say so only when they are gone."""
        pid = self._pid_of(message["id"])
        left = self._kill_tree(pid, message["marker"], message["pipes"])
        self._send({"reply": message["request"], "left": left})

    def _on_open(self, message: channel.Message, _descriptors: list[int]) -> None:
        try:
            fd = os.open(message["path"], message["flags"] | os.O_CLOEXEC, message["mode"])
        except OSError as error:
            self._send({"reply": message["request"], "errno": error.errno})
            return
        try:
            self._send({"reply": message["request"]}, [fd])
        finally:
            os.close(fd)

    def _on_freeze(self, message: channel.Message, _descriptors: list[int]) -> None:
        self._frozen = True
        # Process 1 is not among those that -1 stands for.
        _signal_all(signal.SIGSTOP)
        self._send({"reply": message["request"]})

    def _on_thaw(self, message: channel.Message, _descriptors: list[int]) -> None:
        self._frozen = False
        _signal_all(signal.SIGCONT)
        self._send({"reply": message["request"]})
        postponed, self._postponed = self._postponed, []
        for order, descriptors in postponed:
            self._on_exec(order, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    def _on_stop(self, message: channel.Message, _descriptors: list[int]) -> None:
        """Shut down as a machine does: SIGTERM for everybody, then the end."""
        self._main = None
        deadline = time.monotonic() + message["grace"]
        _signal_all(signal.SIGTERM)
        _signal_all(signal.SIGCONT)
        while spawn.living() and time.monotonic() < deadline:
            select.select([self._children.wakeup], [], [], 0.02)
            self._reap()
        os._exit(0)

    def _pid_of(self, number: int) -> int | None:
        return next((pid for pid, running in self._running.items() if running == number), None)

    def _kill_tree(self, pid: int | None, marker: str, pipes: list[int]) -> int:
        deadline = time.monotonic() + _KILL_SECONDS
        while True:
            family = spawn.family(pid, marker, pipes)
            for member in family:
                try:
                    os.kill(member, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not family or time.monotonic() > deadline:
                return len(family)
            select.select([self._children.wakeup], [], [], 0.01)
            self._reap()
            if pid not in self._running:
                pid = None  # its number may be used again

    def _reap(self) -> None:
        for pid, code in self._children.reap():
            if pid == self._main:
                self._send({"ended": code})
                os._exit(code if code >= 0 else 128 - code)
            number = self._running.pop(pid, None)
            if number is not None:
                self._send({"exit": number, "status": code})

    def _send(self, message: channel.Message, descriptors: list[int] | None = None) -> None:
        try:
            channel.send(self._sock, message, descriptors or ())
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # nobody is left to serve


def _signal_all(signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # there is nobody
        os.kill(-1, signum)


def _write_line(fd: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, f"{text}\n".encode(errors="surrogateescape"))
