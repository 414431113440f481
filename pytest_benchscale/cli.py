"""The `benchscale` command: topologies and backends without a test, and labs that outlive a session."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_benchscale import __version__
from pytest_benchscale.commands import basics, inventory, labs, shell
from pytest_benchscale.commands.arguments import CommandParser
from pytest_benchscale.errors import BenchscaleError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when all is well, 1 when something is not, 2 when it was misused."""
    options = _parser().parse_args(argv)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BenchscaleError as error:
        print(f"benchscale: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchscale", description="Labs of real machines.")
    parser.add_argument("--version", action="version", version=f"benchscale {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for module in (basics, inventory, labs, shell):
        module.add_to(commands)
    return parser
