"""The seams of the daemon: what an actor may ask of the kernel, as Protocols.

Responsible for the shapes only: the TUN device, the datagram sockets, addresses and routes, kept files, the wall clock,
randomness.
Not responsible for any of them: `holloway.actors.kernel` asks the kernel, `holloway.simulations.ports` pretends to be
one, and nothing above this module knows which of the two it has.

Receiving waits; sending never does. `send` is one synchronous, non-blocking call a batch, so that an actor can flush what
a protocol object gave it without leaving its turn. What cannot be sent is lost, as on any network, and counted by reason
in `drops`: reasons of refusals are `tun_` or `udp_` and the errno in small letters, others are named where they arise.

Monotonic time to wait by is not a port: actors read `trio.current_time()`, which a simulation replaces with a clock of
its own.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.gateway import GatewayPlan
from holloway.protocols.packets import Packet, SuperPacket, destination
from holloway.protocols.runs import Run, flatten

if TYPE_CHECKING:
    from holloway.actors.state_directory import StateDirectory


Batch = TypeVar("Batch")
Given_co = TypeVar("Given_co", covariant=True)


class Receiving(Protocol[Given_co]):
    """A port that things come from."""

    async def receive(self) -> Given_co: ...


class TunPort(Protocol):
    """A layer-3 device: whole IPv4 and IPv6 packets, no link header.

    `receive` gives what the host sends into the network, `send` gives packets to the host.
    """

    name: str
    mtu: int
    drops: Counter[str]
    offloads: tuple[str, ...] = ()
    """What the host leaves to us and takes from us: `csum`, `tso4`, `tso6`, `uso4`, `uso6`. With none, `receive` gives
    no super-packets."""
    answers_sparse: bool = False
    """Whether what `send_lone` gives is of flows that send little."""
    superseded: int = 0
    """Acknowledgements that `receive` has left out (`protocols.acknowledgements`), for others to take back to 0."""

    def set_local(self, addresses: Iterable[bytes]) -> None:
        """The inner addresses of this host, 4 or 16 bytes each: packets to them end here, so that their checksums may be
        left to the host. Until this is called no packet is taken for one.
        """

    async def receive(self) -> list[Packet]:
        """Wait for the first packet, then take what is there up to a budget. Never returns an empty list.

        Raises `TunError` when the device is gone, `trio.ClosedResourceError` once this port is closed.
        """
        ...

    def more(self) -> Packet | None:
        """After a `receive` that ended with a super-packet: what follows it, while its budget lasts. Never waits, and raises
        nothing: `receive` does.
        """
        return None

    def stream(self, like: SuperPacket, take: Callable[[SuperPacket], bool]) -> Packet | None:
        """`more`, again and again: the super-packets that go where `like` goes are given to `take`, which does not keep them, for
        as long as it says that it has taken the last. What it has not taken, or any other packet; None: nothing follows, or it is
        to be asked for by `more`.
        """
        return stream(self.more, like, take)

    def take(self) -> list[Packet]:
        """What is there now, up to a budget; perhaps nothing. Never waits, and raises nothing: `receive` does."""
        ...

    def send(self, packets: Sequence[Packet]) -> None:
        """Give packets to the host at once, in order. Never waits and never raises for a bad packet: see `drops`."""
        ...

    def send_bulk(self, packet: SuperPacket) -> None:
        """`send` for one super-packet."""
        self.send((packet,))

    def send_lone(self, packet: bytes) -> list[Packet]:
        """`send` for one packet, and then `take`: a host may answer before the call returns. It need not take all that is there."""
        self.send((packet,))
        return self.take()

    def close(self) -> None:
        """Give the device back and wake a waiting `receive`. Twice is fine."""
        ...


class DatagramPort(Protocol):
    """One UDP socket of one family. `local` is the address it is bound to."""

    local: Address
    drops: Counter[str]
    offloads: tuple[str, ...] = ()
    """What it leaves to the host: `gso`, runs of datagrams in one call; `gro`, the same for what arrives."""
    refused_runs: Mapping[str, int] = MappingProxyType({})
    """Why the host would not take runs, and how often; their datagrams were sent one by one."""
    sparse: DatagramPort | None = None
    """Another one of the same address, which is read first, and goes with this one: see `Ports.serve`."""

    async def receive(self) -> list[Arrival]:
        """Wait for the first datagram, then take what is there up to a budget. Never returns an empty list.

        Raises `PortError` when the socket is broken, `trio.ClosedResourceError` once this port is closed.
        """
        ...

    def more(self) -> Arrival | None:
        """After a `receive` that gave a long run by itself: what follows it, while its budget lasts. In the memory of the one
        before. Never waits, and raises nothing: `receive` does.
        """
        return None

    def stream(self, take: Callable[[Arrival], bool]) -> Arrival | None:
        """`more`, again and again, given to `take`, which does not keep it, for as long as it says that it has taken the last. What it
        has not taken; None: nothing follows, or it is to be asked for by `more`.
        """
        while (arrival := self.more()) is not None:
            if not take(arrival):
                return arrival
        return None

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """Send each datagram to `destination` (numeric, of this port's family) at once; see `drops` for the refused.

        With `may_fragment` the network may take them apart; without, what is too long for it is lost.

        Raises `LocalError` for an address of the other family, and nothing else.
        """
        ...

    def send_runs(self, runs: Sequence[Run], destination: Address, *, may_fragment: bool = False) -> None:
        """The same for datagrams that lie back to back."""
        self.send(flatten(runs), destination, may_fragment=may_fragment)

    def send_run(self, run: Run, destination: Address, *, may_fragment: bool = False) -> None:
        """The same for one run."""
        self.send_runs((run,), destination, may_fragment=may_fragment)

    def send_lone(self, datagram: bytes, destination: Address, *, may_fragment: bool = False) -> None:
        """The same for one datagram."""
        self.send((datagram,), destination, may_fragment=may_fragment)

    def lone_sender(
        self, destination: Address, *, may_fragment: bool = False, is_sparse: bool = False
    ) -> Callable[[bytes], None]:
        """`send_lone` for one datagram after another to the same destination. `is_sparse`: each may overtake what is sent otherwise, and
        `may_fragment` is false.
        """
        return partial(self.send_lone, destination=destination, may_fragment=may_fragment)

    def close(self) -> None:
        """Close the socket and wake a waiting `receive`. Twice is fine."""
        ...


class Netlink(Protocol):
    """Addresses, MTU and routes of the host. Every call raises `PortError` when the kernel refuses."""

    async def configure(
        self,
        interface: str,
        addresses: Sequence[IPv4Interface | IPv6Interface],
        mtu: int,
        *,
        bring_up: bool = True,
    ) -> None:
        """Give `interface` exactly these addresses and this MTU, and bring it up. Changes only what differs. Without `bring_up`
        one that is down is left as it is.
        """
        ...

    async def add_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """Give `interface` one address more. One that it has is fine."""
        ...

    async def remove_address(self, interface: str, address: IPv4Interface | IPv6Interface) -> None:
        """Take one address from it. An address, or an interface, that is not there is fine."""
        ...

    async def add_route(self, interface: str, prefix: IPv4Network | IPv6Network) -> None:
        """Route `prefix` into `interface`, in place of a route for the same prefix."""
        ...

    async def remove_route(self, interface: str, prefix: IPv4Network | IPv6Network) -> None:
        """Undo `add_route`. A route, or an interface, that is not there is fine."""
        ...

    async def set_gateway(self, interface: str, plan: GatewayPlan | None) -> None:
        """Make the host's rules for `interface` equal to `plan`, and its table for them; None: there are to be none, those of an
        earlier life included.
        """
        ...

    async def set_masquerade(self, interface: str, versions: Collection[int]) -> None:
        """Give packets of these IP versions that come out of `interface`, and leave this host, its own address; with none,
        undo it, that of an earlier life included.
        """
        ...

    async def host_addresses(self) -> list[tuple[str, IPv4Address | IPv6Address]]:
        """The addresses at which others might reach this host, each with its interface: of those that are up, and of no one
        link or host alone.
        """
        ...

    async def wait_changed(self) -> frozenset[str] | None:
        """Wait until an interface comes up, or its addresses change, by whoever; the names of all that did.

        Several changes soon after one another are told together. `None` when too much happened to tell: anything may
        have changed. Serves one task. Raises `PortError`.
        """
        ...


class Ports(Protocol):
    """What a node asks of the world."""

    def open_tun(self, name: str, mtu: int, *, several: bool = False) -> TunPort:
        """The TUN device `name`; with `several` it may have more queues than this port (`open_tun_queue`). Raises `TunError`.
        Setting the MTU is `Netlink.configure`'s work.
        """
        ...

    def open_tun_queue(self, device: TunPort) -> TunPort:
        """One more queue of a device that was opened with `several`: from now on the host spreads its flows over all of them.

        Raises `TunError`.
        """
        ...

    def open_datagrams(self, address: str | None, port: int, *, mark: int = 0) -> list[DatagramPort]:
        """Sockets for `port` (0: any free one) on a numeric `address`, or on all of them, IPv4 and IPv6, with None. What they
        send carries `mark` inside the host, so that its rules can tell it (`Netlink.set_gateway`).

        A family that the host lacks is left out; the list is never empty. Raises `PortError`.
        """
        ...

    def open_beside(self, port: DatagramPort) -> DatagramPort:
        """One more socket of the same address, and like it in everything: from now on what arrives is spread over all such
        sockets by where it comes from. Raises `PortError`.
        """
        ...

    async def serve(
        self,
        port: Receiving[Batch],
        take: Callable[[Batch], None],
        take_lone: Callable[[Any], None] | None = None,
        *,
        sparse: tuple[Callable[[Batch], None], Callable[[Any], None] | None] | None = None,
    ) -> None:
        """Give `take` all that `port` receives, batch by batch, until cancelled. Raises what `receive` and `take` raise.

        Whoever serves it may do without `receive` and without a task, but not at the same time as one; and may give what
        comes alone, after a rest, to `take_lone`, not in a batch. `sparse`: the two to give what comes apart, as of flows that send
        little, and before the others; without, these two.
        """
        while True:
            take(await port.receive())

    def open_netlink(self) -> AbstractAsyncContextManager[Netlink]:
        """Addresses and routes of the host for as long as the context lasts."""
        ...

    def open_state(self, directory: Path) -> StateDirectory:
        """What the node keeps from one process to the next, in a folder that is there."""
        ...

    def wall_ns(self) -> int:
        """Wall clock, nanoseconds since 1970. It may jump: for time stamps and leases, never for waiting."""
        ...

    def steady_s(self) -> float:
        """Seconds since some moment, on a clock that never jumps, and goes on while the host sleeps: for what ends by itself."""
        ...

    def entropy(self, n: int) -> bytes:
        """`n` bytes fit to make keys from."""
        ...


def stream(more: Callable[[], Packet | None], like: SuperPacket, take: Callable[[SuperPacket], bool]) -> Packet | None:
    """`TunPort.stream` of `more`."""
    wanted = destination(like.data)
    while (packet := more()) is not None:
        if type(packet) is not SuperPacket or destination(packet.data) != wanted or not take(packet):
            return packet
    return None


def refusal(port: str, error: OSError) -> str:
    """The drop reason for what the kernel refused: `refusal("tun", ENOBUFS)` is `tun_enobufs`."""
    return f"{port}_{errno.errorcode.get(error.errno or 0, 'refused').lower()}"
