"""Several sockets of one address behind one `DatagramPort`: the kernel spreads what arrives over them by where it comes from.

What each socket holds for a reader that lags is its own, and each has a reader of its own (`queue_readers`), so that a flood
which lands in one takes neither memory nor more than its turn from the others. What is sent to one address always leaves by one of
them. One that breaks is closed at once, so that the kernel spreads its share over the others until it is replaced.

Not responsible for what any one socket does (`udp`), nor for how it comes to share an address (`udp_binding`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import trio

from holloway.actors.ports import DatagramPort, Ports
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.errors import PortError
from holloway.protocols.flows import address_number
from holloway.protocols.runs import Run


class UdpQueue(DatagramPort):
    """One of the sockets, whichever it is at the time, and what came by it."""

    def __init__(self, port: DatagramPort, family: UdpQueues) -> None:
        self.port = port
        self.local = port.local
        self.offloads = port.offloads
        self.is_broken = False
        self.datagrams = self.bytes = 0
        """Received so far."""
        self._family = family
        self._past_drops: Counter[str] = Counter()
        self._past_refusals: Counter[str] = Counter()

    @property
    def drops(self) -> Counter[str]:  # type: ignore[override] # of all the sockets that it has had
        """See `DatagramPort`."""
        return self._past_drops + self.port.drops

    @property
    def refused_runs(self) -> Mapping[str, int]:  # type: ignore[override] # the same
        """See `DatagramPort`."""
        return self._past_refusals + Counter(self.port.refused_runs)

    async def receive(self) -> list[Arrival]:
        """See `DatagramPort`. First replaces a socket that has broken."""
        if self.is_broken:
            self._family.replace(self)
        try:
            arrivals = await self.port.receive()
        except PortError:
            self._family.close_broken(self)
            raise
        except trio.ClosedResourceError:
            if self._family.is_open:
                raise
            await trio.sleep_forever()  # whoever reads us is told to stop by and by
        self.datagrams += sum([arrival.datagram_count for arrival in arrivals])
        self.bytes += sum([len(arrival.data) for arrival in arrivals])
        return arrivals

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self.port.send(datagrams, destination, may_fragment=may_fragment)

    def send_runs(self, runs: Sequence[Run], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self.port.send_runs(runs, destination, may_fragment=may_fragment)

    def more(self) -> Arrival | None:
        """See `DatagramPort`."""
        arrival = self.port.more()
        if arrival is not None:
            self.datagrams += arrival.datagram_count
            self.bytes += len(arrival.data)
        return arrival

    def send_run(self, run: Run, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self.port.send_run(run, destination, may_fragment=may_fragment)

    def send_lone(self, datagram: bytes, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self.port.send_lone(datagram, destination, may_fragment=may_fragment)

    def exchange(self, port: DatagramPort) -> None:
        """Go on with another socket."""
        self._past_drops += self.port.drops
        self._past_refusals.update(self.port.refused_runs)
        self.port, self.is_broken = port, False

    def close(self) -> None:
        """See `DatagramPort`."""
        self.port.close()


class UdpQueues(DatagramPort):
    """The sockets of one family."""

    def __init__(self, first: DatagramPort, ports: Ports) -> None:
        """Only `first` for the time being, which it owns from now on."""
        self.local = first.local
        self.offloads = first.offloads
        self.is_open = True
        self._ports = ports
        self._has_lost = trio.Event()
        self._loss: PortError | None = None
        self.queues = self._whole = [UdpQueue(first, self)]

    def widen(self, number: int) -> None:
        """Let there be `number` of them. Raises `PortError`."""
        while len(self.queues) < number:
            self.queues.append(UdpQueue(self._ports.open_beside(self.queues[0].port), self))

    @property
    def drops(self) -> Counter[str]:  # type: ignore[override] # their sum
        """See `DatagramPort`."""
        return sum((queue.drops for queue in self.queues), Counter())

    @property
    def refused_runs(self) -> Mapping[str, int]:  # type: ignore[override] # their sum
        """See `DatagramPort`."""
        return sum((Counter(queue.refused_runs) for queue in self.queues), Counter())

    async def receive(self) -> list[Arrival]:
        """What arrives goes to those who read `queues`. Raises `PortError` when one of them is broken and cannot be replaced."""
        await self._has_lost.wait()
        assert self._loss is not None
        raise self._loss

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self._towards(destination).send(datagrams, destination, may_fragment=may_fragment)

    def send_runs(self, runs: Sequence[Run], destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self._towards(destination).send_runs(runs, destination, may_fragment=may_fragment)

    def send_run(self, run: Run, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self._towards(destination).send_run(run, destination, may_fragment=may_fragment)

    def send_lone(self, datagram: bytes, destination: Address, *, may_fragment: bool = False) -> None:
        """See `DatagramPort`."""
        self._towards(destination).send_lone(datagram, destination, may_fragment=may_fragment)

    def _towards(self, destination: Address) -> DatagramPort:
        return self._whole[address_number(destination) % len(self._whole)].port

    def close_broken(self, queue: UdpQueue) -> None:
        """Do without it until it is replaced."""
        queue.is_broken = True
        queue.port.close()
        self._whole = [each for each in self.queues if not each.is_broken] or self.queues

    def replace(self, queue: UdpQueue) -> None:
        """A new socket for a queue that is broken. Raises `PortError`, and then so does `receive`."""
        beside = next((each.port for each in self.queues if not each.is_broken), None)
        try:
            if beside is None:
                raise PortError("no UDP socket is left", "all of them broke", "they are bound again on restart")
            queue.exchange(self._ports.open_beside(beside))
        except PortError as error:
            self._loss = error
            self._has_lost.set()
            raise
        self._whole = [each for each in self.queues if not each.is_broken]

    def close(self) -> None:
        """See `DatagramPort`."""
        self.is_open = False
        for queue in self.queues:
            queue.close()


def shared(sockets: Sequence[DatagramPort], number: int, ports: Ports) -> list[DatagramPort]:
    """Make `number` queues of each socket. Raises `PortError`, and has closed all of them then."""
    families = [UdpQueues(each, ports) for each in sockets]
    try:
        for family in families:
            family.widen(number)
    except PortError:
        for family in families:
            family.close()
        raise
    return list(families)
