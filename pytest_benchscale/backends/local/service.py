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


class _Job:
    """A command that somebody has started; `number` is the client's own."""

    def __init__(self, client: socket.socket, number: int, marker: str) -> None:
        self.client = client
        self.number = number
        self.marker = marker


class Service:
    """Serves one node until its holder ends, the main command ends, or it is told to stop.

    There may be several clients. The holder sends new ones over the channel `back`.
    """

    def __init__(self, client: socket.socket, back: socket.socket, env: dict[str, str]) -> None:
        self._back = back
        self._clients = {client.fileno(): client}
        self._asking = client  # whose message is being answered
        self._poller = select.poll()
        self._abandoned: set[int] = set()  # output of background children that nobody reads
        self._env = env
        self._running: dict[int, _Job] = {}  # by pid
        self._main: int | None = None
        self._frozen = False
        self._postponed: list[tuple[socket.socket, channel.Message, list[int]]] = []
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
        for fd in (self._back.fileno(), *self._clients, self._children.wakeup):
            self._poller.register(fd, select.POLLIN)
        while True:
            for fd, _event in self._poller.poll():
                if fd == self._children.wakeup:
                    self._reap()
                elif fd in self._abandoned:
                    self._discard(fd)
                elif fd == self._back.fileno():
                    self._welcome()
                elif fd in self._clients and not self._answer(self._clients[fd]):
                    self._lose(self._clients[fd])

    def _welcome(self) -> None:
        """Take a new client from the holder."""
        received = channel.receive(self._back)
        if received is None:
            os._exit(0)
        _, (descriptor,) = received
        self._clients[descriptor] = socket.socket(fileno=descriptor)
        self._poller.register(descriptor, select.POLLIN)

    def _lose(self, client: socket.socket) -> None:
        """End what a client that is gone has left running, as it would have at its timeout."""
        fd = client.fileno()
        if self._clients.pop(fd, None) is None:
            return
        self._poller.unregister(fd)
        client.close()
        for pid, job in list(self._running.items()):
            if job.client is client:
                self._kill_tree(pid, job.marker, [])

    def _answer(self, client: socket.socket) -> bool:
        try:
            received = channel.receive(client)
        except ConnectionResetError:
            received = None
        if received is None:
            return False
        self._asking = client
        message, descriptors = received
        try:
            handler = getattr(self, f"_on_{message['op']}")
            handler(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _on_state(self, message: channel.Message, _descriptors: list[int]) -> None:
        self._send({"reply": message["request"], "frozen": self._frozen})

    def _on_abandon(self, _message: channel.Message, descriptors: list[int]) -> None:
        """Take over what background children still write, so that it does not kill them."""
        for descriptor in descriptors:
            fd = os.dup(descriptor)
            os.set_blocking(fd, False)
            self._abandoned.add(fd)
            self._poller.register(fd, select.POLLIN)

    def _discard(self, fd: int) -> None:
        try:
            while os.read(fd, 65536):
                pass
        except BlockingIOError:
            return
        self._poller.unregister(fd)
        self._abandoned.discard(fd)
        os.close(fd)

    def _on_exec(self, message: channel.Message, descriptors: list[int]) -> None:
        if self._frozen:
            # Whoever asked could not know yet; nothing may start in a node that stands still.
            kept = [os.dup(fd) for fd in descriptors]
            self._postponed.append((self._asking, message, kept))
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
        self._running[pid] = _Job(self._asking, number, message["env"][channel.MARKER])

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
        for client, order, descriptors in postponed:
            self._asking = client
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
        return next(
            (
                pid
                for pid, job in self._running.items()
                if job.number == number and job.client is self._asking
            ),
            None,
        )

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
                for client in (self._back, *self._clients.values()):
                    self._tell(client, {"ended": code})
                os._exit(code if code >= 0 else 128 - code)
            job = self._running.pop(pid, None)
            if job is not None:
                self._tell(job.client, {"exit": job.number, "status": code})

    def _send(self, message: channel.Message, descriptors: list[int] | None = None) -> None:
        self._tell(self._asking, message, descriptors)

    @staticmethod
    def _tell(
        client: socket.socket, message: channel.Message, descriptors: list[int] | None = None
    ) -> None:
        # One that is gone, closed here or there, is noticed where it is read from.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if client.fileno() >= 0:
                channel.send(client, message, descriptors or ())


def _signal_all(signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # there is nobody
        os.kill(-1, signum)


def _write_line(fd: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, f"{text}\n".encode(errors="surrogateescape"))
