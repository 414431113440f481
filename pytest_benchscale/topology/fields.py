"""The field types of the topology's models: what a value must look like, and the words when not.

A value comes from a file or from Python. Where a file has a number or a boolean it is a
`PlainScalar`: a number field reads its value, a text field its spelling.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from pytest_benchscale.topology.scalars import PlainScalar, describe, plain_data, shorten

__all__ = [
    "Address",
    "Command",
    "EnvName",
    "EnvText",
    "FileMode",
    "FilledText",
    "Flag",
    "FreeForm",
    "HostAddress",
    "IpAddress",
    "IpInterface",
    "IpNetwork",
    "Name",
    "NodeName",
    "NodePath",
    "Port",
    "PortMapping",
    "Positive",
    "PositiveInt",
    "Script",
    "Subnet",
    "Text",
    "Volume",
    "bounded",
    "invalid",
]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def invalid(message: str) -> PydanticCustomError:
    """Return the error of a value that is not allowed; `message` follows the value's place."""
    return PydanticCustomError("invalid", "{message}", {"message": message})


def _text(value: object) -> str:
    """Return the text of a scalar, as it is spelled in the file."""
    if isinstance(value, PlainScalar) and value.value is not None:
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise invalid(f"must be a text, is {describe(value)}")
    if "\0" in value:
        raise invalid("must not contain a NUL character")
    return value


def _filled_text(value: object) -> str:
    text = _text(value)
    if not text.strip():
        raise invalid("must not be empty")
    return text


def _env_text(value: object) -> str:
    """Return the text of an environment variable: null is what is written there, mostly nothing."""
    if isinstance(value, PlainScalar):
        return value.text
    return "" if value is None else _text(value)


def _env_name(value: object) -> str:
    name = _text(value)
    if not name or "=" in name:
        raise invalid("is no name of an environment variable: it must not be empty or contain '='")
    return name


_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


def _name(value: object) -> str:
    name = _text(value)
    if not name:
        raise invalid("must not be empty")
    if not _NAME.fullmatch(name):
        raise invalid(
            f"{shorten(name)!r} cannot be used as a name: a name is made of ASCII letters, digits, "
            "'.', '_' and '-', does not begin with '.' or '-', and does not end with '.'"
        )
    return name


def _node_name(name: str) -> str:
    """Refuse what no resolver takes as a host's own name."""
    try:
        socket.inet_aton(name)
    except OSError:
        pass
    else:
        raise invalid(
            f"{shorten(name)!r} cannot be used as a node's name: programs read it as an IP "
            f"address; call it 'node-{shorten(name)}', say"
        )
    if name.lower() == "localhost":
        raise invalid("'localhost' cannot be used as a node's name: every node calls itself so")
    return name


def _number(value: object) -> int | float:
    if isinstance(value, PlainScalar):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; write it without quotes" if _is_numeric(value) else ""
        raise invalid(f"must be a number, is {describe(value)}{hint}")
    return value


def _is_numeric(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def bounded(low: int, high: int, unit: str = "") -> tuple[BeforeValidator, WithJsonSchema]:
    """Return what checks and describes a number with bounds, both included; the message has `unit`."""

    def check(value: object) -> int | float:
        number = _number(value)
        if not low <= number <= high:  # also false for NaN
            raise invalid(f"must be between {low:,} and {high:,}{unit}, is {describe(value)}")
        return number

    schema = {"type": "number", "minimum": low, "maximum": high}
    return BeforeValidator(check), WithJsonSchema(schema)


def _positive(value: object) -> int | float:
    number = _number(value)
    if not 0 < number < math.inf:
        raise invalid(f"must be more than 0, is {describe(value)}")
    return number


def _positive_int(value: object) -> int:
    number = _positive(value)
    if number != int(number):
        raise invalid(f"must be a whole number, is {describe(value)}")
    return int(number)


def _port(value: object) -> int:
    number = _number(value)
    if not (1 <= number <= 65535 and number == int(number)):
        raise invalid(f"must be a port number, 1 to 65535, is {describe(value)}")
    return int(number)


def _flag(value: object) -> bool:
    if isinstance(value, PlainScalar):
        value = value.value
    if not isinstance(value, bool):
        raise invalid(f"must be true or false, is {describe(value)}")
    return value


_SUBNET_EXAMPLE = "write it like 10.1.0.0/24 or fd00:1::/64"


def _subnet(value: object) -> IpNetwork:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return _usable_subnet(value)
    text = _text(value)
    shown = shorten(text)
    address, slash, prefix = text.partition("/")
    if not slash or not re.fullmatch("[0-9]{1,3}", prefix, re.ASCII):
        raise invalid(f"{shown!r} is not a subnet: the prefix length is missing; {_SUBNET_EXAMPLE}")
    try:
        interface = _interface(address, int(prefix))
    except ValueError as error:
        raise invalid(f"{shown!r} is not a subnet: {_reason(error)}; {_SUBNET_EXAMPLE}") from None
    if interface.ip != interface.network.network_address:
        raise invalid(f"{shown!r} has host bits set; did you mean {interface.network}?")
    return _usable_subnet(interface.network)


def _usable_subnet(subnet: IpNetwork) -> IpNetwork:
    first = subnet.network_address
    if first.is_multicast or first.is_loopback or first.is_unspecified:
        raise invalid(f"'{subnet}' cannot be used by nodes: it is reserved; {_SUBNET_EXAMPLE}")
    return subnet


def _ip_address(text: str) -> IpAddress:
    """Parse an address, with a better message than `ipaddress.ip_address` has.

    Raises:
        ValueError: it is none, or has a scope, which is one machine's name for an interface.
    """
    if "%" in text:
        raise ValueError("a scope, %..., is not allowed")
    return ipaddress.IPv6Address(text) if ":" in text else ipaddress.IPv4Address(text)


def _interface(address: str, prefix: int) -> IpInterface:
    """Parse an address with a prefix length.

    Raises:
        ValueError: it is none.
    """
    first = _ip_address(address)
    if prefix > first.max_prefixlen:
        raise ValueError(f"the prefix length is at most {first.max_prefixlen}")
    return ipaddress.ip_interface((first, prefix))


def _reason(error: ValueError) -> str:
    """Return the library's reason, without the value that our message names already."""
    reason = re.sub(r" (?:not permitted )?in '[^']*'$", "", str(error))
    return reason[:1].lower() + reason[1:]


def _address(value: object) -> IpAddress:
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return value
    text = _text(value)
    if "/" in text:
        raise invalid(f"{shorten(text)!r} must be an address without a prefix length")
    try:
        return _ip_address(text)
    except ValueError as error:
        raise invalid(f"{shorten(text)!r} is not an IP address: {_reason(error)}") from None


_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def _host_address(value: object) -> str:
    text = str(value) if isinstance(value, IpAddress) else _filled_text(value)
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        return str(_address(text))
    if not _HOST.fullmatch(text):
        raise invalid(f"{shorten(text)!r} is neither an IP address nor a host name")
    return text


_PORT_MAPPING = re.compile(
    r"(?:(?:(?P<host_ip>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<host>[0-9]{1,5})?:)?"
    r"(?P<node>[0-9]{1,5})(?:/(?:tcp|udp|sctp))?",
    re.ASCII,
)


def _port_mapping(value: object) -> str:
    text = _text(value)
    match = _PORT_MAPPING.fullmatch(text)
    numbers = [int(port) for port in match.group("host", "node") if port] if match else []
    if not numbers or not all(1 <= number <= 65535 for number in numbers):
        raise invalid(
            f"{shorten(text)!r} is not a published port: write HOST:NODE, ADDRESS:HOST:NODE or "
            "NODE, each port 1 to 65535, '/udp' behind it where it is not TCP"
        )
    if match and (host_ip := match["host_ip"]):
        _address(host_ip.strip("[]"))
    return text


_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?", re.ASCII)


def _platform(value: object) -> str:
    text = _text(value)
    if not _PLATFORM.fullmatch(text):
        raise invalid(
            f"{shorten(text)!r} is not a platform: write OS/ARCHITECTURE, as in linux/arm64, "
            "or OS/ARCHITECTURE/VARIANT"
        )
    return text


def _node_path(value: object) -> str:
    path = _text(value)
    if not path.startswith("/"):
        raise invalid(f"{shorten(path)!r} must be an absolute path in the node")
    return path


_VOLUME_MODES = frozenset({"ro", "rw", "z", "Z"})


def _volume(value: object) -> str:
    text = _text(value)
    source, _, rest = text.partition(":")
    target, _, modes = rest.partition(":")
    if not source or not target.startswith("/"):
        raise invalid(
            f"{shorten(text)!r} is not a volume: write SOURCE:TARGET or SOURCE:TARGET:ro, the "
            "target an absolute path in the node"
        )
    if modes and not _VOLUME_MODES.issuperset(modes.split(",")):
        raise invalid(f"{shorten(text)!r}: a volume's mode is 'ro' or 'rw', not {shorten(modes)!r}")
    return text


def _file_mode(value: object) -> str:
    text = _text(value)
    if not re.fullmatch("[0-7]{3,4}", text, re.ASCII):
        raise invalid(
            f"{shorten(text)!r} is not a file mode: write three or four octal digits, 0755"
        )
    return text


def _argv(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise invalid(f"must be a command line or a list of its words, is {describe(value)}")
    if not value:
        raise invalid("must not be empty")
    return tuple(_text(word) for word in value)


def _command(value: object) -> tuple[str, ...]:
    """Return a main process's argv; a text goes through the shell, as everywhere."""
    if isinstance(value, (str, PlainScalar)):
        return ("/bin/sh", "-c", _filled_text(value))
    return _argv(value)


def _script(value: object) -> str | tuple[str, ...]:
    """Return a command to run: a text for the shell, or exactly that argv."""
    return _filled_text(value) if isinstance(value, (str, PlainScalar)) else _argv(value)


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


# In YAML 1 and true are fine where a text is wanted: they keep their spelling.
_TEXT_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_COMMAND_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1},
    ]
}
_Validator = Callable[[object], Any]


def _of(validator: _Validator, **schema: Any) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(validator), _schema(**schema)


FreeForm = Annotated[dict[str, Any], BeforeValidator(plain_data)]
Text = Annotated[str, *_of(_text, **_TEXT_SCHEMA)]
FilledText = Annotated[str, *_of(_filled_text, **_TEXT_SCHEMA)]
EnvText = Annotated[str, *_of(_env_text, type=["string", "number", "boolean", "null"])]
EnvName = Annotated[str, *_of(_env_name, type="string", pattern="^[^=]+$")]
Name = Annotated[str, *_of(_name, **_TEXT_SCHEMA)]
NodeName = Annotated[Name, AfterValidator(_node_name)]
Flag = Annotated[bool, *_of(_flag, type="boolean")]
Positive = Annotated[float, *_of(_positive, type="number", exclusiveMinimum=0)]
PositiveInt = Annotated[int, *_of(_positive_int, type="integer", minimum=1)]
Port = Annotated[int, *_of(_port, type="integer", minimum=1, maximum=65535)]
PortMapping = Annotated[str, *_of(_port_mapping, type=["string", "integer"])]
Platform = Annotated[str, *_of(_platform, type="string", pattern=f"^{_PLATFORM.pattern}$")]
NodePath = Annotated[str, *_of(_node_path, type="string", pattern="^/")]
Volume = Annotated[str, *_of(_volume, type="string")]
FileMode = Annotated[str, *_of(_file_mode, type=["string", "integer"])]
HostAddress = Annotated[str, *_of(_host_address, type="string")]
Subnet = Annotated[IpNetwork, *_of(_subnet, type="string")]
Address = Annotated[IpAddress, *_of(_address, type="string")]
Command = Annotated[tuple[str, ...], *_of(_command, **_COMMAND_SCHEMA)]
Script = Annotated[str | tuple[str, ...], *_of(_script, **_COMMAND_SCHEMA)]
