"""What lets one system call carry a run of datagrams: UDP_SEGMENT (GSO) for sending, UDP_GRO for receiving.

Responsible for asking the kernel what it has, for putting what is to be sent into few calls, for the control messages of both offloads,
and for remembering where runs were refused. Not responsible for the socket, nor for counting what was lost.

A run is datagrams of one length to one destination, of which the last may be shorter. On the wire they are datagrams like
any others. Sources: Linux `udp(7)`, `net/ipv4/udp.c` (`udp_send_skb`, `udp_cmsg_recv`), `include/uapi/linux/udp.h`.
"""

from __future__ import annotations

import errno
import math
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import trio

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import cut
from holloway.protocols.runs import MAX_RUN_BYTES, Run

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
SEGMENT_SIZE = struct.Struct("=H")  # what UDP_SEGMENT carries; UDP_GRO carries an int
ANCILLARY_SPACE = socket.CMSG_SPACE(4)

RUN_DATAGRAMS = 64  # UDP_MAX_SEGMENTS before Linux 6.9; 128 since
JOIN_BELOW_BYTES = 512  # shorter datagrams are joined: faster than a gather list (44 of 64 bytes 4.4 us against 6.5)

REFUSED_FOR_S = 60.0  # until a run is tried again: routes and devices change
REFUSALS_MAX = 1024  # destinations remembered; the oldest makes room

# The run is refused, its datagrams may well pass: EMSGSIZE (before Linux 6.14 EINVAL) when one is longer than the path's
# MTU, which alone would be fragmented or refused alone; EIO where IPsec, or before 6.10 a device without checksum
# offload, is on the way. A run fails for no other reason that its datagrams have not.
RUN_REFUSED_ERRNOS = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE})


def can_send_runs(sock: socket.socket) -> bool:
    """Whether the kernel knows UDP_SEGMENT (Linux 4.18). One that does not would send a run as one long datagram."""
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def receive_runs(sock: socket.socket) -> bool:
    """Ask for runs (Linux 5.0). Whether the kernel agrees."""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


class Gathered(NamedTuple):
    """What one system call sends: `parts` back to back are `number` datagrams of `stride` bytes, the last perhaps shorter."""

    parts: Sequence[bytes | memoryview]
    stride: int
    number: int

    def datagrams(self) -> list[bytes]:
        """Each by itself."""
        return cut(b"".join(self.parts), self.stride)


def gathered(runs: Iterable[Run]) -> Iterator[Gathered]:
    """`runs` in order, in as few calls as follow from joining those that fit behind each other: `RUN_DATAGRAMS` and
    `MAX_RUN_BYTES` at most, and all of one length but the last. A datagram that is empty, or above `MAX_RUN_BYTES`, is alone.
    """
    parts: Sequence[bytes | memoryview] = ()
    stride = size = number = 0
    for run in runs:
        more_parts, each, length = run
        more = -(-length // each) if each else 1
        if (
            number
            and size + length <= MAX_RUN_BYTES
            and number + more <= RUN_DATAGRAMS
            and 0 < each <= stride
            and (each == stride or more == 1)
            and not size % stride
        ):
            parts = [*parts, *more_parts]
            size += length
            number += more
            continue
        if number:
            yield Gathered(parts, stride, number)
            number = 0
        if more > 1 and (length > MAX_RUN_BYTES or more > RUN_DATAGRAMS):
            yield from _cut_up(run)
        else:
            parts, stride, size, number = more_parts, each, length, more
    if number:
        yield Gathered(parts, stride, number)


def _cut_up(run: Run) -> Iterator[Gathered]:
    """A run that is too much for one call."""
    view, stride = memoryview(b"".join(run.parts)), run.stride
    most = max(1, min(RUN_DATAGRAMS, MAX_RUN_BYTES // stride)) * stride
    for begin in range(0, run.length, most):
        piece = view[begin : begin + most]
        yield Gathered((piece,), min(stride, len(piece)), -(-len(piece) // stride))


def send_run(sock: socket.socket, run: Gathered, destination: Address) -> None:
    """Send at least two datagrams with one call. Raises `OSError`; then nothing of it was sent."""
    parts: Sequence[bytes | memoryview] = run.parts
    if len(parts) > 1 and run.stride < JOIN_BELOW_BYTES:
        parts = (b"".join(parts),)
    sock.sendmsg(parts, control_messages(run.stride), 0, destination)


@lru_cache(maxsize=256)
def control_messages(stride: int) -> tuple[tuple[int, int, bytes]]:
    """What tells the kernel to cut what it is given into datagrams of `stride` bytes."""
    return ((SOL_UDP, UDP_SEGMENT, SEGMENT_SIZE.pack(stride)),)


def stride_of(ancillary: Iterable[tuple[int, int, bytes]], length: int) -> int:
    """The length of each datagram but the last in `length` received bytes, by their control messages.

    It is `length` unless a message says otherwise; one that makes no sense says nothing.
    """
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO:
            size = int.from_bytes(data[:4], sys.byteorder)
            return size if 0 < size < length else length
    return length


class RunRefusals:
    """Destinations that runs cannot be sent to, for `REFUSED_FOR_S` each, by the length of their datagrams."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[Address, tuple[int, float]] = {}
        """Nobody is refused anything while it is empty."""

    def allows(self, destination: Address, size: int) -> bool:
        """Whether a run of datagrams of `size` bytes is worth trying."""
        known = self.known.get(destination)
        if known is None or size < known[0]:
            return True
        if trio.current_time() < known[1]:
            return False
        del self.known[destination]
        return True

    def note(self, destination: Address, size: int, number: int | None) -> None:
        """A run of datagrams of `size` bytes was refused with errno `number`. Shorter ones may pass, except after EIO."""
        if destination not in self.known and len(self.known) >= REFUSALS_MAX:
            del self.known[next(iter(self.known))]
        least = 1 if number == errno.EIO else min(size, self.known.get(destination, (math.inf,))[0])
        self.known[destination] = (int(least), trio.current_time() + REFUSED_FOR_S)
