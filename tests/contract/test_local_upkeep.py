"""How the embedded backend leads a node back to its checkpoint, and keeps a lab."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_benchscale import Lab, Topology
from pytest_benchscale.backends.local.backend import LocalBackend
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

SETUP = [
    "echo set up > /etc/benchscale-test; echo '10.9.9.9 elsewhere' >> /etc/hosts",
    "mkdir -p /srv/tree/sub; echo one > /srv/tree/one; ln /srv/tree/one /srv/tree/two",
    "ln -s one /srv/tree/link; chmod 2750 /srv/tree/sub; mkfifo /srv/tree/pipe",
    "truncate -s 1G /srv/tree/hole",
    "echo t > /tmp/t; mkdir /run/own; echo r > /run/own/r; echo s > /dev/shm/s; chmod 600 /run/own/r",
]
LOOK = (
    "cat /etc/benchscale-test /tmp/t /run/own/r /dev/shm/s; tail -1 /etc/hosts;"
    "cd /srv/tree && stat -c '%n %F %a %h %s %b' one two link sub pipe hole | sed 's/ 4 4096//';"
    "ls -A /tmp /run /run/own /dev/shm /srv /etc | sort | cksum; readlink link; stat -c %a /run/own/r"
)


def topology(*nodes: dict[str, Any], **keys: Any) -> Topology:
    return Topology.from_dict({"metadata": {"name": "upkeep"}, "nodes": list(nodes), **keys})


@pytest.fixture(params=[True, False], ids=["overlay", "no-overlay"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    wanted = topology({"name": "a", "setup": SETUP}, {"name": "b"}, network={"name": "lan"})
    with Portal() as portal:
        backend = LocalBackend(overlay=request.param)
        lab = portal.call_blocking(_make, wanted, backend, portal)
        portal.call_blocking(lab.up)
        try:
            yield lab
        finally:
            portal.call_blocking(lab.down)


async def _make(wanted: Topology, backend: LocalBackend, portal: Portal) -> Lab:
    return Lab(wanted, backend, portal=portal, options=LabOptions(resettable=True))


def test_all_files_are_as_they_were_when_the_node_was_ready(lab: Lab) -> None:
    a, b = lab.sync["a"], lab.sync["b"]
    before = a.exec(LOOK, check=True).stdout
    for _ in range(2):
        a.exec(
            "rm -r /srv/tree /tmp/t /run/own /dev/shm/s; echo x > /etc/benchscale-test", check=True
        )
        a.exec("mkdir /srv/tree; touch /srv/tree/new /tmp/new /run/new /root/new", check=True)
        b.exec("echo broken > /etc/hosts; touch /root/new", check=True)
        lab.sync.reset()
        assert a.exec(LOOK, check=True).stdout == before
        assert not a.exec("ls /root/new").ok
        assert not b.exec("ls /root/new").ok
        assert b.exec(["cat", "/etc/hosts"]).stdout.count(" a") == 1


def test_what_was_removed_before_the_checkpoint_stays_away() -> None:
    look = "ls -A /etc/skel; ls /etc/fstab /etc/shells 2>/dev/null"
    options = LabOptions(resettable=True)
    wanted = topology(
        {
            "name": "a",
            "setup": [
                "rm -f /etc/fstab; rm -rf /etc/skel",
                "mkdir /etc/skel; touch /etc/skel/mine",
            ],
        }
    )
    with Lab.open_sync(wanted, backend="local", options=options) as lab:
        a = lab.sync["a"]
        assert a.exec(look).stdout == "mine\n/etc/shells\n"
        a.exec("rm -r /etc/skel /etc/shells; touch /etc/fstab", check=True)
        lab.sync.reset()
        assert a.exec(look).stdout == "mine\n/etc/shells\n"
        a.stop()
        a.start()
        assert a.exec(look).stdout == "mine\n/etc/shells\n"


def test_what_a_test_changed_in_the_kernel_is_gone(lab: Lab) -> None:
    a = lab.sync["a"]
    state = "ip -o addr show scope global; ip route; ip link | grep -c mtu; cat /proc/sys/net/ipv4/ip_forward"
    before = a.exec(state, check=True).stdout
    change = (
        "ip addr add 10.77.0.1/24 dev eth0; ip route add 10.78.0.0/16 dev eth0; ip link set eth0 mtu 1300;"
        "ip link add d0 type dummy; echo 1 > /proc/sys/net/ipv4/ip_forward"
    )
    a.exec(change, check=True)
    assert a.exec(state).stdout != before
    lab.sync.reset()
    assert [line.split("eth0")[0] for line in a.exec(state).stdout.splitlines()] == [
        line.split("eth0")[0] for line in before.splitlines()
    ]
    a.exec("ip link del eth0", check=True)
    lab.sync.reset()
    assert lab.sync.reachability() == {"a": ["b"], "b": ["a"]}


@pytest.mark.parametrize("end", ["stop", "kill", "pause"])
def test_a_node_is_led_back_whatever_became_of_it(lab: Lab, end: str) -> None:
    a = lab.sync["a"]
    a.exec("echo x > /etc/benchscale-test", check=True)
    getattr(a, end)()
    lab.sync.reset()
    assert a.read_text("/etc/benchscale-test") == "set up\n"


def test_the_main_command_starts_anew_and_so_does_its_log() -> None:
    node = {
        "name": "a",
        "command": ["sh", "-c", "sleep 0.2; echo listening; exec sleep 1000"],
        "wait_for": [{"log": "listening"}],
    }
    options = LabOptions(resettable=True)
    with Lab.open_sync(topology(node), backend="local", options=options) as lab:
        lab.sync.reset()
        assert lab.sync["a"].logs() == "listening\n"


def test_declared_conditions_act_on_the_new_links() -> None:
    wanted = topology(
        {"name": "a"}, {"name": "b"}, network={"name": "lan", "conditions": {"bandwidth_kbps": 800}}
    )
    with Lab.open_sync(wanted, backend="local", options=LabOptions(resettable=True)) as lab:
        for _ in range(2):
            with lab.sync.partition({"a"}, {"b"}):
                lab.sync.reset()  # which heals
            assert lab.sync.reachability() == {"a": ["b"], "b": ["a"]}
            with lab.sync["b"].process(["python3", "-c", _SINK]) as sink:
                sink.wait_for_line("ready")
                seconds = float(lab.sync["a"].exec(["python3", "-c", _SOURCE], check=True).stdout)
            assert seconds > 1  # 200 kB at 100 kB/s


_SINK = (
    "import socket; s=socket.create_server(('',5001)); print('ready',flush=True); c,_=s.accept()\n"
    "n=0\nwhile d:=c.recv(65536): n+=len(d)\nc.close()"
)
_SOURCE = (
    "import socket,time; t=time.time(); c=socket.create_connection(('b',5001)); c.sendall(bytes(200000));"
    "c.shutdown(1); c.recv(1); print(time.time()-t)"
)
