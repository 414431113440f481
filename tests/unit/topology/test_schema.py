"""The JSON Schema: an editor accepts what the loader accepts, and marks what it can."""

from pathlib import Path

import pytest

from pytest_benchscale.topology.scalars import plain_data
from pytest_benchscale.topology.schema import json_schema
from pytest_benchscale.topology.source import parse

jsonschema = pytest.importorskip("jsonschema")

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _data(text):
    return plain_data(parse(text, None)[0])


def test_the_schema_names_its_dialect_and_describes_every_key():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    definitions = [schema, *schema["$defs"].values()]
    for definition in definitions:
        longer = definition.get("anyOf", [definition])[-1]
        for key, described in (definition if "properties" in definition else longer)[
            "properties"
        ].items():
            assert described.get("description"), key


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_corpus_is_valid_where_it_loads(validator, path):
    is_valid = validator.is_valid(_data(path.read_text("utf-8")))
    assert is_valid is (path.stem != "nuc-validation")


@pytest.mark.parametrize(
    "text",
    [
        "nodes: [{name: a}]",
        "backend:\nnetwork:\nnodes:\n- name: a\n  env:\n  networks:\n  memory_mb: ~\n",
        "metadata: {version: 2.0, tags: [1, true]}\nnodes: [{name: a, env: {A: 1, B: , C: true}}]",
        """
        networks: [{name: a}, {name: b, subnet: 'fd00::/64'}]
        nodes: [{name: a, networks: [a, {name: b, address: 'fd00::5', network_conditions: {}}]}]
        """,
        "nodes: [{name: a, image: {docker: {build: .}, local: ./x}, command: sleep 5}]",
        "nodes: [{name: a, command: [sleep, 5], ports: [80, '80:80'], network_conditions_preset: x}]",
        "nodes: [{name: a, wait_for: [{port: 1}, {exec: [a]}, {exec: a, timeout: 0.5}]}]",
        "nodes: [{name: a, deploy: [{src: a, dest: /b, mode: 0755}], vcpus: 0.5}]",
        "nodes: [{name: a, existing: x, address: 192.0.2.1, ssh: {port: 22, password: 123}}]",
        "nodes: [{name: a, cloud_init: {runcmd: [a, [b]], write_files: [{path: /x}]}}]",
        "presets: {x: {latency_ms: 1, description: y}}",
        "metadata: {}\nvalidation: {any: [thing]}\nnodes: [{name: a, metadata: {x: [1]}}]",
    ],
)
def test_what_loads_is_valid(validator, text):
    errors = [error.message for error in validator.iter_errors(_data(text))]
    assert not errors


@pytest.mark.parametrize(
    "text",
    [
        "nodes: []",
        "nodes: [{}]",
        "nodes: [a]",
        "metadata: {name: x}",
        "nodes: [{name: a, memroy: 1}]",
        "nodes: [{name: a, memory_mb: 0}]",
        "nodes: [{name: a, memory_mb: lots}]",
        "nodes: [{name: a, network_conditions: {packet_loss_percent: 101}}]",
        "nodes: [{name: a, network_conditions: {latency: 1}}]",
        "nodes: [{name: a, wait_for: [{port: 99999}]}]",
        "network: {name: a}\nnetworks: []\nnodes: [{name: a}]",
        "network: {name: a, internet: 'yes'}\nnodes: [{name: a}]",
        "validation: {}\nnodes: [{name: a}]",
        "foo: 1\nnodes: [{name: a}]",
    ],
)
def test_what_an_editor_can_see_is_wrong_is_not_valid(validator, text):
    assert not validator.is_valid(_data(text))
