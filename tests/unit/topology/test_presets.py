"""Named conditions, and how those of a network, a node and an attachment are laid over each other."""

import pytest

from pytest_benchscale.errors import TopologyError
from pytest_benchscale.topology.conditions import Conditions
from pytest_benchscale.topology.loader import load, load_presets
from pytest_benchscale.topology.presets import BUILT_IN, effective_conditions

NAMED_BY_THE_CONTRACT = {
    "localhost",
    "basement_lan",
    "home_lan",
    "friend_wan",
    "mobile_cell",
    "satellite",
    "deep_space",
    "urban_congested",
    "intermittent",
}


def test_the_built_in_presets_are_there():
    assert set(BUILT_IN) == NAMED_BY_THE_CONTRACT | {"datacenter", "broadband"}


def test_inner_conditions_win_field_by_field_each_over_its_own_preset(load):
    topology = load(
        """
networks:
  - name: lan
    preset: satellite                     # 600 ms, 50 ms, 5 %, 5,000 kbit/s
    conditions: {jitter_ms: 7}
  - name: wan
    conditions: {preset: home_lan, duplicate_percent: 1}
presets:
  lossy: {packet_loss_percent: 33}
nodes:
  - {name: plain}
  - name: node
    network_conditions: {preset: lossy, latency_ms: 10}
  - name: link
    networks:
      - lan
      - {name: wan, network_conditions: {preset: lossy, jitter_ms: 9}}
    network_conditions: {latency_ms: 10, packet_loss_percent: 1}
"""
    )

    def figures(node, network):
        conditions = effective_conditions(topology, node, network)
        assert conditions is not None
        assert conditions.preset is None
        stated = conditions.figures()
        return [stated.pop(name, None) for name in list(Conditions.model_fields)[:5]]

    assert figures("plain", "lan") == [600, 7, 5, 5000, None]
    assert figures("plain", "wan") == [2, 1, 0.01, 1_000_000, 1]
    assert figures("node", "lan") == [10, 7, 33, 5000, None]
    assert figures("node", "wan") == [10, 1, 33, 1_000_000, 1]
    assert figures("link", "lan") == [10, 7, 1, 5000, None]
    assert figures("link", "wan") == [10, 9, 33, 1_000_000, 1]


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [{name: a}]",
        "network: {name: lan, preset: localhost}\nnodes: [{name: a}]",
        "network: {name: lan, conditions: {bandwidth_kbps: 0, latency_ms: 0.0}}\nnodes: [{name: a}]",
        """
        network: {name: lan, preset: satellite}
        nodes: [{name: a, network_conditions: {preset: localhost}}]
        """,
    ],
)
def test_where_nothing_is_to_be_applied_there_are_no_conditions(load, text):
    assert effective_conditions(load(text), "a", "lan") is None


@pytest.mark.parametrize(
    ("conditions", "is_noop"),
    [
        (Conditions(), True),
        (Conditions(latency_ms=0, bandwidth_kbps=0), True),
        (Conditions(jitter_ms=0.1), False),
        (Conditions(bandwidth_kbps=1), False),
        (Conditions(reorder_percent=1), False),
    ],
)
def test_conditions_of_zeros_do_nothing(conditions, is_noop):
    assert conditions.is_noop is is_noop


@pytest.mark.parametrize(("node", "network"), [("b", "lan"), ("a", "dmz"), ("a", "wan")])
def test_conditions_of_what_does_not_exist_are_a_key_error(load, node, network):
    topology = load("networks: [{name: lan}, {name: wan}]\nnodes: [{name: a, networks: [lan]}]")
    with pytest.raises(KeyError):
        effective_conditions(topology, node, network)


def test_a_library_lends_its_presets_and_the_file_wins_over_it(tmp_path):
    (tmp_path / "first.yaml").write_text(
        "presets: {x: {latency_ms: 1}, satellite: {latency_ms: 2}}"
    )
    (tmp_path / "second.yaml").write_text("presets: {x: {latency_ms: 3}, y: {latency_ms: 4}}")
    topology_file = tmp_path / "topology.yaml"
    topology_file.write_text(
        "presets: {y: {latency_ms: 5}}\n"
        "nodes:\n"
        + "".join(f"- {{name: {p}, network_conditions: {{preset: {p}}}}}\n" for p in ["x", "y"])
        + "- {name: s, network_conditions: {preset: satellite}}\n"
    )
    topology = load(topology_file, presets=[tmp_path / "first.yaml", tmp_path / "second.yaml"])
    latency = {
        name: conditions.latency_ms
        for name in ["x", "y", "s"]
        if (conditions := effective_conditions(topology, name, "lan"))
    }
    assert latency == {"x": 3, "y": 5, "s": 2}
    with pytest.raises(TopologyError, match="unknown preset 'x'"):
        load(topology_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("presets: {x: {latency: 1}}", ":1:15: presets.x.latency: unknown key; did you mean"),
        ("presets: {x: {preset: y}}", ":1:15: presets.x.preset: unknown key"),
        ("presets: {x: 5}", ":1:14: presets.x: must be a mapping"),
        ("metadata: {name: x}", ":1:1: the required key 'presets' is missing"),
        ("presets: {}\nnodes: []", ":2:1: nodes: this is a topology, not a preset library"),
        ("- x", ":1:1: must be a mapping, is a list; a preset library holds `presets`"),
        ("presets: {}\nfoo: 1", ":2:1: foo: unknown key"),
    ],
)
def test_a_wrong_library_is_an_error_in_its_own_file(tmp_path, text, message):
    path = tmp_path / "presets.yaml"
    path.write_text(text)
    with pytest.raises(TopologyError) as caught:
        load_presets(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert len(caught.value.problems) == 1
