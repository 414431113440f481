"""The shell program that waits in a node, and what it is told.

A daemon needs tens of milliseconds to start a process in a container, so one is started beforehand: a shell
that reads scripts from its input and runs one command for each. It needs nothing but its builtins,
knows nothing but what it is sent, and ends when its input does.

It says what happens in notes: lines that begin with a word only it and we know, in the middle of
the output of commands, which goes straight from the command to whoever carries it. The word comes over its
input, so that no listing of processes shows it.
"""

from __future__ import annotations

import re
import secrets
import shlex
import signal
from collections.abc import Mapping, Set
from dataclasses import dataclass

from pytest_benchscale.transports.base import Command

__all__ = ["BOOT", "MARKER", "Ending", "Hello", "Words", "command_script", "hello_script"]

MARKER = "BENCHSCALE_EXEC"
"""An environment variable of every command, by which its descendants are known."""

BOOT = """\
exec 3<&0 4>&1 5>&2 </dev/null >/dev/null 2>&1
_n='
'
IFS= read -r _e <&3
while IFS= read -r _l <&3; do
if [ "$_l" = "$_e" ]; then eval "$_s"; _s=; else _s=$_s$_l$_n; fi
done
"""
"""Descriptors 3, 4 and 5 are the session's own input and outputs; a command gets copies of them."""

_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # what a shell can export

# After a command the shell looks whether anything that is new among the processes still holds the
# session's outputs: then they are not clean for the next command. `-ef` compares the pipes themselves.
# What it may not look into, a process of another user, counts as holding them, unless it came from outside as
# an exec session does.
_LIBRARY = """\
_w={word}
_foreign() {{
IFS= read -r _s <"$1/stat" || return 0
_s=${{_s##*) }}
case $_s in ?' 0 '*) return 0 ;; esac
return 1
}}
_clean() {{
set -- /proc/[0-9]*
for _d do
case " $_known " in *" $_d "*) continue ;; esac
for _f in "$_d"/fd/*; do
if [ "$_f" -ef "/proc/$$/fd/4" ] || [ "$_f" -ef "/proc/$$/fd/5" ]; then return 1; fi
if [ -e "$_f" ]; then continue; fi
if _foreign "$_d"; then break; else return 1; fi
done
done
_known="$*"
}}
_ended() {{
case $_m in
r*) printf '%se%s x\\n' $_w "${{_m#r}}" >&4 ;;
'') printf '%se137 k\\n' $_w >&4 ;;
*) printf '%se%s k\\n' $_w "${{_m##*r}}" >&4 ;;
esac
printf '%se\\n' $_w >&5
if _clean; then printf '%sc1\\n' $_w >&4; else printf '%sc0\\n' $_w >&4; fi
}}
_ok=0
if [ /proc/$$/fd/4 -ef /proc/$$/fd/4 ] && ! [ /proc/$$/fd/4 -ef /proc/$$/fd/5 ]; then _ok=1; fi
set -- /proc/[0-9]*
_known="$*"
printf '%sh%s %s %s\\n' $_w $$ $_ok "${{BASH_VERSION:+bash}}" >&4
"""

# The command's own shell says which process it is, then becomes the command. What the shell around it says of
# its end, such as "Killed", tells death by a signal from an exit code above 128.
_RUN = """\
_m=$(exec 2>&1; (
read -r _p _c _q _r _x </proc/self/stat
printf '%sp%s %s\\n' $_w "$_p" "$_r" >&4
exec 3<&- 4>&- 5>&-
{prepare}unset PWD OLDPWD
exec {argv}
) {stdin} >&4 2>&5; printf 'r%s' $?)
_ended
"""


@dataclass(frozen=True, slots=True)
class Words:
    """What only a session and we know: how its notes begin, and how a script for it ends."""

    note: str
    end: str

    @classmethod
    def new(cls) -> Words:
        """Return words that occur nowhere else."""
        return cls(f"benchscale-{secrets.token_hex(12)}:", secrets.token_hex(12))


@dataclass(frozen=True, slots=True)
class Hello:
    """What a session says when it is ready: its shell's process, and what it can do."""

    pid: int
    is_able: bool  # whether it can tell clean outputs from others
    is_bash: bool

    @classmethod
    def parse(cls, note: str) -> Hello:
        """Read the note `PID ABLE SHELL`."""
        pid, able, shell = note.split(" ", 2)
        return cls(int(pid), able == "1", shell == "bash")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended, as its shell saw it: a code, and whether it was killed."""

    code: int
    killed: bool

    @classmethod
    def parse(cls, note: str) -> Ending:
        """Read the note `CODE x` or `CODE k`."""
        code, _, how = note.partition(" ")
        return cls(int(code), how == "k")

    def returncode(self, sent: Set[int], *, is_bash: bool) -> int:
        """Return the code as `ExecResult` has it: negative for a signal; `sent` are those that we sent.

        Shells say of a command that it was killed, but not of SIGINT, and bash never: there, 129 to 143
        count as signals.
        """
        number = self.code - 128
        if number > 0 and (self.killed or number in sent or (is_bash and number <= signal.SIGTERM)):
            return -number
        return self.code


def hello_script(words: Words) -> bytes:
    """Return what a new session is told first; it answers with `Hello`."""
    return f"{words.end}\n{_LIBRARY.format(word=words.note)}{words.end}\n".encode()


def command_script(words: Words, command: Command, marker: str, *, stdin: bool) -> bytes:
    """Return what a session is told to run a command; with `stdin` the script is followed by its input."""
    env = {**command.env, MARKER: marker}
    odd = [f"{name}={value}" for name, value in env.items() if not _IDENTIFIER.fullmatch(name)]
    text = _RUN.format(
        prepare="".join(f"{line}\n" for line in _preparations(command, env)),
        argv=shlex.join([*(("env", *odd) if odd else ()), *command.argv]),
        stdin="<&3" if stdin else "</dev/null",
    )
    return f"{text}{words.end}\n".encode(errors="surrogateescape")


def _preparations(command: Command, env: Mapping[str, str]) -> list[str]:
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in env.items()
        if _IDENTIFIER.fullmatch(name)
    ]
    if command.cwd is not None:
        # CDPATH would have cd print where it went; a leading dash would be an option.
        place = command.cwd if command.cwd.startswith("/") else f"./{command.cwd}"
        lines.append(f"unset CDPATH; cd {shlex.quote(place)} || exit 126")
    return lines
