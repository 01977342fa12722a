"""Sorts packets of the host by the peer they are for.

Owns the routing table of the overlay: the prefixes of the peers that run, and our own, which lead nowhere and so keep
anybody with a shorter prefix around them from sending in our name. Not responsible for kernel routes (`kernel_routes`),
for who may have which prefix (`wanted`), nor for judging what peers send (`protocols.inspection`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

from holloway.protocols.events import DropReason
from holloway.protocols.inspection import LocalPrefixes
from holloway.protocols.packets import IPV4_HEADER_BYTES, Packet, SuperPacket, destination
from holloway.protocols.routes import RouteTable

if TYPE_CHECKING:
    from holloway.actors.running_peer import RunningPeer

Prefix: TypeAlias = IPv4Network | IPv6Network


class Router:
    """Prefix to peer session. `local` are the inner addresses of this node, and the networks behind it."""

    def __init__(self, local: Iterable[Prefix]) -> None:
        local = tuple(local)
        self.routes: RouteTable[RunningPeer | None] = RouteTable()
        for prefix in local:
            self.routes.add(prefix, None)
        self._known = self.routes.known
        self.local = LocalPrefixes(local)
        self.drops: Counter[str] = Counter()
        self.superseded = 0
        """Acknowledgements that need not be carried (`protocols.acknowledgements`)."""
        self._owners: dict[Prefix, RunningPeer] = {}
        self._prefixes: dict[RunningPeer, tuple[Prefix, ...]] = {}
        self._borrowed: set[Prefix] = set()

    def assign(self, peer: RunningPeer, prefixes: tuple[Prefix, ...]) -> None:
        """Route exactly these prefixes to `peer`, taking them from whoever has them."""
        for prefix in set(self._prefixes.get(peer, ())).difference(prefixes):
            self._take(prefix, peer)
        self._prefixes[peer] = prefixes
        for prefix in prefixes:
            if prefix not in self._borrowed and self._owners.get(prefix) is not peer:
                self._owners[prefix] = peer
                self.routes.add(prefix, peer)

    def remove(self, peer: RunningPeer) -> None:
        """Route nothing to `peer` any more. One that has nothing is fine."""
        for prefix in self._prefixes.pop(peer, ()):
            self._take(prefix, peer)

    def borrow(self, prefix: Prefix, is_ours: Callable[[], bool]) -> None:
        """One address is this node's for as long as `is_ours` says so, whoever had it; and then nobody's until `give_back`."""
        self._borrowed.add(prefix)
        self._owners.pop(prefix, None)
        self.local.borrow(prefix.network_address.packed, is_ours)
        self.routes.add(prefix, None)

    def give_back(self, prefix: Prefix) -> None:
        """Undo `borrow`: the address is the peer's to which it was assigned last, if any. One not borrowed is fine."""
        if prefix not in self._borrowed:
            return
        self._borrowed.discard(prefix)
        self.local.give_back(prefix.network_address.packed)
        owner = next((peer for peer, prefixes in self._prefixes.items() if prefix in prefixes), None)
        if owner is None:
            self.routes.remove(prefix)
        else:
            self._owners[prefix] = owner
            self.routes.add(prefix, owner)

    def _take(self, prefix: Prefix, peer: RunningPeer) -> None:
        if self._owners.get(prefix) is peer:  # otherwise it is another's by now
            del self._owners[prefix]
            self.routes.remove(prefix)

    def find(self, packet: Packet) -> RunningPeer | None:
        """The peer that a packet is for. None when there is none: then it is counted in `drops`."""
        data = packet.data if isinstance(packet, SuperPacket) else packet
        if len(data) >= IPV4_HEADER_BYTES and data[0] >> 4 == 4:
            address: bytes | None = bytes(data[16:20])
            assert address is not None
            peer = self._known(address)
            if peer is not None:
                return peer
        else:
            address = destination(data)
        if address is None:
            self.drops[DropReason.NOT_IP.value] += 1
            return None
        peer = self.routes.lookup(address)
        if peer is None:
            self.drops[DropReason.NO_ROUTE.value] += 1
        return peer

    def sort(self, packets: Iterable[Packet]) -> dict[RunningPeer, list[Packet]]:
        """The packets of each peer in their order. What has no peer is counted in `drops`."""
        batches: dict[RunningPeer, list[Packet]] = {}
        batch: list[Packet] = []
        find, last = self.find, b""  # an IPv4 address whose packets go into `batch`
        for packet in packets:
            data = packet.data if isinstance(packet, SuperPacket) else packet
            if last and data[16:20] == last and data[0] >> 4 == 4:
                batch.append(packet)  # packets come in long rows to one address
                continue
            peer = find(packet)
            if peer is None:
                continue
            batch = batches.setdefault(peer, [])
            batch.append(packet)
            last = bytes(data[16:20]) if data[0] >> 4 == 4 else b""
        return batches
