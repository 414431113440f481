"""Whose links are ours, and the files by which these nodes find the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pytest_benchscale.backends.base import LabPlan
from pytest_benchscale.backends.docker.plugging import Plugs, chosen
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.plan import build_plan
from pytest_benchscale.topology.loader import load_text

PAIR = "{network: {name: lan, subnet: 10.1.0.0/24}, nodes: [{name: a}, {name: b}]}"


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
    assert chosen(plan) == {"idle"}


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
    assert chosen(plan) == {"three"}


def test_links_are_ours_only_where_the_bridge_is_to_be_seen(tmp_path):
    plan = lab(PAIR)
    (first, second) = plan.nodes
    plugs = Plugs(plan, tmp_path)
    assert not plugs.are_for(second)
    plugs.learn("lan", "br-ofanothermac", None)  # the daemon is behind a proxy
    assert not plugs.are_for(second)
    (_, there) = socket.if_nameindex()[0]
    plugs.learn("lan", there, None)
    assert plugs.are_for(second)
    assert not plugs.are_for(first)


def test_every_node_has_name_files_of_its_own_that_everybody_in_it_may_read(tmp_path):
    plan = lab(PAIR)
    plugs = Plugs(plan, tmp_path)
    before = os.umask(0o077)
    try:
        binds = [plugs.binds(node)[1] for node in plan.nodes]
    finally:
        os.umask(before)
    sources = {bind.split(":")[0] for bind in [*binds[0], *binds[1]]}
    assert len(sources) == 4
    assert {os.stat(source).st_mode & 0o777 for source in sources} == {0o644}
    assert [bind.split(":", 1)[1] for bind in binds[0]] == ["/etc/hosts:z", "/etc/resolv.conf:z"]
    assert {"10.1.0.2 a", "10.1.0.3 b"} <= set(_hosts(binds[0]))


def test_files_that_a_node_has_changed_are_new_for_its_next_container(tmp_path):
    plan = lab(PAIR)
    plugs = Plugs(plan, tmp_path)
    first, second = (
        plugs.binds(plan.nodes[1])[0] / "hosts",
        plugs.binds(plan.nodes[1])[0] / "hosts",
    )
    before = second.read_text()
    first.write_text("changed")
    assert second.read_text() == before


def test_no_name_of_a_node_gets_in_the_way_of_the_labs_own_files(tmp_path):
    (tmp_path / "record").write_text("the ledger's")
    plan = lab("nodes: [{name: a}, {name: record}]")
    Plugs(plan, tmp_path).binds(plan.nodes[1])
    assert (tmp_path / "record").read_text() == "the ledger's"


def test_a_node_also_knows_its_host_name_where_that_is_another(tmp_path):
    long = "n" * 100
    text = (
        f"{{network: {{name: lan, subnet: 10.1.0.0/24}}, nodes: [{{name: a}}, {{name: {long}}}]}}"
    )
    plan = lab(text)
    node = plan.nodes[1]
    assert node.hostname != long
    hosts = _hosts(Plugs(plan, tmp_path).binds(node)[1])
    assert {f"10.1.0.3 {node.hostname}", f"10.1.0.3 {long}"} <= set(hosts)


def _hosts(binds: list[str]) -> list[str]:
    return Path(binds[0].split(":")[0]).read_text().splitlines()
