"""A terminal in a node: `shell`."""

# ruff: noqa: PLC0415  --help needs nothing of what the command needs

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_benchscale.errors import BenchscaleError

if TYPE_CHECKING:
    from pytest_benchscale.lab.node import Node

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    shell = commands.add_parser(
        "shell",
        takes_command=True,
        help="open a terminal in a node of a kept lab",
        usage="benchscale shell [-h] [--user USER] [--json] [LAB] NODE [-- CMD...]",
        description="Open a shell, or run a command, on a terminal in a node of a kept lab. Without a "
        "terminal here, input and outputs are handed through as they are.",
    )
    shell.add_argument(
        "where", nargs="+", metavar="[LAB] NODE", help="LAB may be left out when only one is kept"
    )
    shell.add_argument("--user", help="as this user of the node")
    shell.add_argument(
        "--json", action="store_true", help="answer for a program: no terminal, outputs as JSON"
    )
    shell.set_defaults(run=_shell)


def _shell(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.screen import Interrupted, interruptible
    from pytest_benchscale.commands.whereabouts import visiting

    if len(options.where) > 2:
        raise BenchscaleError(
            f"a lab and a node are two words, not {len(options.where)}",
            resolution="write a command for the node behind --: benchscale shell LAB NODE -- CMD...",
        )
    *lab, name = options.where
    try:
        with interruptible(), visiting(lab[0] if lab else None) as there:
            node = there[name]
            if options.json:
                return _answer(node, options)
            run = _on_terminal if sys.stdin.isatty() else _on_streams
            code = run(node, options)
    except Interrupted as interrupted:
        return interrupted.exit_code
    return code if code >= 0 else 128 - code


def _on_terminal(node: Node, options: argparse.Namespace) -> int:
    from pytest_benchscale.commands import screen

    terminal = node.terminal(
        options.command or None, user=options.user, size=screen.size(), term=screen.kind()
    )
    with screen.SyncTerminal(terminal):
        return screen.converse(node, terminal)


def _on_streams(node: Node, options: argparse.Namespace) -> int:
    from pytest_benchscale.commands import streams

    return _stream(node, options, streams.write_stdout, streams.write_stderr)


def _answer(node: Node, options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.streams import Gathered

    out, err = Gathered(), Gathered()
    code = _stream(node, options, out.write, err.write)
    print(json.dumps({"returncode": code, "stdout": out.text(), "stderr": err.text()}))
    return code if code >= 0 else 128 - code


def _stream(node: Node, options: argparse.Namespace, out: Any, err: Any) -> int:
    from pytest_benchscale.commands.streams import read_stdin
    from pytest_benchscale.lab.terminal import SHELL_SCRIPT

    command = options.command or SHELL_SCRIPT

    async def run() -> int:
        return await node.stream(command, read=read_stdin, out=out, err=err, user=options.user)

    return node.portal.call_blocking(run)
