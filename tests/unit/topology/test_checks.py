"""What only shows when the parts of a topology are seen together."""

import time

import pytest

from pytest_benchscale.topology import checks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "nodes:\n- name: a\n- name: b\n- name: a\n",
            "4:9: nodes[2].name: duplicate name 'a'; nodes[0] (line 2) has it already",
        ),
        (
            "nodes: [{name: a}, {name: A}]",
            "nodes[0] (line 1) has it already, and host names do not tell upper from lower case",
        ),
        (
            "networks: [{name: a}, {name: a}]\nnodes: [{name: a}]",
            "1:30: networks[1].name: duplicate name 'a'; networks[0] (line 1) has it already",
        ),
        (
            "networks: [{name: lan}, {name: wan}]\nnodes: [{name: a, networks: [lann]}]",
            "2:30: nodes[0].networks[0]: unknown network 'lann'; did you mean lan?",
        ),
        (
            "networks: [{name: lan}, {name: wan}]\nnodes: [{name: a, networks: [{name: dmz}]}]",
            "2:37: nodes[0].networks[0].name: unknown network 'dmz'; there is lan, wan",
        ),
        (
            "nodes: [{name: a, networks: [lan, lan]}]",
            "1:35: nodes[0].networks[1]: the node is on 'lan' already by nodes[0].networks[0]",
        ),
        (
            "nodes: [{name: web}, {name: a, depends_on: [wbe]}]",
            "1:45: nodes[1].depends_on[0]: unknown node 'wbe'; did you mean web?",
        ),
        (
            "nodes: [{name: a, depends_on: [a]}]",
            "1:32: nodes[0].depends_on[0]: the node 'a' depends on itself",
        ),
        (
            "backend: dokcer\nnodes: [{name: a}]",
            "1:10: backend: unknown backend 'dokcer'; did you mean docker?",
        ),
        (
            "nodes: [{name: a, backend: auto}]",
            "1:28: nodes[0].backend: unknown backend 'auto'; leave it out",
        ),
        (
            "nodes: [{name: a, image: {dokcer: x}}]",
            "1:27: nodes[0].image.dokcer: unknown backend 'dokcer'; did you mean docker?",
        ),
        (
            "network: {name: lan, preset: satelite}\nnodes: [{name: a}]",
            "1:30: network.preset: unknown preset 'satelite'; did you mean satellite?",
        ),
        (
            "network: {name: lan, conditions: {preset: x}}\nnodes: [{name: a}]",
            "1:43: network.conditions.preset: unknown preset 'x'; there is localhost, ",
        ),
        (
            "nodes: [{name: a, network_conditions: {preset: home}}]",
            "1:48: nodes[0].network_conditions.preset: unknown preset 'home'; did you mean home_lan?",
        ),
        (
            "nodes: [{name: a, networks: [{name: lan, network_conditions: {preset: x}}]}]",
            "1:71: nodes[0].networks[0].network_conditions.preset: unknown preset 'x'",
        ),
        (
            "backend: ssh\nnodes: [{name: a, existing: x}]",
            "2:9: nodes[0]: the ssh backend needs the machine's `address`",
        ),
        (
            "nodes: [{name: a, backend: ssh}]",
            "1:9: nodes[0]: the ssh backend needs the machine's `address`",
        ),
        (
            "nodes: [{name: a, address: 10.0.0.5}]",
            "an address on a network is written networks: [{name: ..., address: 10.0.0.5}]",
        ),
        (
            "nodes: [{name: a, existing: x, cloud_init: {user: u}}]",
            "1:44: nodes[0].cloud_init: sets up a new machine, and an `existing` one is used as it is",
        ),
        (
            "nodes: [{name: a, existing: x}, {name: b, existing: x}]",
            "1:53: nodes[1].existing: the machine 'x' is used by nodes[0] (line 1) already",
        ),
    ],
)
def test_a_wrong_reference_is_one_problem(problems, text, expected):
    (problem,) = problems(text)
    assert expected in problem


ONE_NETWORK = "network: {name: lan, %s}\nnodes: [%s]"


@pytest.mark.parametrize(
    ("network", "nodes", "expected"),
    [
        ("gateway: 10.0.0.1", ["a"], "network.gateway: needs the network's subnet to be declared"),
        (
            "subnet: 10.0.0.0/24, gateway: 10.0.1.1",
            ["a"],
            "'10.0.1.1' is outside the subnet 10.0.0.0/24",
        ),
        ("subnet: 10.0.0.0/24, gateway: 'fd00::1'", ["a"], "is outside the subnet 10.0.0.0/24"),
        ("subnet: 10.0.0.0/24, gateway: 10.0.0.0", ["a"], "is the address of the subnet"),
        ("subnet: 10.0.0.0/24, gateway: 10.0.0.255", ["a"], "is the broadcast address of"),
        ("subnet: 10.0.0.0/24", ["a: 10.0.1.5"], "'10.0.1.5' is outside the subnet 10.0.0.0/24"),
        ("subnet: 10.0.0.0/24", ["a: 10.0.0.0"], "is the address of the subnet"),
        ("subnet: 10.0.0.0/24", ["a: 10.0.0.255"], "is the broadcast address of 10.0.0.0/24"),
        ("subnet: 'fd00::/64'", ["a: 'fd00::'"], "is the address of the subnet fd00::/64 itself"),
        ("subnet: 'fd00::/64'", ["a: 'fd01::1'"], "is outside the subnet fd00::/64"),
        ("internet: true", ["a: 10.0.0.5"], "needs the subnet of network 'lan' to be declared"),
        (
            "subnet: 10.0.0.0/24",
            ["a: 10.0.0.5", "b: 10.0.0.5"],
            "duplicate address '10.0.0.5'; nodes[0] (line 2) has it already",
        ),
        (
            "subnet: 10.0.0.0/30",
            ["a", "b", "c"],
            "'10.0.0.0/30' is too small: it has 2 usable addresses for 3 nodes",
        ),
        (
            "subnet: 10.0.0.0/30, gateway: 10.0.0.1",
            ["a", "b"],
            "it has 2 usable addresses for 2 nodes and the gateway",
        ),
        (
            "subnet: 10.0.0.0/30, internet: true",
            ["a", "b"],
            "it has 2 usable addresses for 2 nodes and the gateway",
        ),
        ("subnet: 10.0.0.0/32", ["a", "b"], "it has 1 usable address for 2 nodes"),
        ("subnet: 'fd00::/126'", ["a", "b", "c", "d"], "it has 3 usable addresses for 4 nodes"),
    ],
)
def test_a_wrong_address_is_one_problem(problems, network, nodes, expected):
    (problem,) = problems(ONE_NETWORK % (network, ", ".join(map(_node, nodes))))
    assert expected in problem


@pytest.mark.parametrize(
    ("network", "nodes"),
    [
        ("subnet: 10.0.0.0/30", ["a", "b"]),
        ("subnet: 10.0.0.0/30, gateway: 10.0.0.1", ["a: 10.0.0.1", "b"]),
        ("subnet: 10.0.0.0/31", ["a", "b"]),
        ("subnet: 10.0.0.0/32", ["a"]),
        ("subnet: 'fd00::/127'", ["a", "b"]),
        ("subnet: 'fd00::/64', gateway: 'fd00::1'", ["a", "b: 'fd00::ffff'"]),
        ("subnet: 10.0.0.0/24, internet: true", ["a"]),
    ],
)
def test_a_subnet_that_just_suffices_is_fine(load, network, nodes):
    load(ONE_NETWORK % (network, ", ".join(map(_node, nodes))))


def _node(text):
    name, _, address = text.partition(": ")
    on = f", networks: [{{name: lan, address: {address}}}]" if address else ""
    return f"{{name: {name}{on}}}"


@pytest.mark.parametrize(
    ("subnets", "pairs"),
    [
        (["10.0.0.0/24", "10.0.0.0/24"], [(1, 0)]),
        (["10.0.0.0/8", "10.1.0.0/24", "10.2.0.0/24"], [(1, 0), (2, 0)]),
        (["10.1.0.0/24", "10.0.0.0/8", "10.2.0.0/24"], [(1, 0), (2, 1)]),
        (["10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "fd00:0:0:1::/64"], []),
        (["fd00::/64", "fd00::/48"], [(1, 0)]),
    ],
)
def test_overlapping_subnets_are_reported_at_the_later_one(problems, load, subnets, pairs):
    networks = ", ".join(f"{{name: n{i}, subnet: '{s}'}}" for i, s in enumerate(subnets))
    text = f"networks: [{networks}]\nnodes: [{{name: a}}]"
    if not pairs:
        load(text)
        return
    found = problems(text)
    assert len(found) == len(pairs)
    for problem, (later, earlier) in zip(found, pairs, strict=True):
        assert f"networks[{later}].subnet: " in problem
        assert f"overlaps '{subnets[earlier]}' of networks[{earlier}] (line 1)" in problem


@pytest.mark.parametrize(
    ("edges", "cycles"),
    [
        ({"a": "b", "b": "c", "c": ""}, []),
        ({"a": "bc", "b": "d", "c": "d", "d": ""}, []),
        ({"a": "b", "b": "a"}, ["a -> b -> a"]),
        ({"a": "b", "b": "c", "c": "a"}, ["a -> b -> c -> a"]),
        ({"x": "b", "b": "c", "c": "b"}, ["b -> c -> b"]),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, ["a -> b -> a", "c -> d -> c"]),
    ],
)
def test_a_dependency_cycle_is_named(load, problems, edges, cycles):
    text = "nodes:\n" + "".join(
        f"- {{name: {name}, depends_on: [{', '.join(targets)}]}}\n"
        for name, targets in edges.items()
    )
    if not cycles:
        load(text)
    else:
        found = problems(text)
        assert [item.split("dependency cycle: ")[1] for item in found] == cycles


def test_a_long_chain_of_dependencies_is_fine_and_a_long_cycle_is_named_in_short(load, problems):
    nodes = [f"{{name: n{i}, depends_on: [n{i + 1}]}}" for i in range(2000)]
    load(f"nodes: [{', '.join([*nodes, '{name: n2000}'])}]")
    (problem,) = problems(f"nodes: [{', '.join([*nodes, '{name: n2000, depends_on: [n0]}'])}]")
    assert "n0 -> n1 -> n2 -> n3 -> n4 -> n5 -> ... -> " in problem
    assert problem.endswith(" -> n2000 -> n0")


@pytest.mark.parametrize("backend", ["local", "docker", "podman", "libvirt", "ssh", "lxd", "auto"])
def test_our_backends_are_known_and_auto_for_the_whole(load, backend):
    text = f"backend: {backend}\nnodes: [{{name: a, existing: x, address: 192.0.2.1}}]"
    assert load(text).backend == backend


def test_the_backends_of_installed_packages_are_known(load, problems, monkeypatch):
    monkeypatch.setattr(checks, "_installed", lambda: frozenset({"firecracker"}))
    assert load("backend: firecracker\nnodes: [{name: a}]").backend == "firecracker"
    (problem,) = problems("backend: firecraker\nnodes: [{name: a}]")
    assert "did you mean firecracker?" in problem


def test_a_given_list_of_backends_is_the_whole_list(load, problems):
    text = "nodes: [{name: a, backend: fake}]"
    assert load(text, backends=["fake"]).nodes[0].backend == "fake"
    (problem,) = problems(text.replace("fake", "local"), backends=["fake"])
    assert "unknown backend 'local'; there is fake" in problem


def test_a_large_topology_is_checked_in_linear_time(load):
    networks = "".join(
        f"- {{name: n{i}, subnet: 10.{i // 256}.{i % 256}.0/24}}\n" for i in range(1500)
    )
    nodes = "".join(f"- {{name: h{i}, networks: [n{i}]}}\n" for i in range(1500))
    started = time.process_time()
    load(f"networks:\n{networks}nodes:\n{nodes}")
    assert time.process_time() - started < 3
