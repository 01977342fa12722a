"""Sorts packets of the host by the peer they are for.

Owns the routing table of the overlay. Not responsible for kernel routes (`netlink`) nor for judging what peers send
(`protocols.inspection`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from holloway.protocols.events import DropReason
from holloway.protocols.inspection import LocalPrefixes
from holloway.protocols.packets import Packet, SuperPacket, destination
from holloway.protocols.routes import RouteTable

if TYPE_CHECKING:
    from holloway.actors.peer_session import PeerSession


class Router:
    """Prefix to peer session. `local` are the inner addresses of this node."""

    def __init__(self, local: Iterable[IPv4Network | IPv6Network]) -> None:
        self.routes: RouteTable[PeerSession] = RouteTable()
        self.local = LocalPrefixes(local)
        self.drops: Counter[str] = Counter()

    def sort(self, packets: Iterable[Packet]) -> dict[PeerSession, list[Packet]]:
        """The packets of each peer in their order. What has no peer is counted in `drops`."""
        batches: dict[PeerSession, list[Packet]] = {}
        lookup = self.routes.lookup
        for packet in packets:
            address = destination(packet.data if isinstance(packet, SuperPacket) else packet)
            if address is None:
                self.drops[DropReason.NOT_IP.value] += 1
                continue
            peer = lookup(address)
            if peer is None:
                self.drops[DropReason.NO_ROUTE.value] += 1
            elif peer in batches:
                batches[peer].append(packet)
            else:
                batches[peer] = [packet]
        return batches
