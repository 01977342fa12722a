"""The ledger of inner packets: who put which into the tunnel, and what came out where.

It makes the packets, each with a serial number and a marker inside, and judges what leaves the tunnel. Not responsible for
when packets are made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from holloway.simulations.oracles import (
    MARKER,
    delivered_to_the_addressee,
    hold,
    inner_destination_is_ours,
    inner_source_belongs_to_sender,
    nothing_altered_or_invented,
    nothing_delivered_twice,
)

_HEADER = struct.Struct(">BBHHHBBH4s4s")
_TAIL = struct.Struct(">BQ")  # what a packet is for, serial number
_EXPERIMENTAL_PROTOCOL = 253  # RFC 3692, section 2.1
_FILLER = 0xA5


class Purpose(IntEnum):
    """What the receiver of an inner packet does with it."""

    ONE_WAY = 0
    QUESTION = 1
    ANSWER = 2


@dataclass(frozen=True, slots=True)
class Delivered:
    """A packet that came out rightly."""

    serial: int
    purpose: Purpose
    size: int
    maker: str
    """The node whose program made it."""


class Ledger:
    """All inner packets of one run."""

    def __init__(self) -> None:
        self.count = 0
        self.delivered_total = 0
        self._on_their_way: dict[int, tuple[bytes, str, str]] = {}
        self._stolen: dict[int, None] = {}
        self._delivered: dict[int, None] = {}

    def make(
        self,
        purpose: Purpose,
        size: int,
        source: bytes,
        destination: bytes,
        *,
        maker: str,
        addressee: str,
        is_stolen: bool = False,
    ) -> bytes:
        """A new IPv4 packet of `size` bytes, made on the node `maker`, that is to be sealed for the node `addressee`.
        `is_stolen`: with an address that is not its own, so that it should not arrive.
        """
        serial = self.count
        self.count += 1
        if is_stolen:
            self._stolen[serial] = None
        header = _HEADER.pack(0x45, 0, size, 0, 0, 64, _EXPERIMENTAL_PROTOCOL, 0, source, destination)
        packet = (header + _TAIL.pack(purpose, serial) + MARKER).ljust(size, bytes((_FILLER,)))
        self._on_their_way[serial] = (packet, maker, addressee)
        return packet

    def missing(self, serials: Iterable[int]) -> list[int]:
        """Those of these packets that have not come out, and should have."""
        return [serial for serial in serials if serial in self._on_their_way and serial not in self._stolen]

    def deliver(
        self,
        packet: bytes,
        *,
        receiver: str,
        receiver_address: bytes,
        addresses: Mapping[str, bytes],
        session: str | None = None,
    ) -> Delivered:
        """Judge a packet that left the tunnel at `receiver`. `addresses` are the inner ones of the nodes; `session` is
        the peer whose session it came through, where that is known.

        Raises `PropertyViolated`.
        """
        if len(packet) < _HEADER.size + _TAIL.size:
            hold(nothing_altered_or_invented, None, packet, receiver)
        purpose, serial = _TAIL.unpack_from(packet, _HEADER.size)
        hold(nothing_delivered_twice, serial in self._delivered, serial, receiver)
        sent, maker, addressee = self._on_their_way.pop(serial, (None, receiver, receiver))
        hold(nothing_altered_or_invented, sent, packet, receiver)
        hold(delivered_to_the_addressee, addressee, receiver, serial)
        sender = maker if session is None else session
        hold(inner_source_belongs_to_sender, packet[12:16], addresses[sender], sender)
        hold(inner_destination_is_ours, packet[16:20], receiver_address, receiver)
        self._delivered[serial] = None
        self.delivered_total += 1
        return Delivered(serial, Purpose(purpose), len(packet), maker)
