"""Files written for the Rust benchScale, and files in their shape."""

from pathlib import Path

import pytest

from pytest_benchscale.errors import TopologyError
from pytest_benchscale.topology.loader import load, load_presets
from pytest_benchscale.topology.presets import BUILT_IN, effective_conditions

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("simple-lan", 2),
        ("p2p-3-tower", 3),
        ("ecoprimals-skunkbat-defensive", 3),
        ("ecoprimals-federation-10node", 10),
        ("ecoprimals-constrained-256m", 2),
        ("ionChannel-rustdesk-test", 1),
    ],
)
def test_a_file_of_the_family_loads_unchanged(name, nodes):
    topology = load(CORPUS / f"{name}.yaml")
    assert topology.name == name
    assert len(topology.nodes) == nodes
    assert topology.source == (CORPUS / f"{name}.yaml").absolute()
    assert topology.directory == CORPUS.absolute()


def test_what_the_files_say_is_what_the_model_holds():
    vm = load(CORPUS / "ionChannel-rustdesk-test.yaml").nodes[0]
    assert (vm.image, vm.memory_mb, vm.vcpus, vm.disk_gb) == ("ubuntu-22.04-cloudimg", 4096, 2, 20)
    assert vm.cloud_init
    assert (vm.cloud_init.user, vm.cloud_init.password) == ("iontest", "iontest")
    assert vm.cloud_init.runcmd[-1] == "rustdesk --install-service || true"
    assert vm.deploy[0].mode == "0755"
    spring = load(CORPUS / "ecoprimals-constrained-256m.yaml").nodes[1]
    assert spring.metadata["cpu_limit"] == 0.5
    assert spring.env["NODE_ID"] == "2"
    federation = load(CORPUS / "ecoprimals-federation-10node.yaml")
    assert federation.metadata.model_extra == {"bond_type": "covalent"}
    mobile = effective_conditions(federation, "node-mobile-2", "ecoprimals-federation-net")
    assert mobile
    assert mobile.figures() == {
        "latency_ms": 150,
        "jitter_ms": 80,
        "packet_loss_percent": 15,
        "bandwidth_kbps": 2000,
    }


def test_an_impossible_subnet_is_the_one_problem_of_its_file():
    path = CORPUS / "nat-traversal.yaml"
    with pytest.raises(TopologyError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert str(problem) == (
        f"{path}:9:11: network.subnet: '10.300.0.0/24' is not a subnet: octet 300 (> 255); "
        "write it like 10.1.0.0/24 or fd00:1::/64"
    )
    assert (caught.value.path, caught.value.line, caught.value.column) == (path, 9, 11)


def test_a_file_in_a_dialect_of_its_own_is_one_report():
    with pytest.raises(TopologyError) as caught:
        load(CORPUS / "nuc-validation.yaml")
    node = ["role", "comment", "services"]
    assert [problem.where for problem in caught.value.problems] == [
        *("name", "description"),
        *(f"nodes[0].{key}" for key in [*node, "network"]),
        *(f"nodes[1].{key}" for key in [*node, "network_conditions.latency"]),
        *(f"nodes[2].{key}" for key in [*node, "network_conditions.latency"]),
        *("network", "network.type", "network.comment"),
        *("tests", "validation", "deployment_instructions", "notes"),
    ]
    assert "network: the required key 'name' is missing" in str(caught.value)


def test_the_preset_library_holds_the_built_in_presets():
    library = load_presets(CORPUS / "network-presets.yaml")
    assert library
    for name, preset in library.items():
        assert BUILT_IN[name].figures() == preset.figures()
    assert library["satellite"].scenario


def test_a_preset_library_is_no_topology_and_the_error_says_what_it_is():
    with pytest.raises(TopologyError) as caught:
        load(CORPUS / "network-presets.yaml")
    (problem,) = caught.value.problems
    assert "this is a preset library, not a topology" in problem.message
    assert problem.line == 14


def test_expectations_of_other_tools_are_kept_where_the_family_has_them(load, problems):
    text = """
metadata: {name: membrane, hypervisor: libvirt}
nodes:
  - name: probe
    image: ubuntu
    network_conditions: {preset: %s, latency_ms: 25, jitter_ms: 10}
validation:
  auth_flow:
    - {target: probe, method: health.check, expect: alive, repeat: 10}
"""
    assert load(text % "broadband").validation == {
        "auth_flow": [
            {"target": "probe", "method": "health.check", "expect": "alive", "repeat": 10}
        ]
    }
    load(text % "datacenter")
    (problem,) = problems("validation: {}\nnodes: [{name: a}]")
    assert problem == "1:1: validation: unknown key without `metadata`"


def test_a_virtual_machine_mesh_in_another_dialect_is_one_report_with_what_to_write(problems):
    found = problems(
        """
metadata: {name: mesh}
network: {name: mesh-net, subnet: 10.92.0.0/24}
network_presets:
  wan_bridge: {latency_ms: 15}
nodes:
  - name: relay
    cpus: 1
    memory: 1024
    composition: tower
    network: wan_bridge
    ip: 10.92.0.30
    network_conditions: {preset: wan_bridge, latency_ms: 15}
"""
    )
    assert [item.split(": ", 2)[2] for item in found] == [
        "unknown key; did you mean presets?",
        "unknown key; did you mean vcpus?",
        "unknown key; did you mean memory_mb, a number of MiB?",
        "unknown key",
        "unknown key; did you mean networks?",
        "unknown key; write networks: [{name: ..., address: ...}]",
    ]


def test_a_file_of_kubernetes_shape_is_one_report(problems):
    found = problems(
        "apiVersion: benchscale/v1\nkind: LabTopology\nmetadata: {name: x}\nspec: {nodes: []}\n"
    )
    assert [item.split(":")[0] for item in found] == ["1", "1", "2", "4"]
