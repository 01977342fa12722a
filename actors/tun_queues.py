"""Several queues of one TUN device behind one `TunPort`: the kernel spreads the flows of the host over them.

Each queue holds packets for its own reader (`queue_readers`), so that a flow that fills one leaves room for those in the
others. All packets of a flow are given to the host by one queue: the kernel notes by which, and sends the host's answers by the
same one (tun_flow_update in Linux, drivers/net/tun.c). Where a flow begins at the host, the kernel chooses.

Not responsible for what one queue does (`tun`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import trio

from holloway.actors.ports import Ports, TunPort, stream
from holloway.protocols.errors import TunError
from holloway.protocols.flows import flow_number
from holloway.protocols.packets import Packet, SuperPacket, byte_length, count_packets


class TunQueue:
    """One queue, and what the host sent by it."""

    def __init__(self, port: TunPort, device: TunQueues) -> None:
        self.port = port
        self.packets = self.bytes = 0
        """Taken so far; of a super-packet each segment counts."""
        self._device = device

    @property
    def drops(self) -> Counter[str]:
        """See `TunPort`."""
        return self.port.drops

    @property
    def superseded(self) -> int:
        """See `TunPort`."""
        return self.port.superseded

    @superseded.setter
    def superseded(self, number: int) -> None:
        self.port.superseded = number

    async def receive(self) -> list[Packet]:
        """See `TunPort`. When the device is gone, that is told by `TunQueues.receive`, once for all of its queues."""
        try:
            return self._counted(await self.port.receive())
        except TunError as error:
            self._device.lose(error)
        except trio.ClosedResourceError:
            if self._device.is_open:
                raise
        await trio.sleep_forever()
        raise AssertionError

    def more(self) -> Packet | None:
        """See `TunPort`."""
        packet = self.port.more()
        if packet is not None:
            self._counted([packet])
        return packet

    def stream(self, like: SuperPacket, take: Callable[[SuperPacket], bool]) -> Packet | None:
        """See `TunPort`."""
        return stream(self.more, like, take)

    def take(self) -> list[Packet]:
        """See `TunPort`."""
        return self._counted(self.port.take())

    def _counted(self, packets: list[Packet]) -> list[Packet]:
        self.packets += count_packets(packets)
        self.bytes += sum(map(byte_length, packets))
        return packets


class TunQueues(TunPort):
    """The queues of one device."""

    def __init__(self, first: TunPort, number: int, ports: Ports) -> None:
        """`number` of them, `first` included, which it owns from now on. Raises `TunError`."""
        self.name, self.mtu, self.offloads = first.name, first.mtu, first.offloads
        self.is_open = True
        self._has_lost = trio.Event()
        self._loss: TunError | None = None
        self.queues = [TunQueue(first, self)]
        self._written = self.queues[:1]
        try:
            while len(self.queues) < number:
                self.queues.append(TunQueue(ports.open_tun_queue(first), self))
        except TunError:
            self.close()
            raise

    @property
    def drops(self) -> Counter[str]:  # type: ignore[override] # their sum
        """See `TunPort`."""
        return sum((queue.drops for queue in self.queues), Counter())

    def set_local(self, addresses: Iterable[bytes]) -> None:
        """See `TunPort`."""
        addresses = tuple(addresses)
        for queue in self.queues:
            queue.port.set_local(addresses)

    async def receive(self) -> list[Packet]:
        """What the host sends goes to those who read `queues`. Raises `TunError` when the device is gone."""
        await self._has_lost.wait()
        assert self._loss is not None
        raise self._loss

    def lose(self, error: TunError) -> None:
        """The device is gone."""
        self._loss = error
        self._has_lost.set()

    def take(self) -> list[Packet]:
        """See `TunPort`. What is in the queues that were written to last: answers come there."""
        return [packet for queue in self._written for packet in queue.take()]

    def send(self, packets: Sequence[Packet]) -> None:
        """See `TunPort`. The order is that of each flow."""
        queues, number = self.queues, len(self.queues)
        if len(packets) == 1:
            self._written = [queues[flow_number(packets[0]) % number]]
            self._written[0].port.send(packets)
            return
        shares: dict[int, list[Packet]] = {}
        for packet in packets:
            shares.setdefault(flow_number(packet) % number, []).append(packet)
        self._written = [queues[each] for each in shares]
        for each, share in shares.items():
            queues[each].port.send(share)

    def close(self) -> None:
        """See `TunPort`."""
        self.is_open = False
        for queue in self.queues:
            queue.port.close()
