"""Node records: what a node tells the others about itself through the registry, and the keys it tells it under.

A record is JSON (format in `docs/protocol.md`) and is hostile input: whoever can write to the store can write anything, so
decoding checks size, version and every field, and returns why a record is refused instead of raising. What is encoded here
is decoded by the others, or not encoded at all. Not responsible for talking to the store, for whether a writer may be
believed, nor for two records that claim the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TypeAlias, TypeVar

from holloway.protocols.broker_places import BrokerPlace, of_high_order, read_curve_key, read_place
from holloway.protocols.errors import LocalError
from holloway.protocols.keys import decode_key, encode_key
from holloway.protocols.offers import LZ4, NOT_COMPRESSED, WORDS

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface
Prefix: TypeAlias = IPv4Network | IPv6Network
Item = TypeVar("Item")

RECORD_VERSION = 1
MAX_RECORD_BYTES = 16 * 1024
MAX_LIST_ITEMS = 64
MIN_PREFIX_BITS = {4: 8, 6: 16}
"""By IP version. No private network is larger (RFC 1918, section 3; a site of RFC 4193, section 3.1, is far smaller), and a
shorter prefix would draw much of a host's traffic into the tunnel on the word of a record. A default route may be offered:
it counts for those alone who have chosen its owner as their gateway."""
MAX_SERIAL = 2**53 - 1  # the last integer that every reader of JSON keeps exactly (RFC 8259, section 6)
SECURITY_WORDS = frozenset(WORDS)
COMPRESSION_WORDS = frozenset({LZ4, NOT_COMPRESSED})
MAX_HOST_CHARS = 253  # RFC 1035, section 2.3.4, without the final dot
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_TEXT_CHARS = 256


class RecordProblem(Enum):
    """Why a record is refused; the value is the name under which it is counted."""

    TOO_BIG = "record_too_big"
    NOT_JSON = "record_not_json"
    WRONG_VERSION = "record_wrong_version"
    BAD_FIELD = "record_bad_field"
    WRONG_NAME = "record_wrong_name"
    OUR_KEY = "record_has_our_key"
    TOO_MANY = "record_too_many"
    NOT_PINNED = "record_not_pinned"
    UNSIGNED = "record_unsigned"
    BAD_SIGNATURE = "record_bad_signature"
    BAD_CERTIFICATE = "record_bad_certificate"
    FOREIGN_AUTHORITY = "record_foreign_authority"
    EXPIRED = "record_expired"
    NOT_YET_VALID = "record_not_yet_valid"
    WRONG_NETWORK = "record_wrong_network"
    ADDRESS_NOT_CERTIFIED = "record_address_not_certified"
    PREFIX_NOT_CERTIFIED = "record_prefix_not_certified"
    REVOKED = "record_revoked"
    REVOCATIONS_MISSING = "record_revocations_missing"
    STALE = "record_stale"
    NO_COMMON_SECURITY = "record_no_common_security"
    """It offers nothing that we can do and our own policy allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node of a network.

    `endpoints`: where it can be called, best first, as (host, port). `addresses`: its overlay addresses.
    `prefixes`: networks behind it. `serial`: counts up from one record of a node to the next; 0 in one that is not signed.
    `curve_key`: the CURVE key of its agent in Z85 (ZeroMQ RFC 32), 40 characters. `security` and `compression`: what it offers, the
    strongest first, by the words of `SECURITY_WORDS` and `COMPRESSION_WORDS`; empty: it does not say. `broker`: the broker that
    runs on it.
    """

    name: str
    public_key: bytes
    endpoints: tuple[tuple[str, int], ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    serial: int = 0
    curve_key: str | None = None
    security: tuple[str, ...] = ()
    compression: tuple[str, ...] = ()
    broker: BrokerPlace | None = None

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
    """The registry prefix of the node records of one network; what follows is the node's name."""
    return network_prefix(network) + b"nodes/"


def node_key(network: str, name: str) -> bytes:
    """The registry key of one node's record."""
    return nodes_prefix(network) + name.encode()


def addresses_prefix(network: str) -> bytes:
    """The registry prefix of the claims to overlay addresses; what follows is the address."""
    return network_prefix(network) + b"addresses/"


def address_key(network: str, address: InterfaceAddress) -> bytes:
    """The registry key that says who has one overlay address."""
    return addresses_prefix(network) + str(address.ip).encode()


def encode_record(record: NodeRecord) -> bytes:
    """The record as JSON. Raises `LocalError` when the others would refuse it."""
    fields: dict[str, object] = {
        "v": RECORD_VERSION,
        "name": record.name,
        "public_key": encode_key(record.public_key),
        "endpoints": [[host, port] for host, port in record.endpoints],
        "addresses": [str(address) for address in record.addresses],
        "prefixes": [str(prefix) for prefix in record.prefixes],
    }
    # Left out where they say nothing: such a record is the one that was written before these fields were.
    more = {
        "serial": record.serial,
        "curve_key": record.curve_key,
        "security": list(record.security),
        "compression": list(record.compression),
        "broker": None if record.broker is None else record.broker.fields(),
    }
    fields |= {key: field for key, field in more.items() if field}
    value = json.dumps(fields, separators=(",", ":")).encode()
    read = decode_record(record.name, value)
    if read != record:
        problem = read.value if isinstance(read, RecordProblem) else "a field does not survive the way"
        raise LocalError(
            f"the record of node {record.name} would not be read by the others",
            f"{problem}: {len(value)} bytes of {MAX_RECORD_BYTES}, at most {MAX_LIST_ITEMS} addresses, endpoints and "
            f"prefixes each; a prefix has {MIN_PREFIX_BITS[4]} bits or more (IPv6: {MIN_PREFIX_BITS[6]}), or is a default "
            "route; nothing is loopback, multicast or reserved; words offered are known, once each",
            "change [interface] addresses, [node] prefixes or [listen] advertise",
        )
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
        addresses = _items(fields, "addresses", _address)
        broker = fields.get("broker")
        return NodeRecord(
            name=own_name,
            public_key=_key(fields.get("public_key")),
            endpoints=_items(fields, "endpoints", _endpoint),
            addresses=addresses,
            prefixes=_items(fields, "prefixes", read_prefix),
            serial=_serial(fields.get("serial", 0)),
            curve_key=_curve_key(fields.get("curve_key")),
            security=_words(fields, "security", SECURITY_WORDS),
            compression=_words(fields, "compression", COMPRESSION_WORDS),
            broker=None if broker is None else read_place(broker, [each.ip for each in addresses]),
        )
    except (ValueError, LocalError):
        return RecordProblem.BAD_FIELD


def read_host_address(item: object) -> IPv4Address | IPv6Address:
    """An address that a host may have in the overlay, by its one canonical text. Raises ValueError."""
    text = _text(item)
    address = ip_address(text)
    _refuse_special(text, address)
    if str(address) != text:
        raise ValueError("not the usual text of the address")
    return address


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_CHARS:
        raise ValueError("not a short text")
    return value


def _key(value: object) -> bytes:
    return of_high_order(decode_key(_text(value)))


def _serial(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SERIAL:
        raise ValueError("not a serial number")
    return value


def _curve_key(value: object) -> str | None:
    return None if value is None else read_curve_key(value)


def _words(fields: dict[str, object], key: str, known: frozenset[str]) -> tuple[str, ...]:
    """The words that we know, each once; a later version may know more."""
    return tuple(dict.fromkeys(word for word in _items(fields, key, _text) if word in known))


def _endpoint(item: object) -> tuple[str, int]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError("not a pair")
    host, port = item
    if not _is_host(_text(host)) or type(port) is not int or not 0 < port < 65536:
        raise ValueError("not a host and a port")
    return host, port


def _is_host(host: str) -> bool:
    """Whether a text is a numeric address without a zone, or a host name."""
    labels = host.removesuffix(".").split(".")
    if ":" in host or labels[-1].isdigit():  # a name's last label is never all digits (RFC 3696, section 2)
        address = ip_address(host)  # raises ValueError
        return "%" not in host and not (address.is_multicast or address.is_unspecified)
    return len(host) <= MAX_HOST_CHARS and all(_LABEL.match(label) for label in labels)


def _address(item: object) -> InterfaceAddress:
    text = _text(item)
    address = ip_interface(text)
    _refuse_special(text, address.ip)
    return address


def read_prefix(item: object) -> Prefix:
    """A prefix that may be routed into the tunnel, by its text. Raises ValueError."""
    text = _text(item)
    prefix = ip_network(text)
    if prefix.prefixlen:
        if prefix.prefixlen < MIN_PREFIX_BITS[prefix.version]:
            raise ValueError("much of the world")
        _refuse_special(text, prefix.network_address)
    return prefix


def _refuse_special(text: str, address: IPv4Address | IPv6Address) -> None:
    """Raises ValueError for what is no address of a host in an overlay network. `text`: as which it was read."""
    if "%" in text or (isinstance(address, IPv6Address) and address.ipv4_mapped is not None):
        raise ValueError("an address of one link, or of another family")
    is_reserved = address.version == 4 and address.is_reserved  # of IPv6 that is nearly everything
    if address.is_unspecified or address.is_loopback or address.is_multicast or is_reserved:
        raise ValueError("no address of a host")


def _items(fields: dict[str, object], key: str, read: Callable[[object], Item]) -> tuple[Item, ...]:
    items = fields.get(key, [])
    if not isinstance(items, list) or len(items) > MAX_LIST_ITEMS:
        raise ValueError("not a short list")
    return tuple(read(item) for item in items)
