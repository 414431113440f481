"""What a topology file declares, as frozen pydantic models.

`Topology.load` makes one from YAML and names the place of whatever is wrong, `Topology.from_dict`
does the same for data from Python: both raise `TopologyError` with all problems. Calling the models
directly checks as much, but a wrong field is pydantic's `ValidationError` then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pytest_benchscale.topology.conditions import Conditions, Declared, Preset
from pytest_benchscale.topology.fields import (
    Address,
    FilledText,
    Flag,
    FreeForm,
    Name,
    Subnet,
    Text,
    invalid,
)
from pytest_benchscale.topology.node import (
    Attachment,
    Build,
    CloudInit,
    Deploy,
    Image,
    NodeSpec,
    Ssh,
    WaitFor,
    WriteFile,
)
from pytest_benchscale.topology.scalars import is_missing, plain_data

__all__ = [
    "DEFAULT_NETWORK",
    "UNCHECKED",
    "Attachment",
    "Build",
    "CloudInit",
    "Conditions",
    "Deploy",
    "Image",
    "Metadata",
    "Network",
    "NodeSpec",
    "Preset",
    "Ssh",
    "Topology",
    "WaitFor",
    "WriteFile",
]

DEFAULT_NETWORK = "lan"

# The validation context that leaves out the checks across parts: who passes it makes them.
UNCHECKED = {"benchscale": "unchecked"}


class Metadata(Declared):
    """What the file says about itself. Further keys are free."""

    model_config = ConfigDict(extra="allow")

    name: FilledText = Field("topology", description="Name of the topology; the file's by default.")
    description: Text | None = Field(None, description="What it is for.")
    version: Text | None = Field(None, description="Version of the file; any text.")
    tags: tuple[Text, ...] = Field((), description="Words to find it by.")

    @model_validator(mode="before")
    @classmethod
    def _free_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {
            key: value if key in cls.model_fields else plain_data(value)
            for key, value in data.items()
        }


class Network(Declared):
    """One network: an Ethernet segment with a subnet."""

    name: Name = Field(description="Name of the network.")
    subnet: Subnet | None = Field(
        None, description="IPv4 or IPv6 subnet, 10.1.0.0/24; allocated when absent."
    )
    gateway: Address | None = Field(
        None, description="Address inside the subnet that is the nodes' default route."
    )
    internet: Flag = Field(False, description="Whether nodes reach the outside by NAT.")  # noqa: FBT003
    preset: FilledText | None = Field(None, description="Named conditions of every node's link.")
    conditions: Conditions | None = Field(
        None, description="Conditions of every node's link; they win over the preset."
    )


class Topology(Declared):
    """A whole topology. Equal by content and place; hashable.

    Every node's `networks` is filled in: a node that names none is on all of them.
    """

    metadata: Metadata = Field(
        default_factory=Metadata, description="What the file says about itself."
    )
    backend: FilledText | None = Field(None, description="Backend of all nodes; auto picks one.")
    networks: tuple[Network, ...] = Field((), description="The networks.")
    nodes: tuple[NodeSpec, ...] = Field(description="The nodes, at least one.")
    presets: dict[Name, Preset] = Field(
        {}, description="Named conditions, beside the built-in ones."
    )
    validation: FreeForm | None = Field(
        None, description="Expectations for other tools that read this file; kept, not looked at."
    )

    _source: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _one_network_or_several(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        rest = {key: value for key, value in data.items() if not is_missing(value)}
        if "network" in rest:
            if "networks" in rest:
                raise invalid("give either network or networks")
            rest["networks"] = [rest.pop("network")]
        rest.setdefault("networks", [{"name": DEFAULT_NETWORK}])
        return rest

    @field_validator("nodes", mode="before")
    @classmethod
    def _at_least_one_node(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and not value:
            raise invalid("must not be empty; a topology needs at least one node")
        return value

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> Self:
        names = dict.fromkeys(network.name for network in self.networks)
        everywhere = tuple(Attachment(name=name) for name in names)
        nodes = tuple(
            node
            if "networks" in node.model_fields_set
            else node.model_copy(update={"networks": everywhere})
            for node in self.nodes
        )
        object.__setattr__(self, "nodes", nodes)  # the model is frozen only from here on
        if info.context is not UNCHECKED:
            from pytest_benchscale.topology.checks import check_all  # noqa: PLC0415 - it imports this

            check_all(self)
        return self

    @property
    def name(self) -> str:
        """The topology's name."""
        return self.metadata.name

    @property
    def source(self) -> Path | None:
        """The file that it was loaded from, absolute; None when it was made in Python."""
        return self._source

    @property
    def directory(self) -> Path:
        """Where relative paths start: the file's directory, or the current one."""
        return self._source.parent if self._source else Path.cwd()

    def node(self, name: str) -> NodeSpec:
        """Return the node of that name.

        Raises:
            KeyError: there is none.
        """
        return _by_name(self.nodes, name)

    def network(self, name: str) -> Network:
        """Return the network of that name.

        Raises:
            KeyError: there is none.
        """
        return _by_name(self.networks, name)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        presets: Sequence[Path] = (),
        backends: Collection[str] | None = None,
    ) -> Topology:
        """Load a topology file; see `loader.load`."""
        from pytest_benchscale.topology import loader  # noqa: PLC0415 - it imports this module

        return loader.load(path, presets=presets, backends=backends)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        presets: Sequence[Path] = (),
        backends: Collection[str] | None = None,
    ) -> Topology:
        """Make a topology of the data that a file would hold; see `loader.load_dict`."""
        from pytest_benchscale.topology import loader  # noqa: PLC0415 - it imports this module

        return loader.load_dict(data, presets=presets, backends=backends)

    def placed_at(self, source: Path) -> Topology:
        """Return the same topology as one that was loaded from that file."""
        placed = self.model_copy()
        placed._source = source  # noqa: SLF001 - it is our own
        return placed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        return self.__dict__ == other.__dict__ and self.directory == other.directory

    def __hash__(self) -> int:
        return hash((self.name, tuple(node.name for node in self.nodes)))


_T = TypeVar("_T", Network, NodeSpec)


def _by_name(things: tuple[_T, ...], name: str) -> _T:
    for thing in things:
        if thing.name == name:
            return thing
    raise KeyError(name)
