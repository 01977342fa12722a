"""The routing table: which target has the longest prefix that an address is in.

Not responsible for kernel routes, nor for who may claim a prefix. One prefix has one target, as WireGuard's allowed-ips:
adding it again moves it.

One dict for each prefix length in use, asked from the longest down, and in front of them a cache of whole addresses,
which answers nearly every packet with one look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Generic, TypeAlias, TypeVar

from holloway.protocols.errors import LocalError

T = TypeVar("T")
Prefix: TypeAlias = IPv4Network | IPv6Network

MAX_ROUTES = 65_536
FLOW_CACHE_LIMIT = 8192  # some 1.5 MB; forgotten as a whole when full, so a scan costs a few misses and no bookkeeping

_ADDRESS_BITS = {4: 32, 16: 128}  # bytes of an address -> bits
_VERSION_BYTES = {4: 4, 6: 16}  # IP version -> bytes of an address


class RouteTable(Generic[T]):
    """Prefixes of both families and their targets."""

    __slots__ = ("_flows", "_lengths", "_routes", "generation", "known")

    def __init__(self) -> None:
        self.generation = 0
        """Grows with every change: whoever remembers answers forgets them when it has."""
        self._routes: Final[dict[Prefix, T]] = {}
        # For each size of address: host bits of a prefix -> network bits as a number -> target. Fewest host bits, which
        # is the longest prefix, first.
        self._lengths: Final[dict[int, dict[int, dict[int, T]]]] = {4: {}, 16: {}}
        self._flows: Final[dict[bytes, T | None]] = {}
        self.known: Final[Callable[[bytes], T | None]] = self._flows.get
        """The target for an address, if it is remembered; None says nothing: `lookup` does. Not a call of Python."""

    def __len__(self) -> int:
        """How many prefixes there are."""
        return len(self._routes)

    def add(self, prefix: Prefix, target: T) -> None:
        """Route a prefix to a target, taking it from the target it had.

        Raises LocalError when there are MAX_ROUTES other prefixes: whoever adds what others ask for looks at `len` first.
        """
        if len(self._routes) >= MAX_ROUTES and prefix not in self._routes:
            raise LocalError("no route added", f"the table is full with {MAX_ROUTES} prefixes", "merge some prefixes")
        size, host_bits, number = _place(prefix)
        lengths = self._lengths[size]
        if host_bits not in lengths:
            lengths[host_bits] = {}
            self._lengths[size] = dict(sorted(lengths.items()))
        self._lengths[size][host_bits][number] = target
        self._routes[prefix] = target
        self._flows.clear()
        self.generation += 1

    def remove(self, prefix: Prefix) -> None:
        """Route a prefix nowhere. One that is not in the table is fine."""
        if prefix not in self._routes:
            return
        del self._routes[prefix]
        size, host_bits, number = _place(prefix)
        lengths = self._lengths[size]
        del lengths[host_bits][number]
        if not lengths[host_bits]:
            del lengths[host_bits]
        self._flows.clear()
        self.generation += 1

    def remove_target(self, target: T) -> None:
        """Remove every prefix of a target (whatever is equal to it). One that has none is fine."""
        for prefix in [prefix for prefix, owner in self._routes.items() if owner == target]:
            self.remove(prefix)

    def lookup(self, address: bytes) -> T | None:
        """The target of the longest prefix that `address` (4 or 16 bytes) is in; None for no prefix or another length."""
        try:
            return self._flows[address]
        except KeyError:
            return self._search(address)

    def entries(self) -> list[tuple[Prefix, T]]:
        """Every prefix with its target: IPv4 before IPv6, by address, and of two that begin alike the shorter first."""
        return sorted(self._routes.items(), key=lambda entry: (entry[0].version, entry[0]))

    def _search(self, address: bytes) -> T | None:
        lengths = self._lengths.get(len(address))
        if lengths is None:
            return None
        number = int.from_bytes(address, "big")
        found: T | None = None
        for host_bits, targets in lengths.items():
            if number >> host_bits in targets:
                found = targets[number >> host_bits]
                break
        if len(self._flows) >= FLOW_CACHE_LIMIT:
            self._flows.clear()
        self._flows[address] = found
        return found


def _place(prefix: Prefix) -> tuple[int, int, int]:
    """Bytes of an address, host bits and network bits of a prefix."""
    size = _VERSION_BYTES[prefix.version]
    host_bits = _ADDRESS_BITS[size] - prefix.prefixlen
    return size, host_bits, int(prefix.network_address) >> host_bits
