"""A tiny shell in memory: words, quotes, variables, `;`, `&&`, `||`, `|`, `&`, `( )`, `>`, `>>`, `2>&1`.

Just what the tests of the lab and the simple half of the contract need; `commands` has the programs.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.fake_backend.commands import COMMANDS
from tests.fake_backend.job import Exit, Job, Read, Write

__all__ = ["run_argv"]

_TOKENS = re.compile(
    r"""(?P<space>[ \t]+) | (?P<operator>&&|\|\||2>&1|>&2|2>|>>|[;&|()<>\n])
    | (?P<word>(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s;&|()<>'"\\])+)""",
    re.VERBOSE,
)
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+|\?|\$))")


async def run_argv(job: Job, argv: tuple[str, ...]) -> int:
    """Run a program with its arguments, and return its exit code."""
    name, *arguments = argv
    if name in {"/bin/sh", "sh"}:
        if arguments[:1] != ["-c"]:
            return await job.complain("sh: only sh -c COMMAND is here", 2)
        try:
            with job.node.process(argv):
                return await _Parser(arguments[1]).run(job)
        except Exit as exc:
            return exc.code
    command = COMMANDS.get(name.removeprefix("/bin/"))
    if command is None:
        return await _run_file(job, name, arguments)
    try:
        with job.node.process(argv):
            return await command(job, arguments) or 0
    except OSError as exc:
        return await job.complain(f"{name}: {exc.filename}: {exc.strerror}")


async def _run_file(job: Job, name: str, arguments: list[str]) -> int:
    """Run a script, if there is one of that name."""
    path = job.path(name) if "/" in name else f"/usr/local/bin/{name}"
    files = job.node.files
    if not files.exists(path):
        return await job.complain(f"{name}: not found", 127)
    if files.is_dir(path) or not files.get(path).mode & 0o111:
        return await job.complain(f"{name}: Permission denied", 126)
    script = files.read(path).decode().partition("\n")[2]  # after its #!
    numbered = {str(number): word for number, word in enumerate(arguments, 1)}
    try:
        return await _Parser(script).run(replace(job, env={**job.env, **numbered}))
    except Exit as exc:
        return exc.code


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
    while words[0] in {"exec", "setsid", "nohup", "env", "-i"} and len(words) > 1:
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
            is_plain = not set(text) & set("'\"$")
            words.extend((is_plain and job.node.glob(text)) or [_expand(job, text)])
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
