"""The model as Python code uses it."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from pytest_benchscale import Topology, TopologyError
from pytest_benchscale.topology.loader import load
from pytest_benchscale.topology.model import Attachment, Network, NodeSpec


def test_a_topology_can_be_made_in_python():
    topology = Topology(
        networks=(Network(name="lan", subnet="10.0.0.0/24"),),
        nodes=(NodeSpec(name="a"), NodeSpec(name="b", networks=(Attachment(name="lan"),))),
    )
    assert topology.name == "topology"
    assert [item.name for item in topology.nodes[0].networks] == ["lan"]
    assert topology.source is None
    assert topology.directory == Path.cwd()


def test_data_from_python_is_the_same_as_a_file(load):
    data = {
        "metadata": {"name": "x", "version": 2, "team": {"a": (1, 2)}},
        "network": {"name": "lan", "subnet": "10.0.0.0/24"},
        "nodes": [{"name": "a", "env": {"A": 1, "B": True, "C": None}, "networks": ["lan"]}],
    }
    text = (
        "metadata: {name: x, version: 2, team: {a: [1, 2]}}\n"
        "network: {name: lan, subnet: 10.0.0.0/24}\n"
        "nodes: [{name: a, env: {A: 1, B: true, C: }, networks: [lan]}]"
    )
    assert Topology.from_dict(data) == load(text)
    assert Topology.model_validate(data) == load(text)
    assert data["network"] == {"name": "lan", "subnet": "10.0.0.0/24"}


def test_data_from_python_has_all_problems_without_lines():
    with pytest.raises(TopologyError) as caught:
        Topology.from_dict(
            {
                "nodes": [
                    {"name": "a", "memroy": 1, "memory_mb": "x"},
                    {"name": "a", "networks": ["lann"]},
                ]
            }
        )
    assert str(caught.value).splitlines() == [
        "<topology>: nodes[0].memroy: unknown key; did you mean memory_mb?",
        "<topology>: nodes[0].memory_mb: must be a number, is the text 'x'",
        "<topology>: nodes[1].name: duplicate name 'a'; nodes[0] has it already",
        "<topology>: nodes[1].networks[0]: unknown network 'lann'; did you mean lan?",
    ]


@pytest.mark.parametrize("data", [[], "x", None, 5])
def test_data_that_is_no_mapping_is_a_clear_error(data):
    with pytest.raises(TopologyError, match="<topology>: must be a mapping, is "):
        Topology.from_dict(data)


def test_the_models_themselves_check_as_much():
    with pytest.raises(TopologyError, match=r"nodes\[1\].name: duplicate name 'a'"):
        Topology(nodes=(NodeSpec(name="a"), NodeSpec(name="a")))
    with pytest.raises(ValidationError, match="cannot be used as a name"):
        NodeSpec(name="a b")
    with pytest.raises(ValidationError, match="give either network or networks"):
        Topology.model_validate({"network": {}, "networks": [], "nodes": [{"name": "a"}]})


def test_a_topology_is_frozen():
    topology = Topology(nodes=(NodeSpec(name="a"),))
    with pytest.raises(ValidationError):
        topology.backend = "docker"  # type: ignore[misc]  # that is what is tested
    with pytest.raises(ValidationError):
        topology.nodes[0].name = "b"  # type: ignore[misc]  # that is what is tested


def test_nodes_and_networks_are_found_by_name(load):
    topology = load("networks: [{name: x}, {name: y}]\nnodes: [{name: a}, {name: b}]")
    assert topology.node("b") is topology.nodes[1]
    assert topology.network("y") is topology.networks[1]
    with pytest.raises(KeyError):
        topology.node("c")
    with pytest.raises(KeyError):
        topology.network("lan")


def test_topologies_are_equal_by_content_and_directory_and_hash_alike(tmp_path):
    text = "metadata: {name: x}\nnodes: [{name: a, env: {A: 1}}]"
    (tmp_path / "other").mkdir()
    for name in ["one.yaml", "two.yaml", "other/one.yaml"]:
        (tmp_path / name).write_text(text)
    one, two, other = (load(tmp_path / name) for name in ["one.yaml", "two.yaml", "other/one.yaml"])
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two, other}) == 2
    assert one != text


def test_a_file_gives_its_name_and_directory_to_a_topology_without(tmp_path, monkeypatch):
    (tmp_path / "my-lab.yaml").write_text("nodes: [{name: a}]")
    monkeypatch.chdir(tmp_path)
    topology = Topology.load("my-lab.yaml")
    assert topology.name == "my-lab"
    assert topology.source == tmp_path / "my-lab.yaml"
    assert topology.directory == tmp_path


def test_a_topology_survives_dumping_pickling_and_copying(load):
    topology = load(
        "network: {name: lan, subnet: 10.0.0.0/24}\n"
        "nodes:\n"
        "- {name: a, image: {docker: {build: .}}, command: sleep 5, ports: [22:22]}\n"
        "- {name: b, networks: [{name: lan, address: 10.0.0.9}], wait_for: [{exec: [x, y]}]}\n",
        path="somewhere/t.yaml",
    )
    copy = pickle.loads(pickle.dumps(topology))
    assert copy == topology
    assert copy.source == topology.source
    for mode in ["python", "json"]:
        dumped = topology.model_dump(mode=mode, exclude_defaults=True)
        assert Topology.from_dict(dumped).placed_at(Path("somewhere/t.yaml").absolute()) == topology
    assert topology.model_copy().directory == topology.directory


def test_the_model_is_imported_without_the_loader_or_any_backend():
    code = (
        "import sys, pytest_benchscale.topology.model\n"
        "heavy = {'yaml', 'asyncssh', 'pytest', 'anyio', 'docker', 'jsonschema'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
