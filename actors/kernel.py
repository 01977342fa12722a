"""The world as the kernel gives it: `Ports` for a node that runs for real.

Responsible for putting the kernel's ports together, and for being the one place where the wall clock and the system's
randomness enter. Not responsible for what any of them does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from holloway.actors.fast_lane import add_sockets, open_device
from holloway.actors.netlink import open_netlink
from holloway.actors.outer_loop import OuterLoop
from holloway.actors.ports import Batch, DatagramPort, Netlink, Ports, Receiving, TunPort
from holloway.actors.state_directory import StateDirectory
from holloway.actors.tun import KernelTun
from holloway.actors.tun_opening import open_tun, open_tun_queue
from holloway.actors.udp import UdpSocket
from holloway.actors.udp_binding import open_beside, open_udp


class KernelPorts(Ports):
    """TUN, UDP, netlink, clock and randomness of this host. Without `sparse_first` nothing in it changes: one serves any number
    of nodes.
    """

    def __init__(
        self,
        *,
        offloads: bool = True,
        receive_super: bool = True,
        loop: OuterLoop | None = None,
        sparse_first: bool = False,
    ) -> None:
        """`offloads`: leave to the kernel, and take from it, what it grants; see `TunPort.offloads`. `receive_super`: see
        `open_tun`. `loop`: what Trio is a guest of, if it is; then it reads the device and the sockets. `sparse_first`: with
        it, flows that send little are carried first (`fast_lane`).
        """
        self._offloads, self._receive_super, self._loop = offloads, receive_super, loop
        self._is_sparse_first = sparse_first and loop is not None

    def open_tun(self, name: str, mtu: int, *, several: bool = False) -> TunPort:
        """See `Ports` and `open_tun`."""
        if self._is_sparse_first and not several:
            return open_device(lambda several: self._open_tun(name, mtu, several=several), self._open_queue)
        return self._open_tun(name, mtu, several=several)

    def _open_tun(self, name: str, mtu: int, *, several: bool) -> KernelTun:
        return open_tun(name, mtu, offloads=self._offloads, receive_super=self._receive_super, several=several)

    def _open_queue(self, device: KernelTun) -> KernelTun:
        return open_tun_queue(device, receive_super=self._receive_super)

    def open_tun_queue(self, device: TunPort) -> TunPort:
        """See `Ports` and `open_tun_queue`."""
        assert isinstance(device, KernelTun)
        return self._open_queue(device)

    def open_datagrams(self, address: str | None, port: int, *, mark: int = 0) -> list[DatagramPort]:
        """See `Ports` and `open_udp`."""
        sockets = open_udp(address, port, offloads=self._offloads, mark=mark)
        if self._is_sparse_first:
            add_sockets(sockets, offloads=self._offloads)
        return list(sockets)

    def open_beside(self, port: DatagramPort) -> DatagramPort:
        """See `Ports` and `open_beside`."""
        assert isinstance(port, UdpSocket)
        return open_beside(port, offloads=self._offloads)

    async def serve(
        self,
        port: Receiving[Batch],
        take: Callable[[Batch], None],
        take_lone: Callable[[Any], None] | None = None,
        *,
        sparse: tuple[Callable[[Batch], None], Callable[[Any], None] | None] | None = None,
    ) -> None:
        """See `Ports`."""
        if self._loop is not None and isinstance(port, KernelTun | UdpSocket) and port.fileno() >= 0:
            first, urgent = port.sparse, None
            if self._is_sparse_first:
                port.look, port.is_urgent = self._loop.look, self._loop.is_urgent
            if first is not None:
                urgent = first.fileno(), first.reader(*(sparse or (take, take_lone)))
            await self._loop.serve(port.fileno(), port.reader(take, take_lone), urgent=urgent)
        await super().serve(port, take, take_lone)

    def open_netlink(self) -> AbstractAsyncContextManager[Netlink]:
        """See `Ports` and `open_netlink`."""
        return open_netlink()

    def open_state(self, directory: Path) -> StateDirectory:
        """See `Ports`."""
        return StateDirectory(directory)

    def wall_ns(self) -> int:
        """See `Ports`."""
        return time.time_ns()

    def steady_s(self) -> float:
        """See `Ports`. CLOCK_BOOTTIME: CLOCK_MONOTONIC, which is Trio's, stands still in a host that sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def entropy(self, n: int) -> bytes:
        """See `Ports`."""
        return os.urandom(n)  # noqa: TID251 - this is the port that randomness comes in by
