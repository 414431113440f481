"""Conditions on a machine that is reached by ssh: set there by iproute2, and taken back at the end."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterable, Sequence

import anyio

from pytest_benchscale.backends.kernel import NETEM_ADVICE
from pytest_benchscale.backends.ssh.root_shell import RootShell, Start
from pytest_benchscale.errors import LabError
from pytest_benchscale.network.standing import Standing, undoing
from pytest_benchscale.network.steps import AddClassifier, AddMirror, SetNetem, Step
from pytest_benchscale.network.tc_text import batches

__all__ = ["MachineConduit"]

_TRIAL = "benchscale-try"
_TOOLS = "case $(ip -V 2>&1)$(tc -V 2>&1) in *iproute2*iproute2*) ;; *) false;; esac"
_NO_MODULE = re.compile(r"qdisc kind is unknown|Unknown qdisc|No such file or directory")
_FORBIDDEN = re.compile(r"Operation not permitted|Permission denied")
_REASON = re.compile(r"(?:RTNETLINK answers|Error): (?P<words>[^\n]+)")
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


class MachineConduit:
    """The traffic control of one machine; `where` says of which, as the subject of a sentence.

    What was set is taken back by the machine itself when the connection ends; if that broke, it is set
    again with the next change. What somebody else has set there is never replaced.
    """

    def __init__(
        self, where: str, start: Start, *, node: str | None = None, timeout_scale: float = 1.0
    ) -> None:
        self._where = where
        self._node = node
        self._start = start
        self._timeout_scale = timeout_scale
        self._shell: RootShell | None = None
        self._standing = Standing()
        self._turn = anyio.Lock()

    async def change(self, steps: Sequence[Step]) -> None:
        """Carry out the steps, to their end, also when the caller is cancelled meanwhile.

        Raises:
            OSError: the machine's kernel refused one.
            LabError: the login has not the right to, the machine lacks iproute2 or netem, or somebody
                else has set something at a device.
            BenchscaleError: the connection is lost.
        """
        async with self._turn:
            with anyio.CancelScope(shield=True):
                await self._change(await self._begin(), steps)

    async def has_netem(self) -> bool:
        """Return whether the machine's kernel can delay and lose packets: try it.

        Raises:
            LabError: the login has not the right to, or the machine lacks iproute2.
            BenchscaleError: there is no connection.
        """
        async with self._turn:
            with anyio.CancelScope(shield=True):
                shell = await self._begin()
                code, said = await shell.ask(
                    f"ip link add {_TRIAL} type ifb && "
                    f"{{ tc qdisc add dev {_TRIAL} root netem delay 1ms; r=$?; ip link delete {_TRIAL}; "
                    "(exit $r); }"
                )
        if code == 0:
            return True
        if _NO_MODULE.search(said):
            return False
        raise self._refused(said, ())

    async def aclose(self) -> None:
        """Have the machine take back what was set, and wait for that. Safe to call twice."""
        async with self._turn:
            with anyio.CancelScope(shield=True):
                shell, self._shell = self._shell, None
                self._standing = Standing()
                if shell is not None:
                    await shell.end()

    # --- steps ---

    async def _begin(self) -> RootShell:
        """Return the shell that is there, or a new one, with all that was set before."""
        earlier = self._shell
        if earlier is not None and earlier.is_there:
            return earlier
        shell = RootShell(self._where, self._node, self._timeout_scale)
        standing = self._standing
        try:
            await shell.begin(self._start)
            await self._require_tools(shell)
            if earlier is not None:
                await shell.relieve(earlier)
                self._standing = Standing()
                await self._change(shell, standing.steps())
        except BaseException:
            self._standing = standing
            await shell.end()
            raise
        self._shell = shell
        return shell

    async def _require_tools(self, shell: RootShell) -> None:
        code, _ = await shell.ask(_TOOLS)
        if code != 0:
            raise self._error(
                "it has no `tc` and `ip` of iproute2, which conditions and partitions need",
                "install the package iproute2 there: `apt-get install iproute2`",
            )

    async def _change(self, shell: RootShell, steps: Sequence[Step]) -> None:
        if not steps:
            return
        standing = self._standing
        stale = standing.leftovers(steps)
        await self._require_free(
            shell,
            [step for step in steps if isinstance(step, AddClassifier | AddMirror)],
            stale,
        )
        during, after = standing.copy(), standing.copy()
        during.note(steps)
        after.note([*stale, *steps])
        # What is to be undone meanwhile is what is there before, and what comes in addition.
        undo = Standing()
        undo.note([*standing.steps(), *during.steps()])
        commands = [f"undo={shlex.quote(_undo(undo))}"]
        if stale:
            commands.append(f"{{ {_undo_of(stale)}; }} >/dev/null 2>&1")
        work = [_fed(argv, text) for argv, text in batches(steps)]
        work.append(f"undo={shlex.quote(_undo(after))}")
        code, said = await shell.ask(f"{'; '.join(commands)}; {' && '.join(work)}")
        self._standing = undo if code else after
        if code:
            await shell.ask(f"{{ {_undo_of(undoing(steps))}; }} >/dev/null 2>&1")
            raise self._refused(said, steps)

    async def _require_free(
        self, shell: RootShell, steps: Sequence[AddClassifier | AddMirror], ours: Sequence[Step]
    ) -> None:
        """Raise when somebody else has made what the steps are to make."""
        known = {step.device for step in ours}
        looks = []
        for step in steps:
            if step.device in known:
                continue
            if isinstance(step, AddMirror):
                looks.append(f"ip -o link show dev {step.device} 2>/dev/null")
            else:
                looks.append(
                    f"tc qdisc show dev {step.device} | grep -E '^qdisc (clsact|ingress) '"
                )
        if not looks:
            return
        _, said = await shell.ask("; ".join(looks))
        for line in said.splitlines():
            self._require_no(line)

    def _require_no(self, line: str) -> None:
        words = line.split()
        if words[:1] == ["qdisc"]:
            device = words[words.index("dev") + 1] if "dev" in words else "?"
            raise self._error(
                f"its device {device} has a qdisc `{words[1]}` of somebody else's, where conditions and "
                "partitions would have to be set",
                f"if it is of no use any more, `tc qdisc del dev {device} {words[1]}` there; conditions of "
                "your own stay, and are not changed",
                line,
            )
        if words[:1] and words[0].rstrip(":").isdigit():
            raise self._error(
                f"it has a network device {words[1].rstrip(':')} already, of the name that is needed",
                f"if it is of no use any more, `ip link delete {words[1].rstrip(':')}` there",
                line,
            )

    # --- errors ---

    def _refused(self, said: str, steps: Iterable[Step]) -> OSError | LabError:
        if _FORBIDDEN.search(said):
            return self._error(
                "root may not set conditions there",
                "give the machine the capability CAP_NET_ADMIN, if it is a container",
                said,
            )
        if any(isinstance(step, SetNetem) for step in steps) and _NO_MODULE.search(said):
            return self._error("its kernel has no netem", NETEM_ADVICE, said)
        match = _REASON.search(said)
        words = match["words"] if match else ""
        number = next((n for text, n in _NUMBERS.items() if words.startswith(text)), errno.EIO)
        return OSError(number, f"{self._where}: {said or 'iproute2 failed, and did not say why'}")

    def _error(self, brief: str, resolution: str, details: str | None = None) -> LabError:
        return LabError(
            f"{self._where}: {brief}",
            node=self._node,
            step="conditions",
            details=details,
            resolution=resolution,
        )


def _fed(argv: Sequence[str], text: str) -> str:
    """Return the words by which a shell runs a command with a text as its input, all on one line."""
    lines = " ".join(shlex.quote(line) for line in text.splitlines())
    return f"printf '%s\\n' {lines} | {shlex.join(argv)}"


def _undo(standing: Standing) -> str:
    return _undo_of(standing.removal())


def _undo_of(steps: Sequence[Step]) -> str:
    """Return a line that carries out steps one by one, whatever comes of each."""
    return "; ".join(_fed(argv, text) for step in steps for argv, text in batches([step]))
