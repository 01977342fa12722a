"""The kernel under one life of a simulated node: a TUN device, a socket, netlink, a wall clock and randomness.

Everything it is handed goes to the node's `Life`, and nothing goes anywhere once that life is over. Ports can be broken
(`break_one`), and then fail as the kernel's do. Not responsible for what becomes of packets and datagrams: that is the
world's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from holloway.actors.ports import DatagramPort, Netlink, TunPort
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import PortError, TunError
from holloway.protocols.flows import address_number
from holloway.protocols.gateway import GatewayPlan
from holloway.protocols.icmp import answer_echo, parse_echo_reply
from holloway.protocols.packets import Packet
from holloway.simulations.ports import RecordingNetlink, SimulatedTun, TunServing
from holloway.simulations.runs import Heard, joined, lone_arrival
from holloway.simulations.streams import below
from holloway.simulations.world import SOCKET_DATAGRAMS

if TYPE_CHECKING:
    from holloway.simulations.actor_host import Life

RECEIVE_BUDGET = 128
"""Datagrams that one `receive` takes."""


class LifePorts(TunServing):
    """See `Ports`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.tun: LifeTun | None = None
        self.sockets: list[LifeDatagrams] = []
        self._netlink = LifeNetlink(life)

    def open_tun(self, name: str, mtu: int, *, several: bool = False) -> TunPort:
        """See `Ports`. Raises `TunError` while one is open."""
        if self.tun is not None and self.tun.is_open:
            raise TunError(f"cannot open the TUN device {name!r}", "EBUSY: the node has one open", "close it first")
        self.tun = LifeTun(name, mtu, self._life)
        return self.tun

    def open_tun_queue(self, device: TunPort) -> TunPort:
        """See `Ports`."""
        assert isinstance(device, LifeTun)
        return device.add_queue()

    def open_datagrams(self, address: str | None, port: int, *, mark: int = 0) -> list[DatagramPort]:
        """See `Ports`. One socket. Raises `PortError` while one is open."""
        if any(socket.is_open for socket in self.sockets):
            raise PortError(f"cannot listen on port {port}", "EADDRINUSE: the node has a socket open", "close it first")
        self.sockets = [LifeDatagrams((str(self._life.configured[0]), port), self._life)]
        return [*self.sockets]

    def open_beside(self, port: DatagramPort) -> DatagramPort:
        """See `Ports`."""
        assert isinstance(port, LifeDatagrams)
        self.sockets = [*self._open_sockets(), LifeDatagrams(port.local, self._life)]
        return self.sockets[-1]

    def socket_for(self, source: Address) -> LifeDatagrams | None:
        """The open socket by which a datagram from `source` arrives, if there is one: always the same of several."""
        sockets = self._open_sockets()
        return sockets[address_number(source) % len(sockets)] if sockets else None

    def _open_sockets(self) -> list[LifeDatagrams]:
        return [socket for socket in self.sockets if socket.is_open]

    def open_netlink(self) -> AbstractAsyncContextManager[Netlink]:
        """See `Ports`."""
        return self._open_netlink()

    @asynccontextmanager
    async def _open_netlink(self) -> AsyncIterator[Netlink]:
        netlink = self._netlink = LifeNetlink(self._life)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(netlink.fail_when_broken)
            yield netlink
            nursery.cancel_scope.cancel()

    def open_state(self, directory: Path) -> StateDirectory:
        """See `Ports`. There is one such folder."""
        assert self._life.desk is not None, "only nodes with an authority, or a claim, keep anything"
        return self._life.desk

    def wall_ns(self) -> int:
        """See `Ports`."""
        return self._life.wall_ns()

    def has_address(self, address: IPv4Address) -> bool:
        """Whether the device has it."""
        return any(each.ip == address for each in self._netlink.addresses)

    def steady_s(self) -> float:
        """See `Ports`. Trio's clock."""
        return trio.current_time()

    def entropy(self, n: int) -> bytes:
        """See `Ports`."""
        return self._life.entropy(n)

    def break_one(self, bits: int) -> str:
        """Break the device, a socket or netlink, as `bits` say; the name of what was broken, nothing if it is not open."""
        choices = [port for port in (self.tun, *self.sockets) if port is not None and port.is_open]
        number = below(bits, len(choices) + 1)
        if number == len(choices):
            self._netlink.break_down()
            return "netlink"
        choices[number].break_down()
        return choices[number].word

    def break_socket(self, bits: int) -> int | None:
        """Break one of the open sockets, as `bits` say; how many are left, or `None` when there was none."""
        sockets = self._open_sockets()
        if not sockets:
            return None
        sockets[below(bits, len(sockets))].break_down()
        return len(sockets) - 1


class LifeTun(SimulatedTun):
    """A TUN device whose packets go to the programs of the world at once."""

    word = "tun"

    def __init__(self, name: str, mtu: int, life: Life) -> None:
        super().__init__(name, mtu, sparse_first=True)
        self._life = life
        self._broken: TunError | None = None

    async def receive(self) -> list[Packet]:
        """See `TunPort`."""
        try:
            return await super().receive()
        except trio.ClosedResourceError:
            if self._broken is None:
                raise
        raise self._broken

    def break_down(self) -> None:
        """Somebody deletes the device."""
        for queue in self.queues:
            assert isinstance(queue, LifeTun)
            queue._broken = TunError(f"lost the TUN device {self.name}", "ENODEV: somebody deleted it")
            queue.close()

    def _deliver(self, packet: bytes) -> None:
        if not self.is_open:
            self.drops["tun_ebadf"] += 1
        elif (reply := answer_echo(packet)) is not None:  # a node asks whether we are there, and our kernel says so
            self._queue([reply])
        elif (
            parse_echo_reply(packet) is None
        ):  # one that came too late for the node, and that no program of the host waits for
            self._life.deliver(packet)


class LifeDatagrams(DatagramPort):
    """A socket on the simulated wire."""

    word = "udp"

    def __init__(self, local: Address, life: Life) -> None:
        self.local = local
        self.drops: Counter[str] = Counter()
        self.is_open = True
        self._life = life
        self._broken: PortError | None = None
        self._waiting: deque[Heard] = deque()
        self._has_offloads = life.host.world.plan.offloads
        self._readers = trio.lowlevel.ParkingLot()

    async def receive(self) -> list[Arrival]:
        """See `DatagramPort`. Takes up to `RECEIVE_BUDGET` datagrams; with offloads those of one instant in runs."""
        if self._waiting:
            await trio.lowlevel.checkpoint()
        while self.is_open and not self._waiting:
            await self._readers.park()
        if self._broken is not None:
            raise self._broken
        if not self.is_open:
            raise trio.ClosedResourceError(f"the socket of {self._life.name} is closed")
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), RECEIVE_BUDGET))]
        self._life.now_handles(taken[-1].cause)
        if self._has_offloads:
            return [arrival for arrival, _ in joined(taken)]
        return [lone_arrival(each) for each in taken]

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        if not self.is_open:
            self.drops["udp_ebadf"] += len(datagrams)
            return
        for datagram in datagrams:
            self._life.transmit(bytes(datagram), destination)

    def take(self, heard: Heard) -> None:
        """A datagram arrives from the wire."""
        if len(self._waiting) >= SOCKET_DATAGRAMS:
            self.drops["receive_buffer_full"] += 1
            return
        self._waiting.append(heard)
        self._readers.unpark_all()

    def break_down(self) -> None:
        """The socket fails."""
        self._broken = PortError("the socket broke", "EIO")
        self.close()

    def close(self) -> None:
        """See `DatagramPort`."""
        self.is_open = False
        self._readers.unpark_all()


class LifeNetlink(RecordingNetlink):
    """Addresses and routes of a host, until it breaks."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life
        self._is_broken = trio.Event()

    def break_down(self) -> None:
        """The netlink socket fails, and so does every call."""
        self._is_broken.set()

    async def fail_when_broken(self) -> None:
        """Raises `PortError` when it breaks."""
        await self._is_broken.wait()
        raise PortError("netlink broke", "EIO")

    async def configure(
        self,
        interface: str,
        addresses: Sequence[IPv4Interface | IPv6Interface],
        mtu: int,
        *,
        bring_up: bool = True,
    ) -> None:
        """See `Netlink`."""
        self._check()
        await super().configure(interface, addresses, mtu, bring_up=bring_up)

    async def add_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """See `Netlink`."""
        self._check()
        await super().add_address(interface, address)
        self._life.took(address)

    async def remove_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """See `Netlink`."""
        self._check()
        await super().remove_address(interface, address)

    async def add_route(self, interface: str, prefix: IPv4Network | IPv6Network) -> None:
        """See `Netlink`."""
        self._check()
        await super().add_route(interface, prefix)

    async def remove_route(self, interface: str, prefix: IPv4Network | IPv6Network) -> None:
        """See `Netlink`."""
        self._check()
        await super().remove_route(interface, prefix)

    async def set_gateway(self, interface: str, plan: GatewayPlan | None) -> None:
        """See `Netlink`."""
        self._check()
        await super().set_gateway(interface, plan)

    async def set_masquerade(self, interface: str, versions: Collection[int]) -> None:
        """See `Netlink`."""
        self._check()
        await super().set_masquerade(interface, versions)

    def _check(self) -> None:
        if self._is_broken.is_set():
            raise PortError("netlink is broken", "EIO")
