"""Receive offload in the simulation: datagrams of one source that came in one instant are handed over as one run.

As the kernel's GRO for UDP joins them: equally long ones that follow each other, of which the last may be shorter. Not
responsible for when a node reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival

MAX_DATAGRAMS = 64  # net/ipv4/udp_offload.c, UDP_GRO_CNT_MAX
MAX_BYTES = 65_507
_HANDSHAKES = (1, 2, 3, 0x21, 0x22, 0x23, 0x24)
"""Types of messages that are looked at one by one here: each is asked about a promise of its own."""


class Heard(NamedTuple):
    """A datagram in the socket. `is_forged`: it is not as a peer made it; `cause`: its line in the trace."""

    data: bytes
    source: Address
    is_forged: bool
    cause: int
    at_ns: int


def lone_arrival(heard: Heard) -> Arrival:
    """The datagram as one that came alone."""
    return Arrival(heard.source, heard.data, len(heard.data))


def joined(heard: Sequence[Heard]) -> list[tuple[Arrival, Heard]]:
    """Runs of what was heard, in order, each with the first of its datagrams; of a run nobody is forged, or it is unknown
    who.
    """
    found: list[tuple[Arrival, Heard]] = []
    at = 0
    while at < len(heard):
        first = heard[at]
        stride, end = len(first.data), at + 1
        most = min(MAX_DATAGRAMS, MAX_BYTES // max(1, stride))
        if _is_joinable(first.data):
            while end < len(heard) and end - at < most and _follows(first, heard[end]):
                end += 1
                if len(heard[end - 1].data) < stride:
                    break
        if end == at + 1:
            found.append((lone_arrival(first), first))
        else:
            data = b"".join([each.data for each in heard[at:end]])
            found.append((Arrival(first.source, data, stride), first._replace(is_forged=False)))
        at = end
    return found


def _follows(first: Heard, later: Heard) -> bool:
    return (
        later.source == first.source
        and later.at_ns == first.at_ns
        and 0 < len(later.data) <= len(first.data)
        and _is_joinable(later.data)
    )


def _is_joinable(datagram: bytes) -> bool:
    return int.from_bytes(datagram[:4], "little") not in _HANDSHAKES
