"""A file system of a node that is full for the duration of a block.

What may be filled is the node's own only: any disk of a machine that has its own, and elsewhere a
tmpfs. The root of a container, and of a `local` node, lies on the machine that runs them all.

A tmpfs is as large as half of the machine's memory unless somebody has said otherwise. So one with
much room is made small first, where the node has the right to (on `local` it has), and only what
is left is really written.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.errors import FaultNotEffective, FaultNotHealed, LabError, NotSupported
from pytest_benchscale.lab.arguments import is_whole
from pytest_benchscale.lab.fault import Fault
from pytest_benchscale.lab.machine import Machine
from pytest_benchscale.lab.node_shell import ask, run_script

__all__ = ["DiskFull"]

_MOST_MB = 256
"""How much of a tmpfs is filled by writing, which takes the machine's memory."""

_SLACK_KB = 1024  # what a tmpfs that was made small has left to be filled

_SURVEY = """
cd -P -- "$1" && pwd -P && df -Pk . && echo mounts && cat /proc/self/mountinfo
"""

# What there is to be left is taken first and given back last. fallocate takes blocks without writing
# to them; where it is not there, or cannot, writing until there is no more room does.
_FILL = """
umask 077 && mkdir "$1" && cd "$1" || exit 1
if [ "$2" -gt 0 ]; then
    fallocate -l "${2}M" reserve 2>/dev/null || dd if=/dev/zero of=reserve bs=1048576 count="$2" || exit 1
fi
number=0 size=$3
while [ "$size" -ge 4 ] && [ "$number" -lt 64 ]; do
    if fallocate -l "${size}K" "$number" 2>/dev/null; then number=$((number + 1)); else
        rm -f "$number" && size=$((size / 2)); fi
done
cat /dev/zero > rest 2>/dev/null
rm -f reserve
exit 0
"""

# It succeeds when so many bytes can be written.
_TRY = """
head -c "$2" /dev/zero > "$1"
failed=$?
rm -f "$1"
exit "$failed"
"""

_numbers = itertools.count(1)


class _FileSystem(NamedTuple):
    """Where a directory is: its real path, and its file system's mount point, type and room."""

    directory: str
    point: str
    kind: str
    options: str
    used_kb: int
    free_kb: int


class DiskFull(Fault):
    """The file system of a directory has no more than `leave_mb` of room during the block."""

    def __init__(self, machine: Machine, path: str, leave_mb: int) -> None:
        __tracebackhide__ = True
        super().__init__(machine.context, f"disk full at {path} of {machine.name}")
        if not is_whole(leave_mb) or leave_mb < 0:
            raise LabError(
                f"leave_mb is a whole number of MiB, 0 or more, not {leave_mb!r}",
                node=machine.name,
                step="fault",
            )
        self._machine = machine
        self._path = path
        self._leave_mb = leave_mb
        self._ballast: str | None = None
        self._shrunk: _FileSystem | None = None

    async def _make(self) -> None:
        __tracebackhide__ = True
        self._context.require(Capability.FULL_DISK)
        plan = self._machine.plan
        if plan is not None and plan.spec.existing is not None:
            raise NotSupported(
                self._context.backend.name,
                Capability.FULL_DISK,
                details=f"node {self._machine.name!r} is an existing machine, whose disk is not ours to fill",
            )
        place = await self._survey()
        self._check_own(place)
        room = place.free_kb
        if place.kind == "tmpfs" and room > (_MOST_MB + self._leave_mb) << 10:
            room = await self._shrink(place)
        ballast = f"{place.directory}/.benchscale-ballast-{next(_numbers)}"
        if room < self._leave_mb << 10:
            raise LabError(
                f"{self._path} of node {self._machine.name!r} has only {room >> 10} MiB of room, "
                f"less than are to be left",
                node=self._machine.name,
                step="fault",
            )
        self._ballast = ballast
        await ask(self._machine, self.what, _FILL, ballast, str(self._leave_mb), str(room))
        await self._check_full(place)

    async def _take_back(self) -> None:
        __tracebackhide__ = True
        if self._ballast is not None:
            await ask(self._machine, "making room", 'rm -rf -- "$1"', self._ballast)
        if self._shrunk is not None:
            place = self._shrunk
            sizes = [word for word in place.options.split(",") if word.startswith("size=")]
            size = sizes[0] if sizes else "size=50%"  # tmpfs(5): what it is when nobody says
            await ask(self._machine, "making room", 'mount -o "remount,$2" "$1"', place.point, size)
        if self._ballast is not None:
            tried = await self._write((self._leave_mb << 20) + 65_536)
            if not tried:
                raise FaultNotHealed(
                    f"'{self.what}' is still there: nothing can be written",
                    node=self._machine.name,
                    step="fault",
                )

    async def _survey(self) -> _FileSystem:
        text = await ask(self._machine, f"looking at {self._path}", _SURVEY, self._path)
        table, _, mounts = text.partition("\nmounts\n")
        directory, _, line = table.splitlines()
        _, _, used, free, _, point = line.split(None, 5)
        kind = options = ""
        for mount in mounts.splitlines():
            # proc(5): ... root, mount point, options, optional fields, "-", type, source, options
            head, _, tail = mount.partition(" - ")
            if head.split()[4] == point.replace(" ", r"\040"):
                kind, _, options = tail.split(" ", 2)
        return _FileSystem(directory, point, kind, options, int(used), int(free))

    def _check_own(self, place: _FileSystem) -> None:
        """Refuse what is not the node's own to fill."""
        __tracebackhide__ = True
        if place.kind == "tmpfs" or Capability.DISK_SIZE in self._context.backend.capabilities:
            return
        raise LabError(
            f"{self._path} of node {self._machine.name!r} cannot be filled: it lies on the disk, or in "
            "the memory, of the machine that runs all nodes",
            node=self._machine.name,
            step="fault",
            details=f"its file system is {place.kind or 'not known'}, mounted at {place.point}",
            resolution="choose a directory on a tmpfs of the node's own, such as /dev/shm; or a backend "
            "whose nodes have disks of their own, such as libvirt",
        )

    async def _shrink(self, place: _FileSystem) -> int:
        """Make a large tmpfs small, and return the room that it has then, in KiB."""
        room = (self._leave_mb << 10) + _SLACK_KB
        options = f"remount,size={place.used_kb + room}k"
        result = await run_script(self._machine, 'mount -o "$2" "$1"', place.point, options)
        if not result.ok:
            raise LabError(
                f"{self._path} of node {self._machine.name!r} has {place.free_kb >> 10} MiB of memory to "
                f"be filled, more than {_MOST_MB}, and cannot be made smaller",
                node=self._machine.name,
                step="fault",
                details=result.output_excerpt(),
                resolution="give the node a smaller tmpfs there, or choose another directory",
            )
        self._shrunk = place
        return room

    async def _check_full(self, place: _FileSystem) -> None:
        __tracebackhide__ = True
        size = (self._leave_mb << 20) + 65_536
        if await self._write(size):
            raise FaultNotEffective(
                f"'{self.what}' has no effect: {size} bytes could be written all the same",
                node=self._machine.name,
                step="fault",
                details=f"{place.kind} at {place.point}, {place.free_kb} KiB free before",
            )

    async def _write(self, size: int) -> bool:
        """Try to write so many bytes beside the ballast; return whether that went well.

        Raises:
            LabError: it failed for another reason than a full disk.
        """
        path = f"{self._ballast}.try"
        result = await run_script(self._machine, _TRY, path, str(size))
        if not result.ok and "No space left" not in result.stderr:
            raise LabError(
                f"writing to {self._path} of node {self._machine.name!r} failed, and not for want of room",
                node=self._machine.name,
                step="fault",
                details=result.output_excerpt(),
            )
        return result.ok
