"""What the two pings in use say."""

from __future__ import annotations

import pytest

from pytest_benchscale.network import ping

IPUTILS = """\
PING 10.0.0.3 (10.0.0.3) 56(84) bytes of data.
64 bytes from 10.0.0.3: icmp_seq=1 ttl=64 time=0.045 ms
64 bytes from 10.0.0.3: icmp_seq=1 ttl=64 time=0.046 ms (DUP!)
64 bytes from 10.0.0.3: icmp_seq=3 ttl=64 time=201 ms

--- 10.0.0.3 ping statistics ---
3 packets transmitted, 2 received, +1 duplicates, 33.3333% packet loss, time 2003ms
rtt min/avg/max/mdev = 0.045/0.055/0.064/0.009 ms
"""
BUSYBOX = """\
PING fd42::3 (fd42::3): 56 data bytes
64 bytes from fd42::3: seq=0 ttl=64 time=0.103 ms
64 bytes from fd42::3: seq=1 ttl=64 time=0.080 ms

--- fd42::3 ping statistics ---
2 packets transmitted, 2 packets received, 0% packet loss
round-trip min/avg/max = 0.080/0.091/0.103 ms
"""
NOBODY = """\
PING 10.0.0.9 (10.0.0.9) 56(84) bytes of data.
From 10.0.0.3 icmp_seq=1 Destination Host Unreachable

--- 10.0.0.9 ping statistics ---
3 packets transmitted, 0 received, +1 errors, 100% packet loss, time 2003ms
"""


@pytest.mark.parametrize(
    ("said", "times"),
    [
        pytest.param(IPUTILS, [0.045, 201.0], id="iputils, a duplicate"),
        pytest.param(BUSYBOX, [0.103, 0.08], id="busybox"),
        pytest.param(NOBODY, [], id="nobody answers"),
        pytest.param("ping: connect: Network is unreachable\n", [], id="no route"),
        pytest.param("ping: sendto: Network is unreachable\n", [], id="no route, busybox"),
        pytest.param("ping: unrecognized option: i\nUsage: ping ...\n", None, id="lacks an option"),
        pytest.param("", None, id="silence"),
    ],
)
def test_round_trips_are_found(said: str, times: list[float] | None) -> None:
    assert ping.parse(said) == times


def test_what_is_tried_first_has_an_interval_that_everybody_may_use() -> None:
    first, second = ping.commands("10.0.0.3", 5, 0.01, 1)
    assert first == ("ping", "-n", "-c", "5", "-W", "1", "-i", "0.2", "10.0.0.3")
    assert second == ("ping", "-n", "-c", "5", "-W", "1", "10.0.0.3")


def test_ipv6_is_asked_for() -> None:
    assert next(ping.commands("fd42::3", 1, 1.5, 0)) == (
        *("ping", "-6", "-n", "-c", "1", "-W", "1", "-i", "1.5", "fd42::3"),
    )
