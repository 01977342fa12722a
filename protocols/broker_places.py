"""What a node's record says of the control plane: the CURVE key of its agent, and where a broker listens on it.

Hostile input: reading raises ValueError or LocalError, which `membership` makes into a reason. Not responsible for who may have a
broker (the network's settings name them), nor for what becomes of a key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from holloway.protocols.errors import HandshakeFailed
from holloway.protocols.hostile_json import integer, object_of, text
from holloway.protocols.keys import StaticKey
from holloway.protocols.z85 import KEY_CHARS, decode_z85

MAX_PORT = 65_535
_MAX_ADDRESS_CHARS = 45  # the longest text of an IPv6 address (RFC 4291, section 2.2, form 3)
_ANY_KEY = StaticKey(bytes(range(32)))
"""Guards no secret: a point of low order gives itself away with any key (RFC 7748, section 6.1)."""


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """A broker on a node: one of the node's overlay addresses, TCP ports for commands and for files, its CURVE key in Z85."""

    address: IPv4Address | IPv6Address
    command_port: int
    file_port: int
    curve_key: str

    @property
    def where(self) -> str:
        """HOST:PORT for commands, as it is given to `--host`."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.command_port}"

    def fields(self) -> dict[str, object]:
        """As it stands in a record."""
        return {
            "address": str(self.address),
            "command_port": self.command_port,
            "file_port": self.file_port,
            "curve_key": self.curve_key,
        }


def read_place(value: object, addresses: Collection[IPv4Address | IPv6Address] | None = None) -> BrokerPlace:
    """A broker of a node that has those overlay addresses; None: whichever. Raises ValueError, LocalError."""
    fields = object_of(value)
    written = text(fields, "address", _MAX_ADDRESS_CHARS)
    address = ip_address(written)
    if str(address) != written or not (addresses is None or address in addresses):
        raise ValueError("address: not one of the node's")
    return BrokerPlace(
        address,
        integer(fields, "command_port", 1, MAX_PORT),
        integer(fields, "file_port", 1, MAX_PORT),
        read_curve_key(fields.get("curve_key")),
    )


def read_curve_key(value: object) -> str:
    """A CURVE key in Z85 whose secrets not everybody knows. Raises ValueError, LocalError."""
    if not isinstance(value, str) or len(value) != KEY_CHARS:
        raise ValueError("not a CURVE key")
    of_high_order(decode_z85(value))
    return value


def of_high_order(key: bytes) -> bytes:
    """That X25519 key. Raises ValueError for one of low order."""
    try:
        _ANY_KEY.exchange(key)
    except HandshakeFailed:
        raise ValueError("a key whose secrets everybody knows") from None
    return key
