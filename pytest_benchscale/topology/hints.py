"""What to say about an unknown key: the key that was meant, in our words or in another tool's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

from pydantic import BaseModel

from pytest_benchscale.topology.checks import Loc, did_you_mean
from pytest_benchscale.topology.conditions import Figures
from pytest_benchscale.topology.model import Network, NodeSpec, Topology

__all__ = ["about_unknown_key", "model_at"]

_FREE = "free data goes under metadata"

# What other tools and dialects call our keys: the key that is meant, and what else to know.
_FOREIGN: Mapping[type[BaseModel], Mapping[str, tuple[str, str]]] = {
    Topology: {
        **dict.fromkeys(
            ("name", "description", "version", "tags", "labels"),
            ("metadata", "it goes under metadata"),
        ),
        "lab_name": ("metadata", "write metadata: {name: ...}"),
        "network_subnet": ("network", "write network: {name: ..., subnet: ...}"),
        "network_presets": ("presets", "did you mean presets?"),
        **dict.fromkeys(("services", "machines", "hosts", "vms"), ("nodes", "did you mean nodes?")),
        **dict.fromkeys(("comment", "notes", "author"), ("metadata", _FREE)),
        **dict.fromkeys(("tests", "steps"), ("", "tests are written in Python")),
    },
    Network: {
        **dict.fromkeys(("cidr", "ipv4_subnet", "range"), ("subnet", "did you mean subnet?")),
        **dict.fromkeys(("comment", "description"), ("", "a comment starts with #")),
        **dict.fromkeys(("nat", "external"), ("internet", "did you mean internet?")),
    },
    NodeSpec: {
        **dict.fromkeys(
            ("memory", "mem", "ram", "mem_limit", "memory_limit"),
            ("memory_mb", "did you mean memory_mb, a number of MiB?"),
        ),
        **dict.fromkeys(("cpu", "cpus", "cores", "vcpu"), ("vcpus", "did you mean vcpus?")),
        **dict.fromkeys(("disk", "disk_size"), ("disk_gb", "did you mean disk_gb?")),
        **dict.fromkeys(
            ("ip", "ipv4", "ip_address", "ipv4_address", "static_ip"),
            ("networks", "write networks: [{name: ..., address: ...}]"),
        ),
        "hostname": ("name", "a node's host name is its name"),
        **dict.fromkeys(("environment", "variables"), ("env", "did you mean env?")),
        **dict.fromkeys(("cmd", "entrypoint"), ("command", "did you mean command?")),
        **dict.fromkeys(("healthcheck", "ready"), ("wait_for", "did you mean wait_for?")),
        **dict.fromkeys(("files", "copy", "upload"), ("deploy", "did you mean deploy?")),
        **dict.fromkeys(("provision", "run", "commands"), ("setup", "did you mean setup?")),
        **dict.fromkeys(
            ("latency_ms", "packet_loss_percent", "bandwidth_kbps", "jitter_ms", "conditions"),
            ("network_conditions", "it goes under network_conditions"),
        ),
        **dict.fromkeys(
            ("role", "roles", "comment", "description", "labels", "tags", "type", "kind", "group"),
            ("", _FREE),
        ),
    },
    Figures: {
        **dict.fromkeys(
            ("latency", "delay", "delay_ms"), ("latency_ms", "did you mean latency_ms?")
        ),
        **dict.fromkeys(
            ("loss", "packet_loss", "loss_percent"),
            ("packet_loss_percent", "did you mean packet_loss_percent?"),
        ),
        **dict.fromkeys(
            ("bandwidth", "rate", "bandwidth_mbps"),
            ("bandwidth_kbps", "did you mean bandwidth_kbps?"),
        ),
    },
}
_ALSO_WRITTEN: Mapping[type[BaseModel], Collection[str]] = {
    Topology: ("network",),
    NodeSpec: ("network_conditions_preset",),
}


def model_at(root: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """Return the model that describes the mapping at a location."""
    model = root
    for step in loc:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _model_in(part))), None)


def about_unknown_key(model: type[BaseModel], key: str) -> tuple[str, str]:
    """Return the message about an unknown key, and the key that is meant, empty where that is open."""
    for kind, words in _FOREIGN.items():
        if issubclass(model, kind) and key in words:
            meant, hint = words[key]
            return f"unknown key; {hint}", meant
    known = [*model.model_fields, *_ALSO_WRITTEN.get(model, ())]
    hint = did_you_mean(key, known)
    meant = hint.removeprefix("; did you mean ").removesuffix("?") if "did you" in hint else ""
    if not meant:
        hint = f"; known are {', '.join(known)}" if len(known) <= 12 else ""
    return f"unknown key{hint}", meant
