"""The JSON Schema of a topology file, for editors."""

from __future__ import annotations

from typing import Any

from pytest_benchscale.topology.model import Topology

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# Models that a file may also write as a plain text, and which key that is.
_SHORT_FORMS = {"Attachment": "name"}


def json_schema() -> dict[str, Any]:
    """Return the schema: every file that loads is valid by it, short forms and preset libraries included.

    It cannot say what goes beyond one value, such as an address outside its subnet: the loader does.
    """
    schema = Topology.model_json_schema()
    definitions = schema["$defs"]
    for definition in definitions.values():
        _allow_empty_keys(definition)
    for name, key in _SHORT_FORMS.items():
        long_form = definitions[name]
        short_form = {"type": "string", "description": long_form["properties"][key]["description"]}
        definitions[name] = {"anyOf": [short_form, long_form]}
    definitions["NodeSpec"]["properties"]["network_conditions_preset"] = {
        "type": ["string", "null"],
        "description": "Short for network_conditions: {preset: NAME}.",
    }
    properties = schema["properties"]
    properties["network"] = {
        "anyOf": [{"$ref": "#/$defs/Network"}, {"type": "null"}],
        "description": "The network, when there is only one.",
    }
    properties["nodes"]["minItems"] = 1
    _allow_empty_keys(schema)
    del schema["required"]
    return {
        "$schema": _DIALECT,
        **schema,
        "title": "pytest-benchscale topology",
        "description": "The nodes and networks of a test, or a library of presets for them.",
        "anyOf": [{"required": ["nodes"]}, {"required": ["presets"]}],
        "not": {"required": ["network", "networks"]},
        "dependentRequired": {"validation": ["metadata"]},
    }


def _allow_empty_keys(definition: dict[str, Any]) -> None:
    """Allow null for what is not required: a key without a value counts as absent."""
    required = definition.get("required", ())
    for name, schema in definition.get("properties", {}).items():
        schema.pop("title", None)
        if name in required or {"type": "null"} in schema.get("anyOf", ()):
            continue
        description = schema.pop("description", None)
        default = {"default": schema.pop("default")} if "default" in schema else {}
        definition["properties"][name] = {
            "anyOf": [schema, {"type": "null"}],
            **default,
            **({"description": description} if description else {}),
        }
