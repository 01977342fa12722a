"""A datagram network in memory: hosts, links with latency and faults, and whoever listens on the wire.

Responsible for carrying each datagram from one simulated socket to another at its time, in order, on Trio's clock, and
for doing so the same way again for the same seed. Not responsible for what a node asks besides sockets
(`holloway.simulations.ports`), nor for corruption, reordering or bandwidth.

There is no task behind it: a datagram waits in the socket it is going to, and the reader wakes when its time comes. So a
network is an ordinary object that needs no nursery and works with a mock clock. Nothing here iterates over a set or
depends on an object's identity; every fault draws from a random stream of its own, named by seed, link and kind, so that
switching one fault off does not move the others.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeAlias

import trio

from holloway.actors.ports import DatagramPort
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import LocalError, PortError
from holloway.protocols.flows import address_number

RECEIVE_QUEUE = 4096  # datagrams a socket holds for a reader that lags; a real one holds 4 MiB
RECEIVE_BUDGET = 128  # datagrams one `receive` takes
IN_FLIGHT_MAX = 65_536  # datagrams under way to one socket
EPHEMERAL_PORTS = range(49_152, 65_536)  # RFC 6335, section 6
DATAGRAM_MAX_BYTES = {2: 65_507, 4: 65_527}  # by parts of the address: IPv4 counts its header in its 65 535, IPv6 not

Tap: TypeAlias = Callable[[Address, Address, bytes], None]
"""Called with source, destination and bytes of every datagram that is put on the wire, also of those that get lost."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two hosts. `loss` and `duplicate` are probabilities for each datagram."""

    latency_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        if self.latency_s < 0 or not 0 <= self.loss <= 1 or not 0 <= self.duplicate <= 1:
            raise LocalError("no such link", f"{self}: latency is 0 or more, a probability from 0 to 1")


class _Way:
    """A link in use: its random streams, and when its last datagram arrives, which the next one does not overtake."""

    def __init__(self, seed: int, source: str, destination: str) -> None:
        self.last_due = 0.0
        self._streams = {
            fault: random.Random(f"{seed}/{source}/{destination}/{fault}")  # noqa: S311 - faults, not keys
            for fault in ("loss", "duplicate")
        }

    def happens(self, fault: str, probability: float) -> bool:
        return probability > 0 and self._streams[fault].random() < probability


class SimulatedNetwork:
    """Every host can reach every other over links of `latency_s`, unless `shape` says otherwise.

    `taps` are called for each datagram; `drops` counts those that reached no socket: `link_loss`, `link_full`,
    `no_such_address`.
    """

    def __init__(self, seed: int = 0, latency_s: float = 0.0) -> None:
        self.seed = seed
        self.taps: list[Tap] = []
        self.drops: Counter[str] = Counter()
        self._default = Link(latency_s)
        self._links: dict[tuple[str, str], Link] = {}
        self._ways: dict[tuple[str, str], _Way] = {}
        self._sockets: dict[Address, SimulatedDatagrams] = {}  # by the address they have on the wire
        self._sent = 0
        self._joined = 0

    def join(self) -> int:
        """A number for a new participant: 1, 2, 3 in the order of joining."""
        self._joined += 1
        return self._joined

    def shape(self, source: str, destination: str, link: Link, *, both_ways: bool = True) -> None:
        """Change the link between two hosts from now on. What is under way is not touched. `Link(loss=1)` cuts it."""
        ends = _host(source)[0], _host(destination)[0]
        self._links[ends] = link
        if both_ways:
            self._links[ends[::-1]] = link

    def bind(self, host: str, port: int) -> SimulatedDatagrams:
        """A socket on `host`, a numeric address; port 0 takes a free one. Raises `PortError` when the port is taken."""
        taken = self._sockets | {socket.local: socket for socket in self._sockets.values()}
        choices = [port] if port else EPHEMERAL_PORTS
        for choice in choices:
            address = _address(host, choice)
            if address not in taken:
                self._sockets[address] = SimulatedDatagrams(self, address)
                return self._sockets[address]
        raise PortError(
            f"cannot listen on {format_address(_address(host, port))}",
            "EADDRINUSE: another simulated socket has the port",
            "close it, or bind another port",
        )

    def bind_beside(self, first: SimulatedDatagrams) -> SimulatedDatagrams:
        """One more socket with the address of `first`: what arrives is spread over them by where it comes from."""
        if first not in first.group:
            raise PortError(f"cannot share {format_address(first.local)}", "EBADF: the socket is closed")
        socket = SimulatedDatagrams(self, first.local)
        socket.public, socket.group = first.public, first.group
        socket.group.append(socket)
        return socket

    def rebind(self, old: Address, new: Address) -> None:
        """Let a socket be seen as `new` on the wire instead of `old`, as when a NAT forgets its mapping.

        Its owner is not told: `local` stays. What is sent to `old` from now on goes nowhere; its links stay those of its
        host. Raises `LocalError` when nobody has the old address or somebody has the new one.
        """
        old, new = _address(*old[:2]), _address(*new[:2])
        if old not in self._sockets or new in self._sockets:
            raise LocalError(
                f"cannot rebind {format_address(old)} to {format_address(new)}",
                "no socket has the first address" if old not in self._sockets else "a socket has the second address",
            )
        if len(old) != len(new):
            raise LocalError(f"cannot rebind {format_address(old)}", f"{format_address(new)} is of another family")
        self._sockets[new] = self._sockets.pop(old)
        for socket in self._sockets[new].group:
            socket.public = new

    def release(self, socket: SimulatedDatagrams) -> None:
        """Forget a socket that was closed."""
        socket.group.remove(socket)
        if socket.group:
            self._sockets[socket.public] = socket.group[0]
        else:
            del self._sockets[socket.public]

    def carry(self, sender: SimulatedDatagrams, datagram: bytes, destination: Address) -> None:
        """Put one datagram on the wire. It is delivered, or counted in `drops`."""
        destination = _address(*destination[:2])
        for tap in self.taps:
            tap(sender.public, destination, datagram)
        receiver = self._sockets.get(destination)
        if receiver is None:
            self.drops["no_such_address"] += 1
            return
        if len(receiver.group) > 1:
            receiver = receiver.group[address_number(sender.public) % len(receiver.group)]
        hosts = sender.local[0], receiver.local[0]
        link = self._links.get(hosts, self._default)
        way = self._ways.get(hosts)
        if way is None:
            way = self._ways[hosts] = _Way(self.seed, *hosts)
        if way.happens("loss", link.loss):
            self.drops["link_loss"] += 1
            return
        way.last_due = max(way.last_due, trio.current_time() + link.latency_s)
        arrival = Arrival(sender.public, datagram, len(datagram))
        for _ in range(2 if way.happens("duplicate", link.duplicate) else 1):
            self._sent += 1
            if not receiver.expect(way.last_due, self._sent, arrival):
                self.drops["link_full"] += 1


class SimulatedDatagrams(DatagramPort):
    """A UDP socket of the simulated network. Made by `SimulatedNetwork.bind`.

    `public` is its address on the wire, which is `local` until a NAT changes it; `group` are all that share it.
    """

    def __init__(self, network: SimulatedNetwork, local: Address) -> None:
        self.local = local
        self.public = local
        self.group = [self]
        self.drops: Counter[str] = Counter()
        self._network = network
        self._is_open = True
        self._in_flight: list[tuple[float, int, Arrival]] = []  # a heap by time, then by order of sending
        self._received: deque[Arrival] = deque()
        self._readers = trio.lowlevel.ParkingLot()

    async def receive(self) -> list[Arrival]:
        """See `DatagramPort`. Takes up to `RECEIVE_BUDGET` datagrams, one `Arrival` each."""
        self._settle()
        if self._received:
            await trio.lowlevel.checkpoint()
        while self._is_open and not self._received:
            with trio.move_on_at(self._in_flight[0][0] if self._in_flight else float("inf")):
                await self._readers.park()
            self._settle()
        if not self._is_open:
            raise trio.ClosedResourceError(f"{format_address(self.local)} is closed")
        return [self._received.popleft() for _ in range(min(len(self._received), RECEIVE_BUDGET))]

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`. Reasons are those of the kernel's port: `udp_emsgsize`, `udp_ebadf` once closed."""
        if len(destination) != len(self.local):
            raise LocalError(
                f"cannot send to {format_address(destination)} from {format_address(self.local)}",
                "they are of different address families",
            )
        for datagram in datagrams:
            if not self._is_open:
                self.drops["udp_ebadf"] += 1
            elif len(datagram) > DATAGRAM_MAX_BYTES[len(self.local)]:
                self.drops["udp_emsgsize"] += 1
            else:
                self._network.carry(self, bytes(datagram), destination)

    def expect(self, due: float, number: int, arrival: Arrival) -> bool:
        """Take a datagram that arrives at `due` on Trio's clock; the network's side of this socket. False when too many
        are under way already.
        """
        self._settle()
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        heapq.heappush(self._in_flight, (due, number, arrival))
        if self._in_flight[0][1] == number:  # the reader sleeps until a later one
            self._readers.unpark_all()
        return True

    def _settle(self) -> None:
        """Let arrive what is due. A reader that lags loses the newest, as with a real socket's full buffer.

        To do so only now and not at the datagram's own time makes no difference, as nothing was taken out in between.
        """
        now = trio.current_time()
        while self._in_flight and self._in_flight[0][0] <= now:
            arrival = heapq.heappop(self._in_flight)[2]
            if len(self._received) < RECEIVE_QUEUE:
                self._received.append(arrival)
            else:
                self.drops["receive_buffer_full"] += 1

    def close(self) -> None:
        """See `DatagramPort`."""
        if self._is_open:
            self._is_open = False
            self._network.release(self)
            self._readers.unpark_all()


def _address(host: str, port: int) -> Address:
    """The one spelling of an address that the network knows."""
    spelling, version = _host(host)
    return (spelling, port) if version == 4 else (spelling, port, 0, 0)


@lru_cache(maxsize=4096)
def _host(text: str) -> tuple[str, int]:
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        raise LocalError(f"there is no host {text!r}", "a simulated network knows numeric addresses only") from None
    return str(parsed), parsed.version
