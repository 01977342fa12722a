"""The socket that Trio's DTLS believes to have: handshakes of all associations, over whatever sends and receives for us.

Addresses are tuples that Trio takes as they are: the socket address and, last, the number of the association. So several
associations between two addresses are several connections to it.

Nothing here raises because of the network: an error in Trio's receiving task would end the whole program. Not responsible for which
datagrams come here (`dtls_handshaker`).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import trio

from holloway.protocols.dtls_wire import NO_RECORD, is_client_hello, looks_like_hello

Place: TypeAlias = tuple[Any, ...]
"""A socket address and the number of an association."""

WAITING = 512
"""Datagrams that wait for Trio's task."""


class AssociationSocket:
    """Has what `trio.DTLSEndpoint` uses of a socket."""

    type = socket.SOCK_DGRAM
    family = socket.AF_INET  # what it takes for the least that any path carries

    def __init__(self, transmit: Callable[[bytes, Place], None]) -> None:
        """`transmit` sends one datagram at once and raises nothing."""
        self._transmit = transmit
        self._waiting: deque[tuple[bytes, Place]] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._is_open = True

    def offer(self, datagram: bytes, place: Place) -> bool:
        """A datagram for Trio; False when too many wait."""
        if len(self._waiting) >= WAITING:
            return False
        if looks_like_hello(datagram) and not is_client_hello(
            datagram
        ):  # Trio would take it for one, and throw it away
            datagram = NO_RECORD + datagram
        self._waiting.append((datagram, place))
        self._readers.unpark_all()
        return True

    async def sendto(self, datagram: bytes | bytearray, place: Place) -> int:
        """Send a datagram of a handshake."""
        await trio.lowlevel.checkpoint()
        self._transmit(bytes(datagram), place)
        return len(datagram)

    async def recvfrom(self, size: int) -> tuple[bytes, Place]:
        """The next datagram. Raises `trio.ClosedResourceError` once this is closed, and nothing else."""
        await trio.lowlevel.checkpoint()
        while self._is_open and not self._waiting:
            await self._readers.park()
        if not self._is_open:
            raise trio.ClosedResourceError
        return self._waiting.popleft()

    def getsockname(self) -> Place:
        """Trio asks for it to see whether the socket is bound."""
        return ("", 0)

    def close(self) -> None:
        """Ends Trio's task."""
        self._is_open = False
        self._readers.unpark_all()
