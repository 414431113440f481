"""Files in and out of a node with the node's own shell, tar and cat, as streams.

The rules for the target are those of `cp -a`; modes and times are kept, owners are not. Only what GNU
and busybox both have is asked of the tools.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
import string
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Protocol

import anyio
from anyio import to_thread

from pytest_benchscale.transports import execution
from pytest_benchscale.transports.archive import CHUNK, pack
from pytest_benchscale.transports.base import (
    Command,
    Launcher,
    RunningCommand,
)
from pytest_benchscale.transports.shell.flows import collect, pump, send
from pytest_benchscale.transports.shell.landing import Landing, split_remote
from pytest_benchscale.transports.shell.merging import questions
from pytest_benchscale.transports.shell.mounts import mount_of
from pytest_benchscale.transports.shell.refusals import refusal
from pytest_benchscale.transports.shell.relay import Relay

__all__ = ["Bulk", "TarFiles"]

_BULK = 4 << 20  # bytes from which on a file is a large one
_AT_ONCE = 8  # threads that may wait for what comes out of one node
_NARROWED_AT_ONCE = 100
_LATEST = 253_402_300_799  # seconds; the end of the last year of four digits
_LOOK_SECONDS = 60.0
_MOST_IN_SCRIPT = 16 << 10  # bytes that are told a waiting shell, rather than fed to a command

# busybox leaves symlinks out that lead up or to the root, unless told; GNU tar has options of its own there.
_ENV = {"LC_ALL": "C", "EXTRACT_UNSAFE_SYMLINKS": "1", "TAR_OPTIONS": ""}

# Where a copy goes, and what is there already. `[ -d` follows a symlink, as `cp` does for its target.
_LOOK = """\
if [ -d {target}/ ]; then w=in f={inside}; else w=as f={bare}; fi
if [ -L "$f" ]; then k=link
elif [ -d "$f" ]; then k=directory
elif [ -f "$f" ]; then k=file
elif [ -e "$f" ]; then k=other
else k=nothing; fi
echo $w $k
{more}"""
# What is mounted in the node, and which directory that is, symlinks resolved, if its user may write there:
# the daemon would not ask.
_LOOK_MORE = """\
if [ $w = in ]; then d={target}; else d={parent}; fi
cat /proc/self/mounts && echo && cd -P "$d" && [ -w . ] && pwd -P
"""
# The shell does not say why it cannot go somewhere; cat does.
_GO = "cd {directory} || {{ cat {directory}/. >/dev/null; exit 1; }}\n"
_EXTRACT = _GO + "umask 0; exec tar -xopf -"
_CREATE = _GO + "exec tar -cf - {name}"
# GNU tar takes backslashes in names for escapes.
_CREATE_ODD = (
    _GO + "case $(tar --version 2>/dev/null) in *GNU*) n={escaped} ;; *) n={name} ;; esac\n"
    'exec tar -cf - "$n"'
)
_READ = "[ -p {path} ] || exec cat {path}"
_WRITE = """\
{umask}{source} > {path}{then}
s=$?
[ $s = 0 ] || [ -d {parent} ] || cat {parent}/. >/dev/null
exit $s
"""

# How printf is told a byte; the rest of ASCII would need quoting.
_PLAIN = frozenset(string.ascii_letters + string.digits + ' \n\t!"#$&()*+,-./:;<=>?@[]^_`{|}~')
_FORMATS = [chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in range(256)]


@dataclass(frozen=True, slots=True)
class _Target:
    """Where in the node a copy goes, and what is there: nothing, directory, file, link or other.

    `on_root` is the directory's real path when it can be written and the target would be on the root file
    system, as far as asked.
    """

    directory: str
    name: str
    kind: str
    on_root: str | None

    @property
    def path(self) -> str:
        return posixpath.join(self.directory, self.name)


class Bulk(Protocol):
    """A faster way for large files, where there is one."""

    async def deliver(self, source: Path, directory: str, name: str) -> bool:
        """Put a file where nothing is; return whether that was possible.

        `directory` is a real path on the node's root file system.
        """
        ...


class TarFiles:
    """File operations of a transport, done with commands over it.

    Large files go through `bulk` instead where that is possible: the way of a command's input is the slower
    one.
    """

    def __init__(self, transport: Launcher, bulk: Bulk | None = None) -> None:
        self._transport = transport
        self._bulk = bulk
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def put(self, local: Path, remote: str) -> None:
        """Copy a file or a tree into the node."""
        source = os.path.abspath(local)  # noqa: ASYNC240, PTH100 - no I/O
        status = await to_thread.run_sync(os.lstat, source)
        is_bulk = (
            self._bulk is not None and stat.S_ISREG(status.st_mode) and status.st_size >= _BULK
        )
        name = os.path.basename(source) or "."  # noqa: PTH119
        target = await self._look(remote, name, more=is_bulk)
        if stat.S_ISDIR(status.st_mode):
            if target.kind == "directory":
                await self._require_mergeable(source, target.path)
            elif target.kind != "nothing":
                raise _error(errno.EEXIST, target.path)
        elif target.kind == "directory":
            raise _error(errno.EISDIR, target.path)
        if is_bulk and await self._deliver(Path(source), target):
            return
        script = _EXTRACT.format(directory=_word(target.directory))
        narrow: list[tuple[str, int]] = []
        is_file = stat.S_ISREG(status.st_mode)
        chunks = pack(Path(source), target.name, narrow=narrow)
        code, said = await self._feed(script, chunks, ahead=is_file)
        if code == 0:
            await self._narrow(target.directory, narrow)
            return
        if target.kind == "file" and is_file:
            # It could not be replaced, such as a file that is a mount; but perhaps it can be filled.
            code, more = await self._fill(source, target.path, status)
            if code == 0:
                return
            said = more or said
        raise refusal(said, target.path, target.directory)

    async def get(self, remote: str, local: Path) -> None:
        """Copy a file or a tree out of the node."""
        directory, name = split_remote(remote)
        landing = await to_thread.run_sync(Landing, local, name)
        try:
            failure, is_file = await self._take(directory, name, remote, landing)
            if is_file:
                # Files of /proc and /sys are not as long as they say, so tar got them wrong.
                content = await self.read_bytes(remote)
                if content or failure is not None:
                    await to_thread.run_sync(landing.replace, content)
            elif failure is not None:
                raise failure
        finally:
            landing.close()

    async def read_bytes(self, remote: str) -> bytes:
        """Return the content of a file; that of a FIFO is empty."""
        command = _command(_READ.format(path=_word(remote)))
        outcome = await execution.run(self._transport, command)
        if outcome.returncode != 0:
            raise refusal(outcome.stderr, remote)
        return outcome.stdout

    async def write_bytes(self, remote: str, data: bytes, mode: int | None = None) -> None:
        """Create or replace a file."""
        told = _as_format(data)
        script = _WRITE.format(
            # Not into the file from a shell's own printf: that cannot tell what is wrong with the disk.
            source="cat" if told is None else f"printf '{told}' | cat",
            path=_word(remote),
            parent=_word(posixpath.dirname(remote) or "."),
            umask="" if mode is None else "umask 077; ",
            then="" if mode is None else f" && chmod {mode:o} {_word(remote)}",
        )
        if told is None:
            code, said = await self._feed(script, iter([data]))
        else:
            outcome = await execution.run(self._transport, _command(script))
            code, said = outcome.returncode or 0, outcome.stderr
        if code != 0:
            raise refusal(said, remote)

    # --- the parts ---

    async def _look(self, remote: str, name: str, *, more: bool) -> _Target:
        """Find out what a target is; says nothing of the directory that it would be in."""
        bare = remote.rstrip("/") or "/"
        parent = posixpath.dirname(bare) or "."
        inside = posixpath.join(remote, name)
        words = {"target": _word(remote), "parent": _word(parent)}
        script = _LOOK.format(
            **words,
            inside=_word(inside),
            bare=_word(bare),
            more=_LOOK_MORE.format(**words) if more else "",
        )
        outcome = await execution.run(self._transport, _command(script), timeout=_LOOK_SECONDS)
        answer, _, rest = os.fsdecode(outcome.stdout).partition("\n")
        if answer.count(" ") != 1:
            raise refusal(outcome.stderr, remote)
        where, kind = answer.split(" ")
        if where != "in" and remote.endswith("/"):
            raise _error(errno.ENOENT if kind == "nothing" else errno.ENOTDIR, remote)
        directory, name = (remote, name) if where == "in" else (parent, posixpath.basename(bare))
        table, _, real = rest.partition("\n\n")
        real = real.removesuffix("\n")
        on_root = real and mount_of(posixpath.join(real, name), table) == "/"
        return _Target(directory, name, kind, real if on_root else None)

    async def _deliver(self, source: Path, target: _Target) -> bool:
        """Have a large file go the faster way, if it can; return whether it did."""
        if self._bulk is None or target.on_root is None or target.kind != "nothing":
            return False
        return await self._bulk.deliver(source, target.on_root, target.name)

    async def _require_mergeable(self, source: str, path: str) -> None:
        """Raise the error that merging a tree into a directory of the node would end in."""
        asked = questions(source)
        while (question := await to_thread.run_sync(next, asked, None)) is not None:
            command = _command(question.script(_word(path)))
            outcome = await execution.run(self._transport, command, timeout=_LOOK_SECONDS)
            if outcome.returncode != 0:
                raise refusal(outcome.stderr, path)
            conflict = question.conflict(outcome.stdout.decode())
            if conflict is not None:
                entry, is_directory = conflict
                number = errno.EEXIST if is_directory else errno.EISDIR
                raise _error(number, posixpath.join(path, entry))

    async def _narrow(self, directory: str, modes: list[tuple[str, int]]) -> None:
        """Take rights away from directories; busybox does not, for an ordinary user."""
        for start in range(0, len(modes), _NARROWED_AT_ONCE):
            lines = [f"cd {_word(directory)} || exit 1"]
            for name, mode in modes[start : start + _NARROWED_AT_ONCE]:
                lines.append(f"chmod {mode:o} {quote(f'./{name}')} || exit 1")
            outcome = await execution.run(self._transport, _command("\n".join(lines)))
            if outcome.returncode != 0:
                raise refusal(outcome.stderr, posixpath.join(directory, modes[start][0]))

    async def _fill(self, source: str, path: str, status: os.stat_result) -> tuple[int, bytes]:
        """Write a file's content, mode and time into a file of the node; return code and complaints."""
        word = _word(path)
        moment = time.gmtime(min(max(status.st_mtime, 0), _LATEST))
        script = (
            f"cat > {word} && chmod {stat.S_IMODE(status.st_mode):o} {word} && "
            f"TZ=UTC0 touch -t {time.strftime('%Y%m%d%H%M.%S', moment)} {word}"
        )
        with await to_thread.run_sync(open, source, "rb") as file:
            chunks = iter(partial(file.read, CHUNK), b"")
            return await self._feed(script, chunks, ahead=True)

    async def _feed(
        self, script: str, chunks: Iterator[bytes], *, ahead: bool = False
    ) -> tuple[int, bytes]:
        """Run a script on what a blocking iterator gives; return its exit code and complaints."""
        async with self._running(script, stdin=True) as running:
            complaints = asyncio.create_task(collect(running.stderr))
            try:
                if running.stdin is not None:
                    await send(running.stdin, chunks, ahead=ahead)
                said = await complaints
            finally:
                complaints.cancel()
            return await running.wait(), said

    async def _take(
        self, directory: str, name: str, remote: str, landing: Landing
    ) -> tuple[OSError | None, bool]:
        """Copy out; return what went wrong in the node, and whether it is a file that must be read instead.

        Raises:
            OSError: something here went wrong.
        """
        async with self._running(_create_script(directory, name), stdin=False) as running:
            relay = Relay()
            work = asyncio.create_task(
                to_thread.run_sync(landing.unpack, relay, limiter=self._limiter)
            )
            pumping = asyncio.create_task(pump(running.stdout, relay))
            complaints = asyncio.create_task(collect(running.stderr))
            try:
                await asyncio.wait({work})
                failure = work.exception()
                if failure is not None and not pumping.done():
                    raise failure
                said, code = await complaints, await running.wait()
            finally:
                relay.break_off()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({work})
                pumping.cancel()
                complaints.cancel()
        if failure is not None and not (
            isinstance(failure, OSError) and failure.errno == errno.EBADMSG
        ):
            raise failure
        refused = _verdict(code, said, remote, directory) or failure
        size = await to_thread.run_sync(landing.file_size)
        misjudged = any(word in said for word in (b"padding with zeros", b"short read"))
        return refused, size is not None and (misjudged or (refused is None and size == 0))

    @asynccontextmanager
    async def _running(self, script: str, *, stdin: bool) -> AsyncIterator[RunningCommand]:
        """Run a script for the duration of a block; killed when the block fails or is cancelled."""
        running = await self._transport.start(_command(script), stdin=stdin)
        try:
            yield running
        except BaseException:
            with anyio.CancelScope(shield=True):
                await execution.kill(running)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await running.aclose()


def _verdict(code: int, said: bytes, remote: str, directory: str) -> OSError | None:
    """Return what a tar that was to create an archive failed with."""
    lines = said.splitlines()
    for line in lines:
        entry, separator, _ = line.partition(b": socket ignored")
        if separator:
            name = os.fsdecode(entry.removeprefix(b"tar: ").removeprefix(b"./"))
            path = posixpath.join(directory, name)
            return OSError(errno.EOPNOTSUPP, "sockets and devices cannot be copied", path)
    if code == 0:
        return None
    # 1 is how GNU tar says that a file grew: that is no failure, as it is none for `cp`.
    if code == 1 and lines and all(line.endswith(b"file changed as we read it") for line in lines):
        return None
    return refusal(said, remote, directory)


def _create_script(directory: str, name: str) -> str:
    words = {"directory": _word(directory), "name": quote(f"./{name}")}
    if "\\" not in name:
        return _CREATE.format(**words)
    escaped = name.replace("\\", "\\\\")
    return _CREATE_ODD.format(**words, escaped=quote(f"./{escaped}"))


def _command(script: str) -> Command:
    return Command(("/bin/sh", "-c", script), env=_ENV)


def _word(path: str) -> str:
    """Return a path as a word of a script that no tool takes for an option."""
    return quote(path if path.startswith("/") else f"./{path}")


def _as_format(data: bytes) -> str | None:
    """Return bytes as the quoted format of a printf, None when it would be long."""
    if len(data) > _MOST_IN_SCRIPT:
        return None
    text = "".join(map(_FORMATS.__getitem__, data))
    if text.startswith("-"):
        text = f"\\055{text[1:]}"
    return text if len(text) <= _MOST_IN_SCRIPT else None


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
