"""What the network gave at once: one datagram, or a run of them.

Not responsible for receiving, nor for what datagrams mean.
"""

from __future__ import annotations

from struct import iter_unpack
from typing import NamedTuple

from holloway.protocols.addresses import Address

SHAPES = 8
"""For so many lengths of record a `RunMemory` keeps its slices; a bulk flow has one or two."""


class RunMemory:
    """Room for a run, used for one run after another. It keeps its slices: to make them costs more than to copy what they hold."""

    __slots__ = ("_parts", "view")

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        self._parts: dict[tuple[int, int, int, int], list[memoryview]] = {}

    def parts(self, at: int, stride: int, count: int, skip: int) -> list[memoryview]:
        """Of `count` datagrams of `stride` bytes from byte `at` on, what is behind the first `skip` bytes of each."""
        shape = at, stride, count, skip
        known = self._parts.get(shape)
        if known is None:
            if len(self._parts) >= SHAPES:
                del self._parts[next(iter(self._parts))]
            view, end = self.view, at + count * stride
            known = [view[begin + skip : begin + stride] for begin in range(at, end, stride)]
            self._parts[shape] = known
        return known


class Arrival(NamedTuple):
    """What one receive call gave: one datagram, or a run of equally long ones from one source (UDP GRO).

    `data` holds the datagrams back to back; `stride` is the length of each but the last, which may be shorter, and
    equals `len(data)` for a lone one. A `memoryview` is good until the next `receive` on the same port. `memory`: at the
    beginning of which it lies, if that is known.
    """

    source: Address
    data: bytes | memoryview
    stride: int
    memory: RunMemory | None = None

    @property
    def datagram_count(self) -> int:
        """How many datagrams; never 0: an empty datagram is one too."""
        return -(-len(self.data) // self.stride) if self.stride else 1

    def datagrams(self) -> list[bytes]:
        """The datagrams as separate `bytes`, in order of arrival."""
        return cut(self.data, self.stride)

    def kept(self) -> Arrival:
        """The same in memory of its own, good for as long as it is held."""
        return self if isinstance(self.data, bytes) else Arrival(self.source, bytes(self.data), self.stride)


def lone(datagram: bytes, source: Address) -> Arrival:
    """One datagram that came alone."""
    return Arrival(source, datagram, len(datagram))


def cut(data: bytes | memoryview, stride: int) -> list[bytes]:
    """Datagrams of `stride` bytes that lie back to back, the last perhaps shorter; an empty one is one too."""
    if stride >= len(data):
        return [bytes(data)]
    whole = len(data) // stride * stride
    datagrams = [each for (each,) in iter_unpack(f"{stride}s", data[:whole])]
    if whole < len(data):
        datagrams.append(bytes(data[whole:]))
    return datagrams
