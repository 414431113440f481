"""Labs from the command line: `up`, `down`, `exec`, `logs`, `cp`."""

# ruff: noqa: PLC0415  --help, and labs that are not there, need little of what the commands need

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_benchscale.errors import BenchscaleError
from pytest_benchscale.lab.durations import parse_duration

if TYPE_CHECKING:
    from pytest_benchscale.lab.ledger import Found, Ledger

__all__ = ["add_to"]

_INTERRUPTED = 130  # as a shell has it: 128 and the number of SIGINT


def add_to(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    up = commands.add_parser("up", help="bring a lab up, and keep it")
    up.add_argument("file", type=Path, metavar="FILE")
    up.add_argument(
        "--name", help="what to call this lab (default: its id, or its topology's name)"
    )
    up.add_argument("--backend", metavar="NAME", help="run it on this backend")
    up.add_argument("--image", action="append", default=[], metavar="NAME=REF")
    up.add_argument("--presets", action="append", default=[], type=Path, metavar="FILE")
    up.add_argument("--for", dest="kept_for", default="8h", metavar="TIME", help="default: 8h")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="take kept labs down")
    down.add_argument("labs", nargs="*", metavar="LAB")
    down.add_argument("--all", action="store_true", help="all that are kept")
    down.set_defaults(run=_down)

    run = commands.add_parser("exec", help="run a command in a node of a kept lab")
    run.add_argument("--user", help="as this user of the node")
    run.add_argument("--cwd", metavar="DIR", help="in this directory of the node")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("lab", metavar="LAB")
    run.add_argument("node", metavar="NODE")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] CMD...")
    run.set_defaults(run=_exec)

    logs = commands.add_parser("logs", help="show what a node of a kept lab has said")
    logs.add_argument("lab", metavar="LAB")
    logs.add_argument("node", metavar="NODE")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on until the node ends, or Ctrl-C"
    )
    logs.set_defaults(run=_logs)

    cp = commands.add_parser("cp", help="copy files to or from a node: LAB:NODE:/path")
    cp.add_argument("source", metavar="SOURCE")
    cp.add_argument("target", metavar="TARGET")
    cp.set_defaults(run=_cp)

    for parser in (up, down, run, logs, cp):
        parser.add_argument("--json", action="store_true", help="answer for a program")


def _up(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.bringing_up import bring_up
    from pytest_benchscale.commands.output import print_table
    from pytest_benchscale.lab.keeping import how_to_get_in

    seconds = parse_duration("--for", options.kept_for)
    images = dict(_pair("--image", text) for text in options.image)
    try:
        facts = bring_up(
            options.file,
            name=options.name,
            backend=options.backend,
            images=images,
            presets=options.presets,
            seconds=seconds,
        )
    except KeyboardInterrupt:
        print("benchscale: interrupted; nothing is left of the lab", file=sys.stderr)
        return _INTERRUPTED
    if options.json:
        print(json.dumps(facts))
        return 0
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts["until"]))
    title = f" {options.name!r}," if options.name else ""
    print(f"lab {facts['lab']}:{title} {facts['topology']!r} on {facts['backend']}, until {until}")
    rows = [
        (name, ", ".join(f"{network} {one}" for network, one in node["addresses"].items()))
        for name, node in facts["nodes"].items()
    ]
    print_table(("node", "addresses"), rows)
    lab = options.name or facts["lab"]
    print(f"  benchscale exec {lab} {next(iter(facts['nodes']))} -- COMMAND")
    print(*how_to_get_in(lab, [*facts["nodes"]]), sep="\n")
    return 0


def _down(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.whereabouts import find
    from pytest_benchscale.lab.ledger import Ledger, Standing

    if bool(options.labs) == options.all:
        raise BenchscaleError("name the labs to take down, or give --all", resolution=_LIST)
    ledger = Ledger()
    if options.all:
        kept = {Standing.KEPT, Standing.EXPIRED}
        labs = [found for found in ledger.labs() if found.standing in kept]
    else:
        labs = [find(name, ledger) for name in options.labs]
    outcomes = {found.lab_id: _take_down(ledger, found) for found in labs}
    if options.json:
        print(json.dumps([{"lab": lab, "error": error} for lab, error in outcomes.items()]))
    for lab, error in outcomes.items():
        if error is not None:
            print(f"benchscale: {lab}: {error}", file=sys.stderr)
        elif not options.json:
            print(f"{lab}: taken down")
    if not outcomes and not options.json:
        print("there is no kept lab")
    return int(any(outcomes.values()))


_LIST = "`benchscale list` shows them"


def _take_down(ledger: Ledger, found: Found) -> str | None:
    """Take a lab down; return what went wrong."""
    import anyio

    from pytest_benchscale.commands.whereabouts import at_place
    from pytest_benchscale.lab.removal import remove

    entry = ledger.take(found.lab_id)
    if entry is None:
        return f"somebody is using it just now, or has just removed it; {_LIST}"
    try:
        with at_place(entry.record):
            anyio.run(remove, entry)
    except BenchscaleError as error:
        return str(error)
    return None


def _exec(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands import streams
    from pytest_benchscale.commands.whereabouts import visiting

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise BenchscaleError(
            "exec needs a command", resolution="as in: benchscale exec LAB NODE -- uname -a"
        )
    env = dict(_pair("--env", text) for text in options.env)
    out, err = streams.Gathered(), streams.Gathered()
    begun = time.perf_counter()
    with visiting(options.lab) as lab:
        node = lab[options.node]

        async def run() -> int:
            return await node.stream(
                command,
                read=streams.read_stdin,
                out=out.write if options.json else streams.write_stdout,
                err=err.write if options.json else streams.write_stderr,
                env=env,
                cwd=options.cwd,
                user=options.user,
            )

        try:
            code = lab.portal.call_blocking(run)
        except KeyboardInterrupt:
            return _INTERRUPTED
    if options.json:
        seconds = time.perf_counter() - begun
        told = {"returncode": code, "stdout": out.text(), "stderr": err.text(), "seconds": seconds}
        print(json.dumps(told))
    return code if code >= 0 else 128 - code


def _logs(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.whereabouts import visiting

    if options.follow:
        from pytest_benchscale.commands.following import follow

        return follow(options.lab, options.node, as_json=options.json)
    with visiting(options.lab) as lab:
        text = lab.sync[options.node].logs()
    if options.json:
        print(json.dumps({"node": options.node, "log": text}))
    else:
        sys.stdout.write(text)
    return 0


def _cp(options: argparse.Namespace) -> int:
    from pytest_benchscale.commands.whereabouts import visiting

    source, target = _in_node(options.source), _in_node(options.target)
    if source and not target:
        with visiting(source[0]) as lab:
            lab.sync[source[1]].get(source[2], Path(options.target))
    elif target and not source:
        with visiting(target[0]) as lab:
            lab.sync[target[1]].put(Path(options.source), target[2])
    else:
        raise BenchscaleError(
            "cp copies between a node and this machine"
            + (", not from node to node" if source else ": neither place is in a node"),
            resolution="a place in a node is LAB:NODE:/path",
        )
    if options.json:
        print(json.dumps({"source": options.source, "target": options.target}))
    return 0


def _in_node(place: str) -> tuple[str, str, str] | None:
    """Return the lab, the node and the path of a place; None: it is here."""
    match = re.fullmatch(r"([^:/]+):([^:/]+):(.+)", place, re.DOTALL)
    return (match[1], match[2], match[3]) if match and not place.startswith(".") else None


def _pair(option: str, text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not name or not mark:
        raise BenchscaleError(f"{option}: {text!r} is not NAME=VALUE")
    return name, value
