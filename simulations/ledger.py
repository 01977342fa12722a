"""The ledger of inner packets: who put which into the tunnel, and what came out where.

It gives the packets their serial numbers and judges what leaves the tunnel. A super-packet counts for each of its segments,
because a receiver may join segments otherwise than the sender had them. Not responsible for when packets are made, nor for
what they look like (`inner_packets`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from holloway.protocols.packets import Packet, destination, source
from holloway.simulations.inner_packets import (
    FORMS,
    MAX_SEGMENTS,
    MAX_SUPER_BYTES,
    MIN_SEGMENT_BYTES,
    Form,
    as_seen,
    plain,
    read,
    super_packet,
)
from holloway.simulations.oracles import (
    delivered_to_the_addressee,
    hold,
    inner_destination_is_ours,
    inner_source_belongs_to_sender,
    nothing_altered_or_invented,
    nothing_delivered_twice,
)


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
    source: bytes
    destination: bytes


class Ledger:
    """All inner packets of one run."""

    def __init__(self) -> None:
        self.count = 0
        self.delivered_total = 0
        self._on_their_way: dict[int, tuple[bytes, str, str]] = {}
        self._stolen: dict[int, None] = {}
        self._delivered: dict[int, None] = {}
        self._supers = 0
        self._sent_bytes: dict[tuple[str, str, Form], int] = {}

    def make(
        self,
        purpose: Purpose,
        size: int,
        ends: tuple[bytes, bytes],
        *,
        maker: str,
        addressee: str,
        is_stolen: bool = False,
    ) -> bytes:
        """A new IPv4 packet of `size` bytes from the first of `ends` to the second, made on the node `maker`, that is to be
        sealed for the node `addressee`, or for nobody in particular if that is empty.
        `is_stolen`: with an address that is not its own, so that it should not arrive.
        """
        serial = self.count
        self.count += 1
        if is_stolen:
            self._stolen[serial] = None
        packet = plain(purpose, serial, size, *ends)
        self._on_their_way[serial] = (packet, maker, addressee)
        return packet

    def make_batch(
        self,
        purpose: Purpose,
        sizes: Sequence[int],
        own: Mapping[int, bytes],
        peer: Mapping[int, bytes],
        *,
        maker: str,
        addressee: str,
    ) -> list[Packet]:
        """New packets in super-packets as long as may be, of each form in turn. `own` and `peer` are addresses by version of
        IP. Segments have the length of the longest of `sizes`, the last of each super-packet its own.
        """
        batch: list[Packet] = []
        most = max(1, min(MAX_SEGMENTS, MAX_SUPER_BYTES // max(MIN_SEGMENT_BYTES, *sizes, 1)))
        for at in range(0, len(sizes), most):
            group = [max(MIN_SEGMENT_BYTES, size) for size in sizes[at : at + most]]
            group = [max(group)] * (len(group) - 1) + group[-1:]
            form, first = FORMS[self._supers % len(FORMS)], self.count
            self._supers += 1
            self.count += len(group)
            flow = (maker, addressee, form)
            sent = self._sent_bytes.get(flow, 0)
            version, header_bytes = form.version, form.header_bytes
            packet = super_packet(
                form,
                purpose,
                first,
                group,
                own[version],
                peer[version],
                identification=first & 0xFFFF,
                sequence=sent & 0xFFFF_FFFF,
            )
            self._sent_bytes[flow] = sent + sum(group) - len(group) * header_bytes
            segments = packet.segments()
            for serial, segment in enumerate(segments, first):
                self._on_their_way[serial] = (as_seen(segment), maker, addressee)
            batch.append(packet if len(segments) > 1 else segments[0])
        return batch

    def ends(self, serial: int) -> tuple[str, str]:
        """Maker and addressee of a packet that is still on its way."""
        return self._on_their_way[serial][1:]

    def missing(self, serials: Iterable[int]) -> list[int]:
        """Those of these packets that have not come out, and should have."""
        return [serial for serial in serials if serial in self._on_their_way and serial not in self._stolen]

    def deliver(
        self,
        packet: bytes,
        *,
        receiver: str,
        addresses: Mapping[str, tuple[bytes, ...]],
        session: str | None = None,
    ) -> Delivered:
        """Judge a packet that left the tunnel at `receiver`. `addresses` are the inner ones of the nodes; `session` is
        the peer whose session it came through, where that is known.

        Raises `PropertyViolated`.
        """
        known = read(packet)
        if known is None:
            hold(nothing_altered_or_invented, None, packet, receiver)
        assert known is not None
        purpose, serial = known
        hold(nothing_delivered_twice, serial in self._delivered, serial, receiver)
        sent, maker, addressee = self._on_their_way.pop(serial, (None, receiver, receiver))
        addressee = addressee or receiver
        hold(nothing_altered_or_invented, sent, as_seen(packet), receiver)
        hold(delivered_to_the_addressee, addressee, receiver, serial)
        sender = maker if session is None else session
        ends = source(packet) or b"", destination(packet) or b""
        hold(inner_source_belongs_to_sender, ends[0], addresses[sender], sender)
        hold(inner_destination_is_ours, ends[1], addresses[receiver], receiver)
        self._delivered[serial] = None
        self.delivered_total += 1
        return Delivered(serial, Purpose(purpose), len(packet), maker, *ends)
