"""A tiny shell in memory: words, quotes, variables, `;`, `&&`, `||`, `|`, `&`, `( )`, `>`, `>>`, `2>&1`.

Its commands are the few that the tests of the lab need. See `Shell.commands` for those that no real
shell has: they let a node die, listen, or say something in its log.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from tests.fake_backend.machine import FakeNode

__all__ = ["Exit", "Job", "Write", "run_argv"]

Write = Callable[[bytes], Awaitable[None]]
Read = Callable[[], Awaitable[bytes]]

_TOKENS = re.compile(
    r"""(?P<space>[ \t]+) | (?P<operator>&&|\|\||2>&1|>&2|2>|>>|[;&|()<>\n])
    | (?P<word>(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s;&|()<>'"\\])+)""",
    re.VERBOSE,
)
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+|\?))")


class Exit(Exception):
    """`exit N`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Job:
    """What a command runs with. Background children are added to `children`."""

    node: FakeNode
    env: dict[str, str]
    cwd: str
    user: str
    read: Read
    out: Write
    err: Write
    children: set[asyncio.Task[int]] = field(default_factory=set)
    traps: set[str] = field(default_factory=set)

    async def complain(self, text: str, code: int = 1) -> int:
        await self.err(f"{text}\n".encode())
        return code


async def run_argv(job: Job, argv: tuple[str, ...]) -> int:
    """Run a program with its arguments, and return its exit code."""
    name, *arguments = argv
    if name in {"/bin/sh", "sh"}:
        if arguments[:1] != ["-c"]:
            return await job.complain("sh: only sh -c COMMAND is here", 2)
        try:
            return await _Parser(arguments[1]).run(job)
        except Exit as exc:
            return exc.code
    command = getattr(Commands, f"do_{name.replace('-', '_')}", None)
    if command is None:
        if "/" in name and job.node.files.exists(name):
            return await job.complain(f"{name}: Permission denied", 126)
        return await job.complain(f"{name}: not found", 127)
    try:
        code: int | None = await command(job, arguments)
    except OSError as exc:
        return await job.complain(f"{name}: {exc.filename}: {exc.strerror}")
    return code or 0


class _Parser:
    """Runs a line while it reads it; `live` is false in a part that `&&` or `||` skips."""

    def __init__(self, line: str) -> None:
        self._tokens = [
            (str(match.lastgroup), match.group())
            for match in _TOKENS.finditer(line)
            if match.lastgroup != "space"
        ]
        self._at = 0

    def _peek(self) -> str | None:
        """Return the next operator, "" for a word, None at the end."""
        if self._at == len(self._tokens):
            return None
        kind, text = self._tokens[self._at]
        return text if kind == "operator" else ""

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][1]

    async def run(self, job: Job) -> int:
        code = 0
        while self._peek() not in {None, ")"}:
            if self._peek() in {";", "\n"}:
                self._next()
                continue
            code = await self._and_or(job, code)
        return code

    async def _and_or(self, job: Job, before: int) -> int:
        start = self._at
        self._skip_and_or()
        background = self._peek() == "&"
        end, self._at = self._at, start
        if background:
            part = _Parser("")
            part._tokens = self._tokens[start:end]
            quiet = replace(job, read=_nothing, children=job.children)
            task = asyncio.create_task(_forgiving(part.run(quiet)))
            job.children.add(task)
            job.node.tasks.add(task)
            self._at = end + 1
            return 0
        job.env["?"] = str(before)
        code = await self._pipeline(job, live=True)
        while self._peek() in {"&&", "||"}:
            live = (self._next() == "&&") == (code == 0)
            result = await self._pipeline(job, live=live)
            code = result if live else code
        return code

    def _skip_and_or(self) -> None:
        depth = 0
        while (token := self._peek()) is not None:
            depth += (token == "(") - (token == ")")
            if depth < 0 or (depth == 0 and token in {";", "\n", "&"}):
                return
            self._next()

    async def _pipeline(self, job: Job, *, live: bool) -> int:
        source = job.read
        while True:
            start = self._at
            self._skip_command()
            piped = self._peek() == "|"
            self._at = start
            data: list[bytes] = []
            stage = replace(job, read=source, out=_appender(data)) if piped else job
            if not piped and source is not job.read:
                stage = replace(job, read=source)
            code = await self._command(stage, live=live)
            if not piped:
                return code
            self._next()
            source = _from_list(data)

    def _skip_command(self) -> None:
        depth = 0
        while (token := self._peek()) is not None:
            depth += (token == "(") - (token == ")")
            if depth < 0 or (depth == 0 and token in {";", "\n", "&", "|", "&&", "||"}):
                return
            self._next()

    async def _command(self, job: Job, *, live: bool) -> int:
        start = self._at
        self._skip_command()
        tokens = self._tokens[start : self._at]
        if not live:
            return 0
        group: list[tuple[str, str]] | None = None
        if tokens and tokens[0][1] == "(":
            close = _closing(tokens)
            group, tokens = tokens[1:close], tokens[close + 1 :]
        words, job, flush = _redirected(job, tokens)
        if group is not None:
            part = _Parser("")
            part._tokens = group
            code = await part.run(replace(job, env=dict(job.env)))
        else:
            code = await _simple(job, words)
        flush()
        return code


async def _simple(job: Job, words: list[str]) -> int:
    own = dict(job.env)
    while words and (match := re.match(r"(\w+)=(.*)", words[0], re.DOTALL)):
        own[match[1]] = match[2]
        words = words[1:]
    if not words:
        job.env.update(own)
        return 0
    if words[0] in {"exec", "setsid", "nohup", "env"} and len(words) > 1:
        words = words[1:]
    return await run_argv(replace(job, env=own) if own != job.env else job, tuple(words))


def _redirected(
    job: Job, tokens: list[tuple[str, str]]
) -> tuple[list[str], Job, Callable[[], None]]:
    words: list[str] = []
    writes: list[tuple[str, list[bytes], bool]] = []
    rest = iter(tokens)
    for kind, text in rest:
        if kind == "word":
            words.append(_expand(job, text))
        elif text == "2>&1":
            job = replace(job, err=job.out)
        elif text == ">&2":
            job = replace(job, out=job.err)
        else:
            path, data = posixpath.join(job.cwd, _expand(job, next(rest)[1])), list[bytes]()
            if text == "<":
                job = replace(job, read=_from_list([job.node.files.read(path)]))
                continue
            if path != "/dev/null":
                writes.append((path, data, text == ">>"))
            sink = _appender(data)
            job = replace(job, err=sink) if text == "2>" else replace(job, out=sink)

    def flush() -> None:
        for path, data, append in writes:
            old = job.node.files.read(path) if append and job.node.files.exists(path) else b""
            job.node.files.write(path, old + b"".join(data))

    return words, job, flush


def _expand(job: Job, word: str) -> str:
    def variables(text: str) -> str:
        return _VARIABLE.sub(lambda match: job.env.get(match[1] or match[2], ""), text)

    parts = []
    for single, double, escaped, plain in _PART.findall(word):
        unescaped = re.sub(r'\\(["\\$`])', r"\1", variables(double))
        parts.append(single or unescaped or escaped or variables(plain))
    return "".join(parts)


def _closing(tokens: list[tuple[str, str]]) -> int:
    depth = 0
    for index, (_, text) in enumerate(tokens):
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return index
    raise ValueError("unbalanced ( )")


def _appender(data: list[bytes]) -> Write:
    async def write(chunk: bytes) -> None:
        data.append(chunk)

    return write


def _from_list(data: list[bytes]) -> Read:
    async def read() -> bytes:
        return data.pop(0) if data else b""

    return read


async def _nothing() -> bytes:
    return b""


async def _forgiving(work: Awaitable[int]) -> int:
    try:
        return await work
    except Exit as exc:
        return exc.code


class Commands:
    """The programs there are, `do_NAME`; a return value of None is success."""

    async def do_echo(job: Job, arguments: list[str]) -> None:  # noqa: N805
        newline = arguments[:1] != ["-n"]
        text = " ".join(arguments if newline else arguments[1:])
        await job.out(text.encode() + b"\n" * newline)
