"""Who has which subnet, and what a kernel's tables say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from pytest_benchscale.backends.docker import subnets
from pytest_benchscale.network.kernel_routes import KernelRoute, parse_ipv4, parse_ipv6

IPV4 = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
br-0123456789ab\t0000640A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
lo\t0001640A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
_ADDRESS = {
    "": "0" * 32,
    "net": "fd" + "0" * 30,
    "one": "fd" + "0" * 29 + "1",
    "local": "fe8" + "0" * 29,
}


def ipv6(destination: str, length: int, via: str, flags: int, device: str) -> str:
    ends = f"{_ADDRESS[destination]} {length:02x} {_ADDRESS['']} 00 {_ADDRESS[via]}"
    return f"{ends} 00000100 00000001 00000000 {flags:08x} {device:>8}\n"


IPV6 = "".join(
    [
        ipv6("net", 64, "", 0x1, "eth0"),
        ipv6("local", 64, "", 0x1, "eth0"),
        ipv6("", 0, "one", 0x3, "eth0"),
        ipv6("", 0, "", 0x200200, "lo"),
        ipv6("one", 128, "", 0x80200001, "eth0"),
    ]
)


def test_the_tables_of_the_kernel_are_read():
    assert parse_ipv4(IPV4) == [
        KernelRoute(ip_network("0.0.0.0/0"), ip_address("192.0.2.1"), "eth0"),
        KernelRoute(ip_network("192.0.2.0/24"), None, "eth0"),
        KernelRoute(ip_network("10.100.0.0/16"), None, "br-0123456789ab"),
    ]
    assert parse_ipv6(IPV6) == [
        KernelRoute(ip_network("fd00::/64"), None, "eth0"),
        KernelRoute(ip_network("::/0"), ip_address("fd00::1"), "eth0"),
    ]


def test_routes_have_their_subnets_except_the_default_one_and_those_of_networks():
    holdings = subnets.of_routes(parse_ipv4(IPV4), without={"br-0123456789ab"})
    assert [str(holding.subnet) for holding in holdings] == ["192.0.2.0/24"]
    assert "eth0" in holdings[0].holder


def test_networks_have_their_subnets_by_name_or_by_lab():
    labels = {"benchscale.lab": "abcd", "benchscale.pid": "77"}
    holdings = subnets.of_networks(
        [
            {"Name": "mine", "IPAM": {"Config": [{"Subnet": "10.1.0.0/16"}]}, "Labels": None},
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}, "Labels": labels},
            {"Name": "host", "IPAM": {"Config": None}},
        ]
    )
    assert [str(holding.subnet) for holding in holdings] == ["10.1.0.0/16", "fd00::/64"]
    assert "'mine'" in str(subnets.holder_of(ip_network("10.1.2.0/24"), holdings))
    assert "10.1.0.0/16" in str(subnets.holder_of(ip_network("10.1.2.0/24"), holdings))
    assert subnets.holder_of(ip_network("fd00::/64"), holdings) == "lab abcd of process 77 has it"
    assert subnets.holder_of(ip_network("10.2.0.0/24"), holdings) is None
