"""Node records: what a node tells the others about itself through the registry, and the keys it tells it under.

A record is JSON (format in `docs/protocol.md`) and is hostile input: whoever can write to the store can write anything, so
decoding checks size, version and every field, and returns why a record is refused instead of raising. Not responsible for
talking to the store, nor for whether a writer may be believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface, ip_network
from typing import TypeAlias, TypeVar

from holloway.protocols.errors import LocalError
from holloway.protocols.keys import decode_key, encode_key

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface
Prefix: TypeAlias = IPv4Network | IPv6Network
Item = TypeVar("Item")

RECORD_VERSION = 1
MAX_RECORD_BYTES = 16 * 1024
MAX_LIST_ITEMS = 64
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_HOST = re.compile(r"[A-Za-z0-9.:_%-]{1,253}\Z")


class RecordProblem(Enum):
    """Why a record is refused; the value is the name under which it is counted."""

    TOO_BIG = "record_too_big"
    NOT_JSON = "record_not_json"
    WRONG_VERSION = "record_wrong_version"
    BAD_FIELD = "record_bad_field"
    WRONG_NAME = "record_wrong_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node of a network.

    `endpoints`: where it can be called, best first, as (host, port). `addresses`: its overlay addresses.
    `prefixes`: networks behind it.
    """

    name: str
    public_key: bytes
    endpoints: tuple[tuple[str, int], ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    prefixes: tuple[Prefix, ...] = ()

    def allowed(self) -> tuple[Prefix, ...]:
        """The inner prefixes that belong to this node: each of its addresses, and what lies behind it."""
        return tuple(ip_network(address.ip) for address in self.addresses) + self.prefixes


def network_prefix(network: str) -> bytes:
    """The registry prefix of one network. Raises `LocalError` for a name that could reach outside it."""
    if not NAME.match(network):
        raise LocalError(
            f"the network name {network!r} cannot be used",
            "it becomes part of a registry key",
            "use up to 63 letters, digits, dots, dashes and underscores",
        )
    return f"/holloway/{network}/".encode()


def nodes_prefix(network: str) -> bytes:
    return network_prefix(network) + b"nodes/"


def node_key(network: str, name: str) -> bytes:
    return nodes_prefix(network) + name.encode()


def address_key(network: str, address: InterfaceAddress) -> bytes:
    return network_prefix(network) + b"addresses/" + str(address.ip).encode()


def encode_record(record: NodeRecord) -> bytes:
    """The record as JSON. Raises `LocalError` when it is larger than the others will read."""
    value = json.dumps(
        {
            "v": RECORD_VERSION,
            "name": record.name,
            "public_key": encode_key(record.public_key),
            "endpoints": [[host, port] for host, port in record.endpoints],
            "addresses": [str(address) for address in record.addresses],
            "prefixes": [str(prefix) for prefix in record.prefixes],
        },
        separators=(",", ":"),
    ).encode()
    if len(value) > MAX_RECORD_BYTES:
        raise LocalError(f"the record of {record.name} is {len(value)} bytes long", f"others read {MAX_RECORD_BYTES}")
    return value


def decode_record(name: str | None, value: bytes) -> NodeRecord | RecordProblem:
    """The record found under the node name `name` (None: under a key that names no node), or why it is refused.

    Takes any bytes.
    """
    if len(value) > MAX_RECORD_BYTES:
        return RecordProblem.TOO_BIG
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return RecordProblem.NOT_JSON
    if not isinstance(fields, dict):
        return RecordProblem.NOT_JSON
    version = fields.get("v")
    if type(version) is not int or version != RECORD_VERSION:
        return RecordProblem.WRONG_VERSION
    own_name = fields.get("name")
    if not isinstance(own_name, str) or not NAME.match(own_name) or name not in (None, own_name):
        return RecordProblem.WRONG_NAME
    try:
        return NodeRecord(
            name=own_name,
            public_key=decode_key(_text(fields.get("public_key"))),
            endpoints=_items(fields, "endpoints", _endpoint),
            addresses=_items(fields, "addresses", lambda item: ip_interface(_text(item))),
            prefixes=_items(fields, "prefixes", lambda item: ip_network(_text(item))),
        )
    except (ValueError, LocalError):
        return RecordProblem.BAD_FIELD


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("not a short text")
    return value


def _endpoint(item: object) -> tuple[str, int]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError("not a pair")
    host, port = item
    if not _HOST.match(_text(host)) or type(port) is not int or not 0 < port < 65536:
        raise ValueError("not a host and a port")
    return host, port


def _items(fields: dict[str, object], key: str, read: Callable[[object], Item]) -> tuple[Item, ...]:
    items = fields.get(key, [])
    if not isinstance(items, list) or len(items) > MAX_LIST_ITEMS:
        raise ValueError("not a short list")
    return tuple(read(item) for item in items)
