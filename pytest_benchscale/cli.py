"""The `benchscale` command: what can be known of topologies and backends without running a test."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_benchscale import __version__
from pytest_benchscale.errors import BackendUnavailable, TopologyError

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
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchscale", description="Labs of real machines.")
    parser.add_argument("--version", action="version", version=f"benchscale {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    validate = commands.add_parser("validate", help="check topology files and preset libraries")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.add_argument(
        "--presets",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a preset library that the topologies may use; may be repeated",
    )
    validate.set_defaults(run=_validate)

    schema = commands.add_parser("schema", help="print the JSON Schema of topology files")
    schema.set_defaults(run=_schema)

    backends = commands.add_parser("backends", help="show which backends can be used here")
    backends.set_defaults(run=_backends)
    return parser


def _validate(options: argparse.Namespace) -> int:
    wrong = False
    for path in options.files:
        try:
            print(f"{path}: ok ({_describe(path, options.presets)})")
        except TopologyError as error:
            wrong = True
            print(error)
    return int(wrong)


def _describe(path: Path, presets: Sequence[Path]) -> str:
    """Return what a valid file holds.

    Raises:
        TopologyError: it is not valid.
    """
    from pytest_benchscale.topology import loader, source  # noqa: PLC0415  --help needs neither

    root, _ = source.parse(source.read(path), path)
    if isinstance(root, Mapping) and "presets" in root and "nodes" not in root:
        return _count(len(loader.load_presets(path)), "preset")
    topology = loader.load(path, presets=presets)
    nodes, networks = len(topology.nodes), len(topology.networks)
    return f"{_count(nodes, 'node')}, {_count(networks, 'network')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _schema(_: argparse.Namespace) -> int:
    from pytest_benchscale.topology.schema import json_schema  # noqa: PLC0415

    print(json.dumps(json_schema(), indent=2))
    return 0


def _backends(_: argparse.Namespace) -> int:
    import anyio  # noqa: PLC0415

    from pytest_benchscale.backends import registry  # noqa: PLC0415

    async def probe(name: str) -> tuple[str, ...]:
        try:
            version = await registry.get(name)().probe()
        except BackendUnavailable as error:
            return name, "no", "", error.reason, error.resolution or ""
        return name, "yes", version, "", ""

    async def probe_all() -> list[tuple[str, ...]]:
        return [await probe(name) for name in registry.names()]

    _print_table(("name", "usable", "version", "why not", "what to do"), anyio.run(probe_all))
    return 0


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell; a cell is one line."""
    table = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
