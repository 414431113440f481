"""No report has the passwords of a topology."""

from __future__ import annotations

import json

from pytest_benchscale import Topology
from pytest_benchscale.lab.secrets import MASK, Masker, declared_without_secrets

TOPOLOGY = Topology.from_dict(
    {
        "nodes": [
            {
                "name": "server",
                "env": {"TOKEN": "abc", "EMPTY": ""},
                "cloud_init": {
                    "user": "admin",
                    "password": "hunter22",
                    "write_files": [{"path": "/etc/key", "content": "rosebud"}, {"path": "/x"}],
                },
                "ssh": {"user": "admin", "password": "admin"},
            },
            {"name": "client", "ssh": {"password": "hunter22!"}},
        ]
    }
)


def test_what_is_declared_keeps_its_shape_without_them() -> None:
    declared = declared_without_secrets(TOPOLOGY)
    server, client = declared["nodes"]
    assert server["env"] == {"TOKEN": MASK, "EMPTY": MASK}
    assert server["cloud_init"]["password"] == server["ssh"]["password"] == MASK
    assert server["cloud_init"]["write_files"][0] == {"path": "/etc/key", "content": MASK}
    assert client["ssh"] == {"password": MASK}
    assert "hunter22" not in json.dumps(declared)


def test_passwords_are_taken_out_of_all_texts_and_nothing_else_is() -> None:
    mask = Masker(TOPOLOGY)
    data = {"a": ["echo admin:hunter22! | chpasswd", 3, None], "b": ("hunter22",)}
    # A password that is a name, too, would mask half of a report.
    assert mask(data) == {"a": ["echo admin:*** | chpasswd", 3, None], "b": ["***"]}
