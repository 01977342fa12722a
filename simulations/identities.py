"""Who the simulated nodes are: their names, keys and addresses, all of them from the seed. Not responsible for nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from holloway.protocols.addresses import Address
from holloway.protocols.demux import index_secret
from holloway.protocols.keys import StaticKey
from holloway.simulations.streams import stream

PORT = 1099
NETWORK4: Final = IPv4Network("10.77.0.0/16")
NETWORK6: Final = IPv6Network("fd77::/64")
"""Where the addresses inside are taken from."""
MAX_FLOATING = 16


def floating_address(number: int) -> IPv4Address:
    """The `number`th floating address of a network, counted from 0. No node has it for its own."""
    return NETWORK4.network_address + (254 << 8) + number + 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What others know of a node, and what it is configured with."""

    name: str
    private: bytes = field(repr=False)
    static: StaticKey = field(repr=False)
    secret: bytes = field(repr=False)
    inner: bytes
    inner6: bytes
    configured: Address

    @property
    def inside(self) -> dict[int, bytes]:
        """Its addresses inside, by version of IP."""
        return {4: self.inner, 6: self.inner6}


def identity(seed: int, number: int, name: str) -> Identity:
    """The node `name`, the `number`th of its world."""
    private = stream(seed, name, "key").randbytes(32)
    high, low = divmod(number + 1, 256)
    address = (f"198.18.{high}.{low}", PORT)  # RFC 2544's network for benchmarks
    inner = bytes((10, 77, high, low))
    inner6 = NETWORK6.network_address.packed[:-4] + inner  # as an authority gives them
    return Identity(name, private, StaticKey(private), index_secret(private), inner, inner6, address)


def preshared(first: bytes, second: bytes) -> bytes:
    """The pre-shared key of two nodes, 32 bytes, from their public keys."""
    return b"".join(sorted((first, second)))[16:48]
