"""Nodes in one program, for the tests of the actors: hosts on a simulated network, their configurations, and ports that
break when they are told to.

Host N has the outer address 192.0.2.N, the inner address 10.99.0.N and the private key of 32 bytes N. Not responsible for
time: the tests run under a MockClock.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path
from struct import pack
from typing import Any, cast

import jsonschema
import trio

from holloway.actors import (
    Config,
    ControlConfig,
    Endpoint,
    GatewayConfig,
    InterfaceConfig,
    ListenConfig,
    MemoryRegistry,
    Node,
    NodeConfig,
    PeerConfig,
    RegistryConfig,
    SessionConfig,
    open_node,
)
from holloway.actors.ports import DatagramPort, Netlink, TunPort
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import PortError, TunError
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import NodeRecord
from holloway.protocols.packets import Packet
from holloway.simulations.network import SimulatedNetwork
from holloway.simulations.ports import RecordingNetlink, SimulatedPorts, SimulatedTun

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"
PORT = 1099


def private_key(number: int) -> bytes:
    return bytes([number]) * 32


@cache
def public_key(number: int) -> bytes:
    return StaticKey(private_key(number)).public


def name(number: int) -> str:
    return f"node-{number}"


def outer(number: int) -> str:
    return f"192.0.2.{number}"


def inner(number: int) -> bytes:
    return bytes((10, 99, 0, number))


def host(number: int) -> IPv4Network | IPv6Network:
    return ip_network(f"10.99.0.{number}/32")


def peer(number: int, *, endpoint: Endpoint | bool | None = True, **changes: Any) -> PeerConfig:
    """Host `number` as a configured peer; `endpoint`: its own one, another one, or none."""
    if isinstance(endpoint, bool):
        endpoint = Endpoint(outer(number), PORT) if endpoint else None
    made = PeerConfig(name=name(number), public_key=public_key(number), allowed=(host(number),), endpoint=endpoint)
    return replace(made, **changes)


def config(
    number: int,
    *,
    peers: Sequence[PeerConfig] = (),
    registry: bool = False,
    advertise: Sequence[Endpoint] | None = None,
    prefixes: Sequence[str] = (),
    network: str = "holloway",
    control: Path | None = None,
    gateway: GatewayConfig | None = None,
    **session: Any,
) -> Config:
    """The configuration of host `number`."""
    if advertise is None:
        advertise = (Endpoint(outer(number), PORT),)
    return Config(
        node=NodeConfig(name=name(number), network=network, prefixes=tuple(ip_network(each) for each in prefixes)),
        interface=InterfaceConfig(name="hw0", addresses=(ip_interface(f"10.99.0.{number}/24"),)),
        session=SessionConfig(private_key=private_key(number), **session),
        listen=ListenConfig(advertise=tuple(advertise)),
        peers=tuple(peers),
        registry=RegistryConfig(url="memory:", trust="store") if registry else None,
        control=None if control is None else ControlConfig(socket=control),
        gateway=gateway or GatewayConfig(),
    )


def record(number: int, **changes: Any) -> NodeRecord:
    """The record that host `number` would publish."""
    made = NodeRecord(
        name=name(number),
        public_key=public_key(number),
        endpoints=((outer(number), PORT),),
        addresses=(ip_interface(f"10.99.0.{number}/24"),),
        security=("session",),
    )
    return replace(made, **changes)


def packet(source: int, target: int, serial: int, size: int = 100) -> bytes:
    """A whole IPv4 packet of `size` bytes between two hosts' inner addresses that tells its serial number."""
    header = pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 253, 0, inner(source), inner(target))
    return (header + pack(">Q", serial)).ljust(size, b"\xa5")


def serial(found: bytes) -> int:
    return int.from_bytes(found[20:28], "big")


class FragileTun(SimulatedTun):
    """A device that somebody can take away."""

    failure: Exception | None = None

    def vanish(self) -> None:
        for queue in self.queues:
            queue.failure = TunError("lost the TUN device hw0", "ENODEV: somebody deleted it")
            queue.close()

    async def receive(self) -> list[Packet]:
        try:
            return await super().receive()
        except trio.ClosedResourceError:
            if self.failure is None:
                raise
            raise self.failure from None


class FragileDatagrams(DatagramPort):
    """A socket that can break."""

    def __init__(self, port: DatagramPort) -> None:
        self.port = port
        self.local, self.drops = port.local, port.drops
        self.failure: Exception | None = None
        self.may_fragment: list[bool] = []

    def vanish(self) -> None:
        self.failure = PortError("the socket broke", "EIO")
        self.port.close()

    async def receive(self) -> list[Arrival]:
        try:
            return await self.port.receive()
        except trio.ClosedResourceError:
            if self.failure is None:
                raise
            raise self.failure from None

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        self.may_fragment += [may_fragment] * len(datagrams)
        self.port.send(datagrams, destination, may_fragment=may_fragment)

    def close(self) -> None:
        self.port.close()


class FragileNetlink(RecordingNetlink):
    """A kernel that refuses the routes in `refused`, and crashes when asked for those in `poisoned`."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.poisoned: set[str] = set()

    async def add_route(self, interface: str, prefix: IPv4Network | IPv6Network) -> None:
        if str(prefix) in self.refused:
            raise PortError(f"cannot route {prefix}", "EPERM")
        if str(prefix) in self.poisoned:
            raise RuntimeError(f"a bug met {prefix}")
        await super().add_route(interface, prefix)


class NetlinkHandle:
    """A kernel as one opening of netlink gives it: of no use once that has crashed, as the real one is."""

    def __init__(self, netlink: FragileNetlink) -> None:
        self._netlink = netlink
        self._has_crashed = False

    def crash(self) -> None:
        self._has_crashed = True

    def __getattr__(self, verb: str) -> Any:
        if self._has_crashed:
            raise trio.ClosedResourceError(f"netlink was closed before {verb}")
        return getattr(self._netlink, verb)


class FragilePorts(SimulatedPorts):
    """Ports of one host, each of which can be broken."""

    socket: FragileDatagrams
    netlink: FragileNetlink

    def __init__(self, network: SimulatedNetwork, number: int, *, answer_pings: bool = False) -> None:
        super().__init__(network, outer(number), answer_pings=answer_pings)
        self.netlink = FragileNetlink()
        self._netlink_crash = trio.Event()
        self.datagrams_refused = 0

    def open_tun(self, name: str, mtu: int, *, several: bool = False) -> TunPort:
        if self._tun is not None and self._tun.is_open:
            raise TunError(f"cannot open {name}", "EBUSY")
        self._tun = FragileTun(name, mtu, answer_pings=self._answer_pings)
        self.netlink.routes.clear()  # they went with the device before
        return self._tun

    def open_datagrams(self, address: str | None, port: int, *, mark: int = 0) -> list[DatagramPort]:
        if self.datagrams_refused:
            self.datagrams_refused -= 1
            raise PortError("cannot listen", "EADDRINUSE")
        self.socket = FragileDatagrams(super().open_datagrams(address, port, mark=mark)[0])
        return [self.socket]

    def open_beside(self, port: DatagramPort) -> DatagramPort:
        assert isinstance(port, FragileDatagrams)
        return FragileDatagrams(super().open_beside(port.port))

    def open_netlink(self) -> AbstractAsyncContextManager[Netlink]:
        return self._fragile_netlink()

    @asynccontextmanager
    async def _fragile_netlink(self) -> AsyncIterator[Netlink]:
        self._netlink_crash = trio.Event()
        handle = NetlinkHandle(self.netlink)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._crash_netlink, self._netlink_crash, handle)
            try:
                yield cast("Netlink", handle)
            except Exception as error:
                failure = error
            finally:
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _crash_netlink(self, told: trio.Event, handle: NetlinkHandle) -> None:
        await told.wait()
        handle.crash()
        raise PortError("netlink broke", "EIO")

    def crash_tun(self) -> None:
        assert isinstance(self._tun, FragileTun)
        self._tun.vanish()

    def crash_udp(self) -> None:
        self.socket.vanish()

    def crash_netlink(self) -> None:
        self._netlink_crash.set()


class World:
    """A network, a registry and the hosts that were asked for."""

    def __init__(self, *, latency_s: float = 0.01, seed: int = 0) -> None:
        self.network = SimulatedNetwork(seed=seed, latency_s=latency_s)
        self.memory = MemoryRegistry()
        self.wire: list[tuple[float, Address, Address, bytes]] = []
        self.network.taps.append(
            lambda source, target, datagram: self.wire.append((trio.current_time(), source, target, datagram))
        )

    def ports(self, number: int, *, answer_pings: bool = False) -> FragilePorts:
        return FragilePorts(self.network, number, answer_pings=answer_pings)

    def node(self, config: Config, ports: SimulatedPorts, **options: Any) -> AbstractAsyncContextManager[Node]:
        """`open_node` in this world."""
        return open_node(config, ports=ports, memory=self.memory, **options)

    @asynccontextmanager
    async def pair(self, **changes: Any) -> AsyncIterator[tuple[Node, Node, FragilePorts, FragilePorts]]:
        """Hosts 1 and 2 as configured peers of one another, with a session between them."""
        left, right = self.ports(1), self.ports(2)
        async with (
            self.node(config(1, peers=[peer(2)], **changes), left) as a,
            self.node(config(2, peers=[peer(1)], **changes), right) as b,
        ):
            with trio.fail_after(5):
                await a.connected(name(2))
                await b.connected(name(1))
            yield a, b, left, right


class Daemon:
    """A node in a task of its own, to be started and stopped at any time."""

    def __init__(self, world: World, nursery: trio.Nursery, config: Config, ports: FragilePorts) -> None:
        self._world, self._nursery, self._config, self._ports = world, nursery, config, ports
        self._wanted_down = trio.Event()
        self._down = trio.Event()

    async def start(self) -> Node:
        node: Node = await self._nursery.start(self._run)
        return node

    async def stop(self) -> None:
        self._wanted_down.set()
        await self._down.wait()

    async def _run(self, *, task_status: trio.TaskStatus[Node]) -> None:
        self._wanted_down, self._down = trio.Event(), trio.Event()
        async with self._world.node(self._config, self._ports) as node:
            task_status.started(node)
            await self._wanted_down.wait()
        self._down.set()


async def crosses(source: FragilePorts, target: FragilePorts, found: bytes, *, within_s: float = 1.0) -> bool:
    """Whether a packet that a program on one host sends arrives at the other within so much time."""
    source.tun.inject([found])
    with trio.move_on_after(within_s):
        while found not in await target.tun.collect():
            pass
        return True
    return False


async def eventually_crosses(source: FragilePorts, target: FragilePorts, found: bytes, *, within_s: float) -> bool:
    """The same for a packet that is sent again and again until it arrives."""
    with trio.move_on_after(within_s):
        while True:
            if source.tun.is_open and await crosses(source, target, found, within_s=0.1):
                return True
            await trio.sleep(0.05)
    return False


def validate(verb: str, answer: object) -> None:
    """Hold an answer against the published schema of a verb."""
    schema = json.loads((SCHEMAS / f"holloway.{verb}.json").read_text())
    jsonschema.validate(json.loads(json.dumps(answer)), schema)


def the_peer(node: Node, number: int) -> Any:
    """What `peers` says of host `number`."""
    answer: Any = node.peers()
    return next(each for each in answer["peers"] if each["name"] == name(number))


def drops(node: Node) -> Any:
    """What `status` says was dropped."""
    return node.status()["drops"]
