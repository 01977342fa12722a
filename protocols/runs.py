"""Sealed datagrams on their way out: runs of equally long ones, back to back, as the host's UDP takes them (GSO).

Not responsible for sending, nor for how many the host takes at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from holloway.protocols.arrivals import cut

MAX_RUN_BYTES = 65_536 - 128
"""With headers of link, IP and UDP a run must stay below 65 536 bytes: from that on a device with the usual gso_max_size has the
kernel cut it in software, and the receiver gets lone datagrams (measured on Linux 6.18)."""


class Run(NamedTuple):
    """Datagrams of `stride` bytes each, the last perhaps shorter. A lone one is as long as its stride.

    `parts`, one behind the other, are the datagrams back to back, `length` bytes in all. A memoryview among them is good until
    more is sealed.
    """

    parts: Sequence[bytes | memoryview]
    stride: int
    length: int

    @property
    def datagram_count(self) -> int:
        """How many; never 0: an empty datagram is one too."""
        return -(-self.length // self.stride) if self.stride else 1

    def datagrams(self) -> list[bytes]:
        """Each by itself, in order, in memory of its own."""
        return cut(b"".join(self.parts), self.stride)


def lone_run(datagram: bytes) -> Run:
    """A run of one."""
    length = len(datagram)
    return Run((datagram,), length, length)


def flatten(runs: Iterable[Run]) -> list[bytes]:
    """The datagrams of all runs, in order."""
    return [datagram for run in runs for datagram in run.datagrams()]
