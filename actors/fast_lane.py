"""Flows that send little are carried past those that fill queues.

A bulk flow keeps two queues filled, both first in, first out: the device's at the sender, the socket's at the receiver. So each
has a second one beside it. The kernel puts into that of the device what is of flows that send little (`tun_steering`). What we read
there leaves in records of the sparse lane, which has counters of its own (`protocols.record_keys`), by a socket that marks it; and the
kernel at the other end puts what is marked into the second socket (`udp_binding.open_sparse`). Both are looked at between two
packets of a bulk flow (`OuterLoop.look`).

    host ──► queue 0 ─► reader ─► session ─► socket ─────────► socket ─► session ─► device ──► host
        └──► queue 1 ─► reader ─► session ─► second socket ──► second socket ─► session ─► device

To a peer whose records have no lanes (WireGuard, DTLS), and where the session is not as usual, what is sparse leaves by the first
socket, and has overtaken others in the device alone.

All of a flow takes the same way while it is sparse, and is not for `SLOW_S` after it has been busy: nothing overtakes its own, as long
as nothing stands in a queue for longer, and nothing of it is cut into fragments.
Whatever of this the kernel does not grant is left out.

Responsible for having both second queues. Not responsible for what they do.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from holloway.actors.tun_steering import load, steer
from holloway.actors.udp_binding import open_sparse
from holloway.protocols.errors import PortError, TunError

if TYPE_CHECKING:
    from holloway.actors.tun import KernelTun
    from holloway.actors.udp import UdpSocket

log = logging.getLogger("holloway.fast_lane")


def open_device(open_first: Callable[[bool], KernelTun], open_second: Callable[[KernelTun], KernelTun]) -> KernelTun:
    """A device with its second queue, or without it. `open_first`: told whether it may have one. Raises `TunError`."""
    try:
        program = load()
    except OSError as error:
        log.info(
            "flows that send little are not carried first: the kernel refuses to sort packets (%s)", error.strerror
        )
        return open_first(False)
    try:
        try:
            first = open_first(True)
        except TunError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
                raise
            return open_first(False)  # as where somebody has made it so
        try:
            second = open_second(first)
        except TunError:
            return first
        try:
            steer(first.fileno(), program)
        except OSError:  # before Linux 4.16
            second.close()
        else:
            first.add_sparse(second)
        return first
    finally:
        os.close(program)


def add_sockets(sockets: Iterable[UdpSocket], *, offloads: bool) -> None:
    """Give each its second one, where the kernel grants it."""
    for each in sockets:
        with suppress(OSError, PortError):
            open_sparse(each, offloads=offloads)
