"""Echo requests and answers as bytes, and the program that takes part from within a node."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_benchscale.network import neighbours, prober

TOKEN = b"\x01\x02\x03\x04\x05\x06\x07\x08"
SOURCE = Path(prober.__file__).read_text(encoding="utf-8")
IPV4_HEADER = b"\x46" + bytes(23)  # with four bytes of options


def test_a_request_is_read_back_and_its_checksum_is_right() -> None:
    packet = prober.request(socket.AF_INET, TOKEN, 70_000, 3)
    words = [int.from_bytes(packet[i : i + 2], "big") for i in range(0, len(packet), 2)]
    assert sum(words) % 0xFFFF == 0  # RFC 1071
    assert prober.parse(socket.AF_INET, IPV4_HEADER + packet, TOKEN) == (False, 70_000, 3)


def test_an_answer_is_told_from_a_request() -> None:
    answer = b"\x81" + prober.request(socket.AF_INET6, TOKEN, 1, 2)[1:]
    assert prober.parse(socket.AF_INET6, answer, TOKEN) == (True, 1, 2)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(prober.request(socket.AF_INET6, TOKEN[::-1], 1, 2), id="another measurement"),
        pytest.param(prober.request(socket.AF_INET6, TOKEN, 1, 2)[:20], id="too short"),
        pytest.param(b"\x80" + bytes(60), id="somebody's ping"),
    ],
)
def test_what_is_not_of_the_measurement_is_left_alone(packet: bytes) -> None:
    assert prober.parse(socket.AF_INET6, packet, TOKEN) is None


def test_the_program_is_of_the_standard_library_and_of_old_python() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 7))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names)


def _raw_sockets() -> bool:
    try:
        for one in prober.open_sockets():
            one.close()
    except OSError:
        return False
    return True


needs_raw_sockets = pytest.mark.skipif(not _raw_sockets(), reason="raw sockets are for root")


@needs_raw_sockets
def test_the_program_measures_and_tells() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SOURCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        order = {
            "token": TOKEN.hex(),
            "paths": {"7": "127.0.0.1", "9": "::1"},
            "count": 3,
            "interval": 0.001,
            "patience": 5.0,
        }
        answers = []
        for line in 2 * (json.dumps(order), "{}", "{}"):
            program.stdin.write(line + "\n")
            program.stdin.flush()
            answers.append(json.loads(program.stdout.readline()))
        program.stdin.close()
    assert program.returncode == 0
    for ready, sent, report in (answers[:3], answers[3:]):
        assert (ready, sent) == ({"ready": True}, {"sent": True})
        assert len(report["rtts"]["7"]) == 3
        assert all(0 < seconds < 5 for seconds in report["rtts"]["7"])
        assert report["arrived"]["7"] == 3


@needs_raw_sockets
def test_the_program_ends_when_nobody_orders_anything() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOURCE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_raw_sockets
def test_a_measurement_ends_at_once_when_it_is_told_to() -> None:
    sockets = prober.open_sockets()
    stop, tell = os.pipe()
    one = prober.Prober(TOKEN, {"a": sockets}, {0: ("a", "127.0.0.1")})
    begun = time.monotonic()
    try:
        os.write(tell, b".")
        assert one.run(stop, count=1000, interval=60, patience=60) is False
        assert time.monotonic() - begun < 30
    finally:
        os.close(stop)
        os.close(tell)
        for sock in sockets:
            sock.close()


def test_overflows_of_the_neighbours_tables_are_summed_up(tmp_path: Path) -> None:
    (tmp_path / "arp_cache").write_text(
        "entries  allocs   table_fulls\n00000004 00002936 0000000a\n00000004 00002936 00000001\n"
    )
    assert neighbours.overflows(tmp_path) == 11
    (tmp_path / "ndisc_cache").write_text("entries  allocs\n00000004 00002936\n")
    assert neighbours.overflows(tmp_path) == 11
    assert neighbours.overflows(tmp_path / "nowhere") == 0
