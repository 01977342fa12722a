"""What the network gave at once: one datagram, or a run of them.

Not responsible for receiving, nor for what datagrams mean.
"""

from __future__ import annotations

from struct import iter_unpack
from typing import NamedTuple

from holloway.protocols.addresses import Address


class Arrival(NamedTuple):
    """What one receive call gave: one datagram, or a run of equally long ones from one source (UDP GRO).

    `data` holds the datagrams back to back; `stride` is the length of each but the last, which may be shorter, and
    equals `len(data)` for a lone one. A `memoryview` is good until the next `receive` on the same port.
    """

    source: Address
    data: bytes | memoryview
    stride: int

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
