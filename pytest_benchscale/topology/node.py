"""One node of a topology, as declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from pytest_benchscale.topology.conditions import Conditions, Declared
from pytest_benchscale.topology.fields import (
    Address,
    Command,
    EnvName,
    EnvText,
    FileMode,
    FilledText,
    Flag,
    FreeForm,
    HostAddress,
    Name,
    NodeName,
    NodePath,
    Platform,
    Port,
    PortMapping,
    Positive,
    PositiveInt,
    Script,
    Text,
    Volume,
    invalid,
)
from pytest_benchscale.topology.scalars import PlainScalar, describe, is_missing, plain_key

__all__ = [
    "Attachment",
    "Build",
    "CloudInit",
    "Deploy",
    "Image",
    "NodeSpec",
    "Ssh",
    "WaitFor",
    "WriteFile",
]


class Attachment(Declared):
    """One interface of a node: the network it is on. In a file also just the network's name."""

    name: Name = Field(description="Name of the network.")
    address: Address | None = Field(
        None, description="The node's address there; chosen when absent."
    )
    network_conditions: Conditions | None = Field(
        None, description="Conditions of this link; they win over the node's and the network's."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, (str, PlainScalar)) else data


class Build(Declared):
    """A container image that is built from a directory with a Dockerfile in it."""

    build: FilledText = Field(description="The directory, relative to the topology file's.")


class Deploy(Declared):
    """A file or directory that is copied into the node once it is ready."""

    src: FilledText = Field(description="What to copy, relative to the topology file's directory.")
    dest: NodePath = Field(description="Where to in the node; an absolute path.")
    mode: FileMode | None = Field(None, description="File mode in octal, 0755; kept when absent.")


class WaitFor(Declared):
    """One thing that must be true before the node counts as up: exactly one of the four."""

    port: Port | None = Field(None, description="A TCP port of the node that accepts connections.")
    exec: Script | None = Field(None, description="A command that returns 0.")
    file: NodePath | None = Field(None, description="A path in the node that exists.")
    log: FilledText | None = Field(
        None, description="A regular expression that the node's log matches."
    )
    timeout: Positive = Field(60.0, description="How long to wait, in seconds.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        awaited = [self.port, self.exec, self.file, self.log]
        if sum(value is not None for value in awaited) != 1:
            raise invalid("needs exactly one of port, exec, file and log")
        return self


class WriteFile(Declared):
    """A file that cloud-init writes on first boot; the keys are cloud-init's own."""

    path: NodePath = Field(description="Absolute path in the node.")
    content: Text = Field("", description="What to write.")
    permissions: FileMode | None = Field(None, description="File mode in octal, 0644.")
    owner: FilledText | None = Field(None, description="USER:GROUP.")
    encoding: FilledText | None = Field(None, description="How content is encoded: b64, gzip, ...")
    append: Flag | None = Field(None, description="Whether to append to the file.")
    defer: Flag | None = Field(None, description="Whether to wait until packages are installed.")


class CloudInit(Declared):
    """What cloud-init sets up on the first boot of a virtual machine."""

    user: FilledText | None = Field(None, description="Login user, with sudo.")
    password: Text | None = Field(None, description="The user's password, in plain text.")
    ssh_authorized_keys: tuple[FilledText, ...] = Field((), description="Public keys of the user.")
    packages: tuple[FilledText, ...] = Field((), description="Packages to install.")
    runcmd: tuple[Script, ...] = Field((), description="Commands to run, in order.")
    write_files: tuple[WriteFile, ...] = Field((), description="Files to write.")


class Ssh(Declared):
    """How to log in to a machine."""

    user: FilledText | None = Field(None, description="User name.")
    password: Text | None = Field(None, description="Password.")
    key: FilledText | None = Field(
        None,
        description="Path of the private key, relative to the topology file's directory; ~ is the "
        "user's home.",
    )
    port: Port = Field(22, description="TCP port of the sshd.")
    known_hosts: FilledText | None = Field(
        None,
        description="File with the keys that the machine may show, or none, which takes any; the "
        "user's and the system's known_hosts when absent.",
    )


def _image(value: Any) -> Any:
    """Check an image: a text, or a mapping from backend to a text or {build: DIRECTORY}."""
    if isinstance(value, PlainScalar):
        value = value.text
    if isinstance(value, Mapping):
        if not value:
            raise invalid("must not be empty")
        return {plain_key(backend): _image_of(backend, item) for backend, item in value.items()}
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"must be an image or a mapping from backend to image, is {describe(value)}")
    return value


def _image_of(backend: object, value: Any) -> str | Build:
    if isinstance(value, Build):
        return value
    if isinstance(value, Mapping):
        if set(value) == {"build"} and isinstance(value["build"], str) and value["build"].strip():
            return Build(build=value["build"])
        raise invalid(f"for {backend}, a mapping must be {{build: DIRECTORY}}")
    if isinstance(value, PlainScalar) and value.value is not None:
        return value.text
    if not isinstance(value, str) or not value.strip():
        raise invalid(f"for {backend}, must be an image, is {describe(value)}")
    return value


_IMAGE_TEXT = {"type": "string", "minLength": 1}
_IMAGE_BUILD = {
    "type": "object",
    "properties": {"build": _IMAGE_TEXT},
    "required": ["build"],
    "additionalProperties": False,
}
_IMAGE_SCHEMA = {
    "anyOf": [
        _IMAGE_TEXT,
        {
            "type": "object",
            "additionalProperties": {"anyOf": [_IMAGE_TEXT, _IMAGE_BUILD]},
            "minProperties": 1,
        },
    ]
}
Image = Annotated[
    str | dict[str, str | Build], BeforeValidator(_image), WithJsonSchema(_IMAGE_SCHEMA)
]


class NodeSpec(Declared):
    """One node, as declared."""

    name: NodeName = Field(description="Name of the node: its host name on every network.")
    image: Image | None = Field(
        None,
        description="A name of the image catalogue, the backend's own reference, or a mapping from "
        "backend to one of these; the catalogue's default when absent.",
    )
    platform: Platform | None = Field(
        None, description="Platform of a container's image, linux/arm64; the daemon's when absent."
    )
    backend: FilledText | None = Field(None, description="Backend of this node alone.")
    networks: tuple[Attachment, ...] = Field(
        (), description="Networks that the node is on, names or mappings; all of them when absent."
    )
    env: dict[EnvName, EnvText] = Field({}, description="Environment of every command.")
    memory_mb: PositiveInt | None = Field(None, description="Memory limit in MiB.")
    vcpus: Positive | None = Field(
        None, description="Processors; a fraction where limits allow it."
    )
    disk_gb: Positive | None = Field(None, description="Size of the disk in GiB.")
    command: Command | None = Field(
        None, description="Main process: its words, or a line for /bin/sh; idle when absent."
    )
    ports: tuple[PortMapping, ...] = Field((), description="Published ports, HOST:NODE.")
    volumes: tuple[Volume, ...] = Field((), description="Mounted paths, SOURCE:TARGET[:ro].")
    depends_on: tuple[NodeName, ...] = Field(
        (), description="Nodes that must be up before this one."
    )
    deploy: tuple[Deploy, ...] = Field((), description="Files to copy in once the node is ready.")
    setup: tuple[FilledText, ...] = Field(
        (), description="Shell commands to run in order once the node is ready."
    )
    wait_for: tuple[WaitFor, ...] = Field((), description="What must be true of a node that is up.")
    cloud_init: CloudInit | None = Field(None, description="First boot of a virtual machine.")
    existing: FilledText | None = Field(
        None, description="Name of a machine that is there already: used, never created or removed."
    )
    address: HostAddress | None = Field(
        None, description="Address of an existing machine, where the backend cannot know it."
    )
    start: Flag | None = Field(
        None, description="Whether an existing machine that is off is started; it then stays on."
    )
    ssh: Ssh | None = Field(None, description="How to log in to it.")
    network_conditions: Conditions | None = Field(
        None, description="Conditions of all links of the node; they win over the networks'."
    )
    metadata: FreeForm = Field({}, description="Free for your own use.")

    @model_validator(mode="before")
    @classmethod
    def _preset_beside_the_conditions(cls, data: Any) -> Any:
        """Take `network_conditions_preset: NAME` for `network_conditions: {preset: NAME}`."""
        if not isinstance(data, Mapping) or is_missing(data.get("network_conditions_preset")):
            return data
        rest = dict(data)
        preset = rest.pop("network_conditions_preset")
        conditions = rest.get("network_conditions")
        if is_missing(conditions):
            conditions = {}
        if isinstance(conditions, Conditions):
            conditions = conditions.model_dump(exclude_none=True)
        if not isinstance(conditions, Mapping) or "preset" in conditions:
            raise invalid("network_conditions_preset: give the preset in network_conditions only")
        return rest | {"network_conditions": {**conditions, "preset": preset}}
