"""Two UDP sockets of one host, and what goes from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import open_udp
from holloway.protocols.arrivals import Arrival


@contextmanager
def pair(host: str, *, sends: bool = True, receives: bool = True) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    (left,), (right,) = open_udp(host, 0, offloads=sends), open_udp(host, 0, offloads=receives)
    try:
        yield left, right
    finally:
        left.close()
        right.close()


def numbered(*lengths: int) -> list[bytes]:
    """Datagrams of these lengths, no two alike unless they are tiny."""
    return [(b"%d." % number * length)[:length] for number, length in enumerate(lengths)]


async def take(port: UdpSocket, count: int) -> list[Arrival]:
    """Everything until `count` datagrams are here, with data that lasts."""
    arrivals: list[Arrival] = []
    with trio.fail_after(5):
        while sum(len(arrival.datagrams()) for arrival in arrivals) < count:
            arrivals += [Arrival(a.source, bytes(a.data), a.stride) for a in await port.receive()]
    return arrivals


def flat(arrivals: Sequence[Arrival]) -> list[bytes]:
    return [datagram for arrival in arrivals for datagram in arrival.datagrams()]
