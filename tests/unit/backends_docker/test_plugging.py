"""Whose links are ours, and the files by which these nodes find the others."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.backends.docker import plugging
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.topology.loader import load_text
from pytest_benchscale.transports.container.hijack import DaemonAddress


def lab(text: str) -> LabPlan:
    return build_plan(load_text(text), "docker", LabOptions(), lab_id="test0001")


def test_links_are_ours_where_nothing_starts_with_the_container_and_nothing_more_is_needed():
    plan = lab(
        """
        networks: [{name: lan}, {name: wan, internet: true}]
        nodes:
          - {name: first, networks: [lan]}
          - {name: idle, networks: [lan]}
          - {name: busy, networks: [lan], command: [serve]}
          - {name: open, networks: [lan], ports: ["80"]}
          - {name: named, networks: [lan], volumes: ["./own:/etc/hosts"]}
          - {name: holds-wan, networks: [wan]}
          - {name: outside}
          - {name: alone, networks: []}
        """
    )
    assert plugging.chosen(plan) == {"idle"}


def test_of_every_network_docker_has_one_node_so_that_it_is_not_pruned():
    plan = lab(
        """
        networks: [{name: a}, {name: b}]
        nodes:
          - {name: one, networks: [a]}
          - {name: two, networks: [a, b]}
          - {name: three}
        """
    )
    assert plugging.chosen(plan) == {"three"}


def test_every_node_has_name_files_of_its_own_that_everybody_in_it_may_read(tmp_path):
    plan = lab("{network: {name: lan, subnet: 10.1.0.0/24}, nodes: [{name: a}, {name: b}]}")
    before = os.umask(0o077)
    try:
        binds = [plugging.binds(node, tmp_path) for node in plan.nodes]
    finally:
        os.umask(before)
    sources = {bind.split(":")[0] for bind in [*binds[0], *binds[1]]}
    assert len(sources) == 4
    assert {os.stat(source).st_mode & 0o777 for source in sources} == {0o644}
    assert [bind.split(":", 1)[1] for bind in binds[0]] == ["/etc/hosts:z", "/etc/resolv.conf:z"]
    with open(binds[0][0].split(":")[0]) as file:
        assert {"10.1.0.2 a\n", "10.1.0.3 b\n"} <= set(file)


def test_files_that_a_node_has_changed_are_new_for_its_next_container(tmp_path):
    (node, _) = lab("nodes: [{name: a}, {name: b}]").nodes
    plugging.binds(node, tmp_path)
    (tmp_path / "a" / "hosts").write_text("changed")
    plugging.binds(node, tmp_path)
    assert (tmp_path / "a" / "hosts").read_text() != "changed"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as making links does")
def test_a_daemon_among_our_own_processes_shares_this_machine(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        assert plugging.shares_this_machine(DaemonAddress("unix", path=str(tmp_path / "socket")))


def test_a_daemon_elsewhere_or_one_that_is_not_there_shares_nothing(tmp_path):
    assert not plugging.shares_this_machine(DaemonAddress("tcp", host="192.0.2.1", port=2375))
    assert not plugging.shares_this_machine(DaemonAddress("unix", path=str(tmp_path / "absent")))
