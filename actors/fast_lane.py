"""Flows that send little are carried past those that fill queues.

A bulk flow keeps two queues filled, both first in, first out: the device's at the sender, the socket's at the receiver. So each
has a second one beside it. The kernel puts into that of the device what is of flows that send little (`tun_steering`); what we read there
is sent marked, by a socket of its own; and the kernel at the other end puts what is marked into the second socket
(`udp_binding.open_sparse`). Both are looked at between two packets of a bulk flow (`OuterLoop.look`).

    host ──► queue 0 ─► reader ─► session ─► socket ─────────► socket ─► session ─► device ──► host
        └──► queue 1 ─► reader ─► session ─► second socket ──► second socket ─► session ─► device

All of a flow takes the same way while it is sparse, and is not for `WINDOW_S` after it has been busy: nothing overtakes its own, as long
as nothing stands in a queue for longer, and nothing of it is cut into fragments.
Whatever of this the kernel does not grant is left out.

Responsible for having both lanes, and for the same lane being kept on the way. Not responsible for either queue.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from holloway.actors.tun import NOWHERE, KernelTun
from holloway.actors.tun_steering import steer
from holloway.actors.udp_binding import open_sparse
from holloway.protocols.errors import PortError

if TYPE_CHECKING:
    import socket

    from holloway.actors.outer_loop import Reader
    from holloway.actors.udp import UdpSocket

log = logging.getLogger("holloway.fast_lane")


class FastLane:
    """The second queues of one node."""

    def __init__(self) -> None:
        self._tun: KernelTun | None = None
        self._answers = NOWHERE
        self._sockets: Sequence[tuple[UdpSocket, socket.socket]] = ()

    def add_device(self, tun: KernelTun, queue: KernelTun | None) -> None:
        """`queue`: the second of `tun`, if it has one, which is closed if the kernel will not fill it as it should."""
        self._tun, self._answers = tun, NOWHERE
        if queue is None:
            return
        try:
            steer(tun.fileno())
        except OSError as error:
            log.info(
                "flows that send little are not carried first: the kernel refuses to sort packets (%s)", error.strerror
            )
            queue.close()
            return
        queue.drops = tun.drops
        tun.sparse, self._answers = queue, queue.fileno()

    def add_sockets(self, sockets: Sequence[UdpSocket], *, offloads: bool) -> None:
        """Give each its second one, where the kernel grants it."""
        for each in sockets:
            with suppress(OSError, PortError):
                open_sparse(each, offloads=offloads)
        self._sockets = [(each, each.sparse.socket) for each in sockets if each.sparse is not None]

    def reader(self, read: Reader) -> Reader:
        """`read`, of a second queue: what is sent meanwhile, and what the host answers, stays on this lane."""

        def keep_to_lane(is_rested: bool) -> None:
            tun, sockets = self._tun, self._sockets
            for port, second in sockets:
                port.out = second
            if tun is not None:
                tun.answers = self._answers
            try:
                read(is_rested)
            finally:
                for port, _ in sockets:
                    port.out = port.socket
                if tun is not None:
                    tun.answers = None

        return keep_to_lane
