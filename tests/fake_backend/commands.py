"""The programs of a fake node. Those that no real node has: `die`, `log`, `listen`, `flood`."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable

from tests.fake_backend.job import Exit, Job

__all__ = ["COMMANDS"]


async def _echo(job: Job, arguments: list[str]) -> None:
    newline = arguments[:1] != ["-n"]
    text = " ".join(arguments if newline else arguments[1:])
    await job.out(text.encode() + b"\n" * newline)


async def _cat(job: Job, arguments: list[str]) -> None:
    for name in [name for name in arguments if name != "--"] or ["-"]:
        if name != "-":
            await job.out(job.node.read(job.path(name)))
            continue
        while data := await job.read():
            await job.out(data)


async def _exit(job: Job, arguments: list[str]) -> int:
    raise Exit(int(arguments[0]) if arguments else int(job.env.get("?", "0")))


async def _sleep(job: Job, arguments: list[str]) -> None:
    await asyncio.sleep(float(arguments[0]))
    await job.node.awake.wait()


async def _test(job: Job, arguments: list[str]) -> int:
    words = [word for word in arguments if word != "]"]
    negated = words[:1] == ["!"]
    if negated:
        words = words[1:]
    match words:
        case ["-e", path]:
            truth = job.node.files.exists(job.path(path))
        case ["-d", path]:
            truth = job.node.files.is_dir(job.path(path))
        case ["-f", path]:
            truth = job.node.files.exists(job.path(path)) and not job.node.files.is_dir(path)
        case [left, "=", right]:
            truth = left == right
        case ["-n", word] | [word]:
            truth = bool(word)
        case _:
            return await job.complain(f"test: {words}: not understood here", 2)
    return int(truth == negated)


async def _mkdir(job: Job, arguments: list[str]) -> None:
    for name in arguments:
        if not name.startswith("-"):
            job.node.files.mkdir(job.path(name), parents="-p" in arguments)


async def _ls(job: Job, arguments: list[str]) -> None:
    for name in [name for name in arguments if not name.startswith("-")] or ["."]:
        await job.out("".join(f"{one}\n" for one in job.node.files.names(job.path(name))).encode())


async def _rm(job: Job, arguments: list[str]) -> None:
    for name in arguments:
        if not name.startswith("-"):
            job.node.files.remove(job.path(name))


async def _mv(job: Job, arguments: list[str]) -> None:
    source, target = map(job.path, arguments)
    job.node.files.write(target, job.node.files.read(source))
    job.node.files.remove(source)


async def _touch(job: Job, arguments: list[str]) -> None:
    for name in arguments:
        job.node.files.write(job.path(name), b"")


async def _chmod(job: Job, arguments: list[str]) -> None:
    job.node.files.chmod(job.path(arguments[1]), int(arguments[0], 8))


async def _pwd(job: Job, _: list[str]) -> None:
    await job.out(f"{job.cwd}\n".encode())


async def _env(job: Job, _: list[str]) -> None:
    await job.out("".join(f"{name}={value}\n" for name, value in job.env.items()).encode())


async def _hostname(job: Job, _: list[str]) -> None:
    await job.out(f"{job.node.plan.hostname}\n".encode())


async def _id(job: Job, _: list[str]) -> None:
    await job.out(f"{job.user}\n".encode())


async def _getent(job: Job, arguments: list[str]) -> int:
    addresses = job.node.plan.hosts.get(arguments[-1], ())
    await job.out("".join(f"{address} {arguments[-1]}\n" for address in addresses).encode())
    return 0 if addresses else 2


async def _trap(job: Job, arguments: list[str]) -> None:
    if arguments[0] == "":
        job.ignored.update(name.removeprefix("SIG") for name in arguments[1:])


async def _printf(job: Job, arguments: list[str]) -> None:
    text = arguments[0].replace("%s", " ".join(arguments[1:])).encode()
    escapes = {b"n": b"\n", b"t": b"\t", b"\\": b"\\"}

    def unescaped(match: re.Match[bytes]) -> bytes:
        return escapes.get(match[1]) or bytes([int(match[1], 8)])

    await job.out(re.sub(rb"\\([0-7]{1,3}|[nt\\])", unescaped, text))


async def _head(job: Job, arguments: list[str]) -> None:
    """`head -c N [/dev/zero]`."""
    left = int(arguments[1])
    if arguments[2:] == ["/dev/zero"]:
        while left > 0:
            await job.out(bytes(min(left, 1 << 20)))
            left -= 1 << 20
        return
    while left > 0 and (data := await job.read()):
        await job.out(data[:left])
        left -= len(data)


async def _kill(_: Job, arguments: list[str]) -> None:
    """`kill -SIGNAL $$`: end oneself by a signal."""
    name = arguments[0].lstrip("-")
    raise Exit(-(int(name) if name.isdigit() else signal.Signals[f"SIG{name}"]))


async def _stat(job: Job, arguments: list[str]) -> None:
    """`stat -c %a PATH...`."""
    for name in arguments[2:]:
        await job.out(f"{job.node.files.get(job.path(name)).mode:o}\n".encode())


async def _readlink(job: Job, arguments: list[str]) -> int:
    link = job.node.files.link(job.path(arguments[0]))
    await job.out(f"{link}\n".encode() if link else b"")
    return 0 if link else 1


async def _ln(job: Job, arguments: list[str]) -> None:
    job.node.files.symlink(job.path(arguments[2]), arguments[1])


async def _cd(job: Job, arguments: list[str]) -> int:
    path = job.path(arguments[0])
    if not job.node.files.is_dir(path):
        return await job.complain(f"cd: {path}: No such file or directory")
    job.cwd = path
    return 0


async def _wait(job: Job, _: list[str]) -> None:
    await asyncio.gather(*job.children, return_exceptions=True)


async def _nothing(_: Job, __: list[str]) -> None:
    pass


async def _false(_: Job, __: list[str]) -> int:
    return 1


async def _die(job: Job, arguments: list[str]) -> None:
    """The node ends by itself."""
    job.node.die(" ".join(arguments) or "it fell over")
    await asyncio.sleep(0)  # where its death reaches this command, too


async def _log(job: Job, arguments: list[str]) -> None:
    """The node says something in its log."""
    job.node.log += " ".join(arguments) + "\n"


async def _listen(job: Job, arguments: list[str]) -> None:
    """Listen on a port, `listen tcp6 80`, until the end."""
    place = (arguments[0], int(arguments[1]))
    job.node.listening.append(place)
    try:
        await asyncio.Event().wait()
    finally:
        job.node.listening.remove(place)


async def _flood(job: Job, arguments: list[str]) -> None:
    """Write a line very often: `flood 1000 some words`."""
    count, line = int(arguments[0]), " ".join(arguments[1:]).encode() + b"\n"
    batch = 1000
    while count > 0:
        await job.out(line * min(count, batch))
        count -= batch


COMMANDS: dict[str, Callable[[Job, list[str]], Awaitable[int | None]]] = {
    "[": _test,
    ":": _nothing,
    "cat": _cat,
    "cd": _cd,
    "chmod": _chmod,
    "die": _die,
    "echo": _echo,
    "env": _env,
    "exit": _exit,
    "false": _false,
    "flood": _flood,
    "getent": _getent,
    "head": _head,
    "hostname": _hostname,
    "id": _id,
    "kill": _kill,
    "listen": _listen,
    "ln": _ln,
    "log": _log,
    "ls": _ls,
    "mkdir": _mkdir,
    "mv": _mv,
    "printf": _printf,
    "pwd": _pwd,
    "readlink": _readlink,
    "rm": _rm,
    "sleep": _sleep,
    "stat": _stat,
    "sync": _nothing,
    "test": _test,
    "touch": _touch,
    "trap": _trap,
    "true": _nothing,
    "uname": _hostname,
    "wait": _wait,
}
