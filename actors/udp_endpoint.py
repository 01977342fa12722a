"""The actor that owns the UDP sockets: finds the session of each datagram and sends what sessions hand it.

One task for each socket (IPv4, IPv6) reads batches and sorts them with the pure `Demux`; sending is a synchronous call on
this handle. Not responsible for what datagrams mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeGuard

import trio

from holloway.actors.ports import DatagramPort, Ports
from holloway.actors.running_peer import Receiver
from holloway.actors.udp_queues import shared
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.demux import Demux, index_secret
from holloway.protocols.events import DropReason
from holloway.protocols.keys import StaticKey
from holloway.protocols.runs import Run
from holloway.protocols.transport import MIN_TRANSPORT_BYTES

if TYPE_CHECKING:
    from holloway.actors.dtls_handshaker import DtlsHandshaker
    from holloway.supervisor import Context


class UdpEndpoint:
    """Handle of the running actor: the sockets and the tables that find sessions."""

    def __init__(self, sockets: list[DatagramPort], static: StaticKey, secret: bytes, ports: Ports) -> None:
        self.demux: Demux[Receiver] = Demux(static, secret=secret, entropy=ports.entropy)
        self._owner = self.demux.owner
        self._sockets, self._ports = sockets, ports
        self._by_family = {len(socket.local): socket for socket in sockets}
        self._unreachable: Counter[str] = Counter()
        self.dtls: DtlsHandshaker | None = None
        """Whoever takes what belongs to DTLS."""

    @property
    def sockets(self) -> Sequence[DatagramPort]:
        """One of each family that the host has; with several queues `UdpQueues`."""
        return self._sockets

    @property
    def listening(self) -> list[Address]:
        """The addresses that the sockets are bound to."""
        return [socket.local for socket in self._sockets]

    @property
    def offloads(self) -> tuple[str, ...]:
        """What the sockets leave to the host, each once."""
        return tuple(dict.fromkeys(word for socket in self._sockets for word in socket.offloads))

    def can_reach(self, address: tuple[object, ...]) -> TypeGuard[Address]:
        """Whether there is a socket of the family of `address`."""
        return len(address) in self._by_family

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """Send at once. What the kernel refuses is counted, as is a destination of a family that we lack.

        `may_fragment`: see `DatagramPort.send`.
        """
        socket = self._by_family.get(len(destination))
        if socket is None:
            self._unreachable["udp_no_socket_of_family"] += len(datagrams)
        else:
            socket.send(datagrams, destination, may_fragment=may_fragment)

    def send_runs(self, runs: Sequence[Run], destination: Address, *, may_fragment: bool = False) -> None:
        """The same for datagrams in runs."""
        socket = self._by_family.get(len(destination))
        if socket is None:
            self._unreachable["udp_no_socket_of_family"] += sum(run.datagram_count for run in runs)
        else:
            socket.send_runs(runs, destination, may_fragment=may_fragment)

    def sender(self, destination: Address, *, may_fragment: bool = False) -> Callable[[Run], None]:
        """The same for one run after another."""
        socket = self._by_family.get(len(destination))
        if socket is None:
            return lambda run: self.send_runs((run,), destination, may_fragment=may_fragment)
        return partial(socket.send_run, destination=destination, may_fragment=may_fragment)

    def send_lone(self, datagram: bytes, destination: Address, *, may_fragment: bool = False) -> None:
        """The same for one datagram."""
        socket = self._by_family.get(len(destination))
        if socket is None:
            self._unreachable["udp_no_socket_of_family"] += 1
        else:
            socket.send_lone(datagram, destination, may_fragment=may_fragment)

    def lone_sender(
        self, destination: Address, *, may_fragment: bool = False, is_sparse: bool = False
    ) -> Callable[[bytes], None]:
        """`send_lone` for one datagram after another to the same destination. `is_sparse`: see `DatagramPort`."""
        socket = self._by_family.get(len(destination))
        if socket is None:
            return partial(self.send_lone, destination=destination, may_fragment=may_fragment)
        return socket.lone_sender(destination, may_fragment=may_fragment, is_sparse=is_sparse)

    def refused_runs(self) -> Counter[str]:
        """Why the host would not take runs of datagrams, and how often; they were sent one by one."""
        total: Counter[str] = Counter()
        for socket in self._sockets:
            total.update(socket.refused_runs)
        return total

    def drops(self) -> Counter[str]:
        """Everything lost at the sockets and in front of the sessions, by reason."""
        total = Counter(self._unreachable)
        for socket in self._sockets:
            total += socket.drops
        for reason, count in self.demux.drops.items():
            total[reason.value] += count
        return total

    async def read(self, socket: DatagramPort) -> None:
        """Read one socket until cancelled."""
        apart = None if socket.sparse is None else (partial(self._carry, socket.sparse), self.offer_lone)
        await self._ports.serve(socket, partial(self._carry, socket), self.offer_lone, sparse=apart)

    def _carry(self, socket: DatagramPort, arrivals: list[Arrival]) -> None:
        """Hand on what a `receive` of `socket` gave, and what follows: of a bulk flow one run after another, each all the way."""
        following: Arrival | None
        if len(arrivals) == 1:
            following = arrivals[0]
        else:
            self._offer(arrivals)
            following = socket.more()
        while following is not None:
            following = self._hand_on(following, socket)

    def offer_lone(self, arrival: Arrival) -> None:
        """Hand on one datagram that came alone."""
        _, data, size, _ = arrival
        if size >= MIN_TRANSPORT_BYTES:  # as `Demux.find` begins
            peer = self._owner(int.from_bytes(data[:4], "little"))
            if peer is not None and peer.offer_arrival(arrival):
                return
        self._offer([arrival])

    def _hand_on(self, arrival: Arrival, socket: DatagramPort) -> Arrival | None:
        """What follows it."""
        following: Arrival | None = None
        is_taken = False
        if arrival.stride < len(arrival.data):
            peer = self.demux.glance(arrival)
            turn = None if peer is None else peer.begin_receiving()
            if turn is not None:
                try:
                    is_taken = turn.take(arrival)
                    if is_taken:
                        following = socket.stream(turn.take)
                finally:
                    turn.close()
        if not is_taken:
            self._offer([arrival])
        return socket.more() if following is None else following

    def _offer(self, arrivals: list[Arrival]) -> None:
        """Sort what arrived by session. (Not in `read`, which would go on holding the last ones, and so their keys.)"""
        find = self.demux.find
        only = find(arrivals[0])
        if only is not None and (len(arrivals) == 1 or all(find(arrival) is only for arrival in arrivals[1:])):
            # As nearly always.
            only.offer_arrivals(arrivals)
            return
        found = self.demux.sort(arrivals, trio.current_time())
        batches = list(found.arrivals.items())
        if len(batches) > 1:  # whoever sends little does not wait for the work that bulk is
            batches.sort(key=lambda each: sum(len(arrival.data) for arrival in each[1]))
        for peer, batch in batches:
            peer.offer_arrivals(batch)
        for peer, opened, source in found.initiations:
            peer.offer_initiation(opened, source)
        for peer, token, source in found.resets:
            peer.offer_reset(token, source)
        if found.dtls:
            if self.dtls is None:
                self.demux.drops[DropReason.UNKNOWN_TYPE] += len(found.dtls)
            else:
                self.dtls.offer(found.dtls)
        for reply, source in found.replies:
            self.send((reply,), source)


async def udp_endpoint(
    ctx: Context,
    ports: Ports,
    address: str | None,
    port: int,
    private_key: bytes,
    past_drops: Counter[str],
    *,
    mark: int = 0,
    queues: int = 1,
    task_status: trio.TaskStatus[UdpEndpoint],
) -> None:
    """Actor: the node's UDP sockets; `mark`: see `Ports.open_datagrams`. Several `queues` are read by `queue_readers`. Raises
    `PortError` when none can be bound.

    What it counted goes into `past_drops` at its end, so that a restart does not turn the node's counters back.
    """
    static, secret = StaticKey(private_key), index_secret(private_key)
    sockets = ports.open_datagrams(address, port, mark=mark)
    if queues > 1:
        sockets = shared(sockets, queues, ports)
    endpoint = UdpEndpoint(sockets, static, secret, ports)
    try:
        async with trio.open_nursery() as nursery:
            for socket in sockets:
                nursery.start_soon(endpoint.read, socket)
            task_status.started(endpoint)
    finally:
        for socket in sockets:
            socket.close()
        past_drops.update(endpoint.drops())
