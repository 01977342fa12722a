"""Judges inner packets: the source must belong to the peer that sent them, the destination to us.

This is WireGuard's cryptokey routing seen from inside, plus a check of the destination. Not responsible for choosing
the peer of an outgoing packet: that is `routes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

from holloway.protocols.events import DropReason
from holloway.protocols.packets import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from holloway.protocols.routes import RouteTable

Target = TypeVar("Target")

VERDICTS = 4096
"""Remembered pairs of addresses; when full they are forgotten and learned again."""


class LocalPrefixes:
    """The inner addresses of this node: its own, and the prefixes behind it; and those that it has for a while."""

    def __init__(self, prefixes: Iterable[IPv4Network | IPv6Network]) -> None:
        self._table: RouteTable[bool] = RouteTable()
        self._borrowed: dict[bytes, Callable[[], bool]] = {}
        for prefix in prefixes:
            self._table.add(prefix, True)

    def borrow(self, address: bytes, is_ours: Callable[[], bool]) -> None:
        """Have an address, 4 or 16 bytes, for as long as `is_ours` says so: it is asked each time."""
        self._borrowed[address] = is_ours

    def give_back(self, address: bytes) -> None:
        """Undo `borrow`. An address that is not borrowed is fine."""
        self._borrowed.pop(address, None)

    def is_lasting(self, address: bytes) -> bool:
        """Whether the answer for this address stays the same until the routes change."""
        return address not in self._borrowed

    def __contains__(self, address: bytes) -> bool:
        is_ours = self._borrowed.get(address)
        return self._table.lookup(address) is not None if is_ours is None else is_ours()


class Inspector(Generic[Target]):
    """Judges the packets of one peer. `target` is what the route table gives for that peer's prefixes."""

    def __init__(self, routes: RouteTable[Target], target: Target, local: LocalPrefixes) -> None:
        self._routes, self._target, self._local = routes, target, local
        self._verdicts: dict[bytes, DropReason | None] = {}
        self._generation = routes.generation

    def __call__(self, packet: bytes) -> DropReason | None:
        """`None` to deliver the packet, or why not. Takes any bytes."""
        if self._generation != self._routes.generation:
            self._verdicts.clear()
            self._generation = self._routes.generation
        # Source and destination in one piece: 8 bytes of IPv4 or 32 of IPv6.
        version = packet[0] >> 4 if packet else 0
        if version == 4 and len(packet) >= IPV4_HEADER_BYTES:
            pair = packet[12:20]
        elif version == 6 and len(packet) >= IPV6_HEADER_BYTES:
            pair = packet[8:40]
        else:
            return DropReason.MALFORMED
        try:
            return self._verdicts[pair]
        except KeyError:
            return self._judge(pair)

    def _judge(self, pair: bytes) -> DropReason | None:
        half = len(pair) // 2
        verdict: DropReason | None = None
        if self._routes.lookup(pair[:half]) is not self._target:
            verdict = DropReason.SOURCE_NOT_ALLOWED
        elif pair[half:] not in self._local:
            verdict = DropReason.DESTINATION_NOT_OURS
        if not self._local.is_lasting(pair[half:]):
            return verdict
        if len(self._verdicts) >= VERDICTS:
            self._verdicts.clear()
        self._verdicts[pair] = verdict
        return verdict
