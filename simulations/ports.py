"""A host in memory: `Ports` for nodes that are embedded, demonstrated or tested without a kernel.

Responsible for a TUN device whose other end is the program's, for recording what a node asks of netlink, and for a wall
clock and randomness that are the same in every run. Not responsible for the wire between hosts (`network`).

    network = SimulatedNetwork(latency_s=0.02)
    left, right = SimulatedPorts(network, "192.0.2.1"), SimulatedPorts(network, "192.0.2.2")
    ... start a node with each ...
    left.tun.inject([packet])                       # a program on the left host sends a packet
    assert await right.tun.collect() == [packet]    # and one on the right host gets it
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import trio

from holloway.actors.ports import Batch, DatagramPort, Netlink, Ports, Receiving, TunPort
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.errors import LocalError, PortError, TunError
from holloway.protocols.flows import flow_number
from holloway.protocols.gateway import GatewayPlan
from holloway.protocols.icmp import answer_echo
from holloway.protocols.packets import Packet, SuperPacket
from holloway.simulations.network import SimulatedDatagrams, SimulatedNetwork

TUN_QUEUE = 4096  # packets that wait in each direction of a device
RECEIVE_BUDGET = 128  # packets one `receive` takes, as the kernel's port does
NETLINK_CALLS = 4096  # calls that are remembered, the oldest go first
WALL_START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z, where the wall clock stands at Trio's time 0

Prefix: TypeAlias = IPv4Network | IPv6Network
Result = TypeVar("Result")


class SimulatedTun(TunPort):
    """A TUN device in memory. The node has the port; the program has `inject` and `collect`.

    With `answer_pings` the host replies to echo requests as a kernel does; such requests are not collected.
    """

    def __init__(self, name: str, mtu: int, *, answer_pings: bool = False, sparse_first: bool = False) -> None:
        self.name = name
        self.sparse_first = sparse_first
        self.mtu = mtu
        self.drops: Counter[str] = Counter()
        self.is_open = True
        self._answer_pings = answer_pings
        self._outbound: deque[Packet] = deque()
        self._sparse: deque[Packet] = deque()
        self.is_read_apart = False
        """Whether somebody reads what is of flows that send little (`receive_apart`)."""
        self._delivered: deque[bytes] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._collectors = trio.lowlevel.ParkingLot()
        self.queues = [self]
        """All queues of the device: what the host sends is spread over them by its flow."""

    def add_queue(self) -> Self:
        """One more queue of the same device."""
        queue = copy(self)
        queue._sparse = deque()
        queue.drops, queue._outbound, queue._readers = Counter(), deque(), trio.lowlevel.ParkingLot()
        self.queues.append(queue)
        return queue

    def inject(self, packets: Sequence[Packet], *, is_sparse: bool = False) -> None:
        """Send packets into the network, as a program on the host would. At once; beyond `TUN_QUEUE` they are dropped
        and counted as `tun_queue_full`. `is_sparse`: they are of flows that send little, and are read apart where somebody
        does.

        Raises `LocalError` for a packet that is longer than the MTU, which no host's IP layer would hand to the device,
        and when the node has closed it.
        """
        if not self.is_open:
            raise LocalError(f"cannot inject into {self.name}", "the node has closed the device")
        for packet in packets:
            if not isinstance(packet, SuperPacket) and len(packet) > self.mtu:
                raise LocalError(f"cannot inject {len(packet)} bytes", f"the MTU of {self.name} is {self.mtu}")
        if is_sparse and self.is_read_apart:
            self._take_in(packets, self._sparse)
        else:
            self._queue(packets)

    async def collect(self) -> list[bytes]:
        """What the node has given to the host since the last time, in order; waits for the first packet.

        Raises `trio.ClosedResourceError` when nothing is left and the node has closed the device.
        """
        if self._delivered:
            await trio.lowlevel.checkpoint()
        while self.is_open and not self._delivered:
            await self._collectors.park()
        if not self._delivered:
            raise trio.ClosedResourceError(f"the node has closed {self.name}")
        collected = list(self._delivered)
        self._delivered.clear()
        return collected

    async def receive(self) -> list[Packet]:
        """See `TunPort`. Takes up to `RECEIVE_BUDGET` packets."""
        if self._outbound:
            await trio.lowlevel.checkpoint()
        while self.is_open and not self._outbound:
            await self._readers.park()
        if not self.is_open:
            raise trio.ClosedResourceError(f"{self.name} is closed")
        return [self._outbound.popleft() for _ in range(min(len(self._outbound), RECEIVE_BUDGET))]

    async def receive_apart(self) -> tuple[list[Packet], list[Packet]]:
        """What is of flows that send little, and the rest, as `receive` would give it; one of them may be empty."""
        while self.is_open and not self._sparse and not self._outbound:
            await self._readers.park()
        if self._sparse and self.is_open:
            await trio.lowlevel.checkpoint()
            sparse = [self._sparse.popleft() for _ in range(min(len(self._sparse), RECEIVE_BUDGET))]
            return sparse, self.take()
        return [], await self.receive()

    def take(self) -> list[Packet]:
        """See `TunPort`. Takes up to `RECEIVE_BUDGET` packets."""
        return (
            [self._outbound.popleft() for _ in range(min(len(self._outbound), RECEIVE_BUDGET))] if self.is_open else []
        )

    def send(self, packets: Sequence[Packet]) -> None:
        """See `TunPort`. Reasons are those of the kernel's port, and `tun_queue_full` when nobody collects."""
        for packet in packets:
            pieces = packet.segments() if isinstance(packet, SuperPacket) else [packet]
            if not pieces:
                self.drops["tun_malformed"] += 1
            for piece in pieces:
                self._deliver(bytes(piece))

    def _deliver(self, packet: bytes) -> None:
        if not self.is_open:
            self.drops["tun_ebadf"] += 1
        elif not packet or packet[0] >> 4 not in (4, 6):
            self.drops["tun_einval"] += 1
        elif self._answer_pings and (reply := answer_echo(packet)) is not None:
            self._queue([reply])
        elif len(self._delivered) >= TUN_QUEUE:
            self.drops["tun_queue_full"] += 1
        else:
            self._delivered.append(packet)
            self._collectors.unpark_all()

    def _queue(self, packets: Sequence[Packet]) -> None:
        if len(self.queues) == 1:
            self._take_in(packets, self._outbound)
            return
        for packet in packets:
            queue = self.queues[flow_number(packet) % len(self.queues)]
            queue._take_in((packet,), queue._outbound)

    def _take_in(self, packets: Sequence[Packet], queue: deque[Packet]) -> None:
        room = TUN_QUEUE - len(queue)
        queue.extend(packets[:room])
        self._readers.unpark_all()
        if len(packets) > room:
            self.drops["tun_queue_full"] += len(packets) - room

    def set_local(self, addresses: Iterable[bytes]) -> None:
        """See `TunPort`. Nobody looks at checksums here."""

    def close(self) -> None:
        """See `TunPort`. What was delivered can still be collected."""
        self.is_open = False
        self._readers.unpark_all()
        self._collectors.unpark_all()


@dataclass(frozen=True, slots=True)
class Configured:
    """`Netlink.configure` was called."""

    interface: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mtu: int


@dataclass(frozen=True, slots=True)
class RouteAdded:
    """`Netlink.add_route` was called."""

    interface: str
    prefix: Prefix


@dataclass(frozen=True, slots=True)
class RouteRemoved:
    """`Netlink.remove_route` was called."""

    interface: str
    prefix: Prefix


NetlinkCall: TypeAlias = Configured | RouteAdded | RouteRemoved


class RecordingNetlink(Netlink):
    """Remembers what it was asked: `calls` in order (the last `NETLINK_CALLS`), `routes`, `addresses`, `gateway` and
    `masquerade` as they stand now."""

    def __init__(self) -> None:
        self.calls: deque[NetlinkCall] = deque(maxlen=NETLINK_CALLS)
        self.routes: dict[Prefix, str] = {}
        self.addresses: dict[IPv4Interface | IPv6Interface, str] = {}
        self.gateway: GatewayPlan | None = None
        self.masquerade: frozenset[int] = frozenset()
        self._told: set[str] = set()
        self._is_told = trio.Event()

    def change(self, *interfaces: str) -> None:
        """Something happened to these interfaces of the host, as `wait_changed` will tell."""
        self._told.update(interfaces)
        self._is_told.set()

    async def wait_changed(self) -> frozenset[str] | None:
        """See `Netlink`: what `change` was told."""
        await self._is_told.wait()
        self._is_told, told = trio.Event(), frozenset(self._told)
        self._told.clear()
        return told

    async def configure(
        self,
        interface: str,
        addresses: Sequence[IPv4Interface | IPv6Interface],
        mtu: int,
        *,
        bring_up: bool = True,
    ) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.calls.append(Configured(interface, tuple(addresses), mtu))
        self.addresses = dict.fromkeys(addresses, interface)

    async def add_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.addresses[address] = interface

    async def remove_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.addresses.pop(address, None)

    async def host_addresses(self) -> list[tuple[str, IPv4Address | IPv6Address]]:
        """See `Netlink`. This host tells nothing of itself: what it advertises is configured."""
        await trio.lowlevel.checkpoint()
        return []

    async def add_route(self, interface: str, prefix: Prefix) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.calls.append(RouteAdded(interface, prefix))
        self.routes[prefix] = interface

    async def remove_route(self, interface: str, prefix: Prefix) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.calls.append(RouteRemoved(interface, prefix))
        if self.routes.get(prefix) == interface:
            del self.routes[prefix]

    async def set_gateway(self, interface: str, plan: GatewayPlan | None) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.gateway = plan

    async def set_masquerade(self, interface: str, versions: Collection[int]) -> None:
        """See `Netlink`."""
        await trio.lowlevel.checkpoint()
        self.masquerade = frozenset(versions)


class _QuickDirectory(StateDirectory):
    async def apart(self, work: Callable[[], Result]) -> Result:
        """See `StateDirectory`."""
        await trio.lowlevel.checkpoint()
        return work()


class TunServing(Ports):
    """Whoever serves a simulated device is given what is of flows that send little apart, and first."""

    async def serve(
        self,
        port: Receiving[Batch],
        take: Callable[[Batch], None],
        take_lone: Callable[[Any], None] | None = None,
        *,
        sparse: tuple[Callable[[Batch], None], Callable[[Any], None] | None] | None = None,
    ) -> None:
        """See `Ports`."""
        if not isinstance(port, SimulatedTun) or not port.sparse_first or sparse is None:
            await super().serve(port, take, take_lone)
            return
        port.is_read_apart = True
        take_sparse, take_sparse_lone = sparse
        while True:
            first, others = await port.receive_apart()
            if len(first) == 1 and take_sparse_lone is not None:
                take_sparse_lone(first[0])
            elif first:
                take_sparse(first)
            if others:
                take(others)


class SimulatedPorts(TunServing):
    """The ports of one simulated host for one node. `host` is its numeric address on `network`.

    `netlink` records what the node asked for. Randomness comes from the seed, the host and the order in which hosts
    joined the network: the same in every run, and never the same for two nodes. It is no secret to anybody.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        host: str = "192.0.2.1",
        *,
        seed: int = 0,
        answer_pings: bool = False,
        sparse_first: bool = False,
    ) -> None:
        """`sparse_first`: what a program injects as sparse is read apart, and before the rest."""
        self.network = network
        self.host = str(ip_address(host))
        self.netlink = RecordingNetlink()
        self._answer_pings, self._sparse_first = answer_pings, sparse_first
        self._tun: SimulatedTun | None = None
        self._random = random.Random(f"{seed}/{self.host}/{network.join()}/entropy")  # noqa: S311 - no real keys

    @property
    def tun(self) -> SimulatedTun:
        """The device that the node opened last. Raises `LocalError` before it has opened one."""
        if self._tun is None:
            raise LocalError(f"there is no TUN device on {self.host}", "the node has not opened one yet")
        return self._tun

    def open_tun(self, name: str, mtu: int, *, several: bool = False) -> TunPort:
        """See `Ports`."""
        if self._tun is not None and self._tun.is_open:
            raise TunError(f"cannot open the TUN device {name!r}", "EBUSY: the node has one open", "close it first")
        self._tun = SimulatedTun(name, mtu, answer_pings=self._answer_pings, sparse_first=self._sparse_first)
        return self._tun

    def open_tun_queue(self, device: TunPort) -> TunPort:
        """See `Ports`."""
        assert isinstance(device, SimulatedTun)
        return device.add_queue()

    def open_datagrams(self, address: str | None, port: int, *, mark: int = 0) -> list[DatagramPort]:
        """See `Ports`. One socket, of the family of `host`; there is one way out of it, whatever the mark."""
        everywhere = "0.0.0.0" if ip_address(self.host).version == 4 else "::"  # noqa: S104 - nothing is bound for real
        if address not in (None, everywhere, self.host):
            raise PortError(
                f"cannot listen on {address!r}", "EADDRNOTAVAIL: this host has no such address", f"use {self.host}"
            )
        return [self.network.bind(self.host, port)]

    def open_beside(self, port: DatagramPort) -> DatagramPort:
        """See `Ports`."""
        assert isinstance(port, SimulatedDatagrams)
        return self.network.bind_beside(port)

    def open_netlink(self) -> AbstractAsyncContextManager[Netlink]:
        """See `Ports`. Always the same `netlink`."""
        return self._open_netlink()

    @asynccontextmanager
    async def _open_netlink(self) -> AsyncIterator[Netlink]:
        await trio.lowlevel.checkpoint()
        yield self.netlink

    def open_state(self, directory: Path) -> StateDirectory:
        """See `Ports`. Real files, whose disk takes no time: while a thread waits for one, a mock clock would run on."""
        return _QuickDirectory(directory)

    def wall_ns(self) -> int:
        """See `Ports`. Goes with Trio's clock from `WALL_START_NS`."""
        return WALL_START_NS + int(trio.current_time() * 1e9)

    def steady_s(self) -> float:
        """See `Ports`. Trio's clock."""
        return trio.current_time()

    def entropy(self, n: int) -> bytes:
        """See `Ports`."""
        return self._random.randbytes(n)
