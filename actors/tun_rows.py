"""Reading rows of like UDP packets from a TUN device: each read puts headers and payload where those of the others are.

A read of a short packet costs 0.8 us, and to make a packet of it, find its peer and put it in a record costs five times that.
So where the last packets were alike the next are expected to be, and are read into memory that has a place for the headers and a
place for the payload of each; what comes of it is one super-packet (`protocols.datagram_rows`), made at one go. What turns out
not to be alike costs one copy more than the general way.

Responsible for the memory, and for expecting rows where there have been some. Not responsible for the general way (`tun`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from holloway.actors.tun_offload import arrived
from holloway.protocols.datagram_rows import MAX_ROW_PACKETS, RowShape, rows_by_flow, shape_of, super_packet
from holloway.protocols.packets import Packet, UnfinishedPacket

LEAST_ALIKE = 4
"""So many packets make a row, or let one be expected."""
SHAPES = 4
"""For so many shapes of row the slices are kept."""
DISAPPOINTED = 32
"""Batches for which nothing is expected after packets that looked alike and were not."""
OVERFLOW_BYTES = 65_536 + 16  # more than any IP packet and virtio header, as in `tun`


class _Memory(NamedTuple):
    """What a row is read into, and the same cut into what one read after the other is given."""

    heads: memoryview
    payloads: memoryview
    places: list[tuple[memoryview, memoryview, memoryview]]


class RowReader:
    """Rows of one device with virtio headers."""

    __slots__ = ("_known", "_overflow", "_shape", "_skip")

    def __init__(self) -> None:
        self._shape: RowShape | None = None
        self._skip = 0
        self._known: dict[RowShape, _Memory] = {}
        self._overflow = memoryview(b"")

    @property
    def is_expected(self) -> bool:
        """Whether the next packets are most likely a row."""
        return self._shape is not None

    def note(self, packets: Sequence[Packet]) -> None:
        """At least `LEAST_ALIKE` packets that the general way has read at one go: they tell what is to be expected."""
        if self._skip:
            self._skip -= 1
            return
        last, earlier = packets[-1], packets[-LEAST_ALIKE]
        if isinstance(last, UnfinishedPacket) and isinstance(earlier, UnfinishedPacket) and len(last) == len(earlier):
            self._shape = shape_of(last)

    def read(self, descriptor: int) -> tuple[list[Packet | None], int]:
        """Take a row, and what ended it: at most `MAX_ROW_PACKETS` packets and one, in order, and how many bytes. None stands for a
        malformed packet.

        Raises `OSError` when the first read does.
        """
        shape = self._shape
        assert shape is not None
        heads, payloads, places = self._known.get(shape) or self._memory(shape)
        readv, whole = os.readv, shape.read_bytes
        count = 0
        odd = b""
        try:
            for place in places:
                size = readv(descriptor, place)
                if size != whole:
                    odd = b"".join((place[0], place[1], place[2][: max(0, size - whole)]))[:size]
                    break
                count += 1
        except OSError:
            if not count:
                raise
        found = self._made(shape, heads[: count * shape.head_bytes], payloads[: count * shape.size], count)
        if odd:
            found.append(arrived(odd))
            if count < LEAST_ALIKE:
                self._shape = None
        return found, count * whole + len(odd)

    def _made(self, shape: RowShape, heads: memoryview, payloads: memoryview, count: int) -> list[Packet | None]:
        found: list[Packet | None] = []
        left: Sequence[int] = range(count)
        if count >= LEAST_ALIKE:
            copied = bytearray(heads)
            row = super_packet(shape, copied, payloads)
            if row is not None:
                return [row]
            parted = rows_by_flow(shape, copied, payloads, LEAST_ALIKE)
            if parted is not None:
                rows, left = parted
                found += rows
            elif count > MAX_ROW_PACKETS // 2:  # fewer may be the end of several rows
                self._shape, self._skip = None, DISAPPOINTED
        head, size = shape.head_bytes, shape.size
        for each in left:
            read = heads[each * head : (each + 1) * head], payloads[each * size : (each + 1) * size]
            found.append(arrived(b"".join(read)))
        return found

    def _memory(self, shape: RowShape) -> _Memory:
        if len(self._known) >= SHAPES:
            del self._known[next(iter(self._known))]
        if not self._overflow:
            self._overflow = memoryview(bytearray(OVERFLOW_BYTES))
        head, size, overflow = shape.head_bytes, shape.size, self._overflow
        heads = memoryview(bytearray(MAX_ROW_PACKETS * head))
        payloads = memoryview(bytearray(MAX_ROW_PACKETS * size))
        places = [
            (heads[each * head : (each + 1) * head], payloads[each * size : (each + 1) * size], overflow)
            for each in range(MAX_ROW_PACKETS)
        ]
        made = self._known[shape] = _Memory(heads, payloads, places)
        return made
