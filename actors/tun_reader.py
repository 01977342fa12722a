"""The actor that owns the TUN device: makes it, configures it, and hands its packets to the sessions.

Writing is a synchronous call on its handle, made by the sessions. Not responsible for the routes of single peers
(`kernel_routes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from holloway.actors.config import InterfaceConfig
from holloway.actors.local_addresses import LocalAddresses
from holloway.actors.ports import Netlink, Ports, TunPort
from holloway.actors.router import Router
from holloway.actors.tun_queues import TunQueues
from holloway.protocols.acknowledgements import without_superseded
from holloway.protocols.express import SHORT_BYTES
from holloway.protocols.packets import IPV4_HEADER_BYTES, Packet, SuperPacket, byte_length, destination, whole_packets
from holloway.protocols.records import bundles

if TYPE_CHECKING:
    import trio

    from holloway.actors.running_peer import RunningPeer
    from holloway.actors.tun_queues import TunQueue
    from holloway.supervisor import Context

LONG_BYTES = 30_000
"""A super-packet from here on has a record to itself as a rule; shorter ones share one if they can."""
FEW_PACKETS = 2
"""To no more packets than this is an answer of the host worth looking for at once: those of a bulk flow bring enough of
their own."""


class TunReader:
    """Handle of the running actor: the device, and where its packets go."""

    def __init__(self, port: TunPort, router: Router) -> None:
        self.port = port
        self.write_lone = port.send_lone
        """Give one packet to the host at once; what the host has answered by then is to be offered (`TunPort.send_lone`)."""
        self.answer_lone = self.offer_sparse_lone if port.answers_sparse else self.offer_lone
        """Offer what was answered to that."""
        self._router = router
        self._known = router.routes.known
        self._is_handing_on = False  # what the host sends later must not overtake it

    def write(self, packets: Sequence[Packet]) -> bool:
        """Give packets to the host at once. Whether the host may have an answer already: then `take_answers` soon."""
        self.port.send(packets)
        return len(packets) <= FEW_PACKETS

    def take_answers(self) -> None:
        """What the host sends by now goes to the sessions. A host answers a ping, or acknowledges a segment, before the
        write of it returns: without this the answer would wait for our task to be woken.
        """
        if self._is_handing_on:
            return  # the device is asked again before long
        packets = self.port.take()
        if packets:
            self.offer(packets)

    def carry(self, packets: list[Packet], port: TunPort | TunQueue) -> None:
        """Hand on what a `receive` of `port` gave, and what follows: of a bulk flow one packet after another, each all the way."""
        self._count_superseded(port)
        if type(packets[-1]) is not SuperPacket:
            self.offer(packets)
            return
        before, self._is_handing_on = self._is_handing_on, True
        try:
            self._carry(packets.pop(), packets, port)
        finally:
            self._is_handing_on = before

    def _carry(self, packet: Packet | None, waiting: list[Packet], port: TunPort | TunQueue) -> None:
        """`waiting` came before `packet`."""
        while packet is not None:
            if type(packet) is SuperPacket and len(packet.data) >= LONG_BYTES:
                if waiting:
                    self.offer(waiting)
                    waiting = []
                peer = self._router.find(packet)
                packet = port.more() if peer is None else self._send_on(packet, peer, port)
            else:
                waiting.append(packet)
                packet = port.more()
        if waiting:
            self.offer(waiting)

    def _send_on(self, packet: SuperPacket, peer: RunningPeer, port: TunPort | TunQueue) -> Packet | None:
        """What follows it, and is not for `peer`, or not as usual."""
        turn = peer.begin_sending()
        following: Packet | None = None
        is_taken = False
        if turn is not None:
            try:
                is_taken = turn.take(packet)
                if is_taken:
                    following = port.stream(packet, turn.take)
            finally:
                turn.close()
        if not is_taken:
            peer.offer_packets([packet])
        return port.more() if following is None else following

    def offer_lone(self, packet: Packet) -> None:
        """`offer` for one packet that came alone."""
        if not self._send_lone(packet):
            self.offer([packet])

    def offer_sparse(self, packets: list[Packet]) -> None:
        """`offer` for packets of flows that send little, which may overtake those of others."""
        self._count_superseded(self.port)
        if len(packets) == 1 and self._send_lone(packets[0], is_sparse=True):
            return
        left: list[Packet] = []
        batches: dict[RunningPeer, list[bytes]] = {}
        for packet in packets:
            for whole in whole_packets((packet,)) or (b"",):  # something malformed is counted as any other is
                peer = self._peer_of(whole)
                if peer is None:
                    left.append(whole)
                else:
                    batches.setdefault(peer, []).append(whole)
        for peer, batch in batches.items():
            left += _send_sparse(peer, batch)
        if left:
            self.offer(left)

    def offer_sparse_lone(self, packet: Packet) -> None:
        """The same for one that came alone."""
        if not self._send_lone(packet, is_sparse=True):
            self.offer_sparse([packet])

    def _send_lone(self, packet: Packet, *, is_sparse: bool = False) -> bool:
        if type(packet) is not bytes:
            return False
        peer = self._peer_of(packet)
        return peer is not None and peer.offer_lone(packet, is_sparse=is_sparse)

    def _peer_of(self, packet: bytes) -> RunningPeer | None:
        """As `Router.find`, but that nothing is counted."""
        if len(packet) < IPV4_HEADER_BYTES:
            return None
        address = packet[16:20] if packet[0] >> 4 == 4 else destination(packet)
        if address is None:
            return None
        peer = self._known(address)
        return self._router.routes.lookup(address) if peer is None else peer

    def _count_superseded(self, port: TunPort | TunQueue) -> None:
        if port.superseded:
            self._router.superseded += port.superseded
            port.superseded = 0

    def offer(self, packets: list[Packet]) -> None:
        """Hand packets of the host to the sessions that they are for: first to whom least is sent, as sealing a bulk flow
        takes a while, and a lone packet to somebody else need not wait for that.
        """
        if len(packets) == 1:
            first = packets[0]
            only = self._router.find(first)
            if only is not None and not (type(first) is SuperPacket and _sends_straight(only, first)):
                only.offer_packets(packets)
            return
        wanted = without_superseded(packets)
        self._router.superseded += len(packets) - len(wanted)
        batches = list(self._router.sort(wanted).items())
        if len(batches) > 1:
            batches.sort(key=lambda each: sum(map(byte_length, each[1])))
        before, self._is_handing_on = self._is_handing_on, True
        try:
            for peer, batch in batches:
                peer.offer_packets(batch)
        finally:
            self._is_handing_on = before


def _send_sparse(peer: RunningPeer, packets: list[bytes]) -> list[bytes]:
    """What the peer has not taken, nor what came after it."""
    taken = 0
    for bundle in bundles(packets, SHORT_BYTES):
        if peer.offer_lone(b"".join(bundle), is_sparse=True, count=len(bundle)):
            taken += len(bundle)
            continue
        for packet in bundle:  # on a narrow path they go one by one
            if not peer.offer_lone(packet, is_sparse=True):
                return packets[taken:]
            taken += 1
    return []


def _sends_straight(peer: RunningPeer, packet: SuperPacket) -> bool:
    turn = peer.begin_sending()
    if turn is None:
        return False
    try:
        return turn.take(packet)
    finally:
        turn.close()


async def tun_reader(
    ctx: Context,
    ports: Ports,
    interface: InterfaceConfig,
    addresses: LocalAddresses,
    router: Router,
    past_drops: Counter[str],
    *,
    task_status: trio.TaskStatus[TunReader],
) -> None:
    """Actor: the TUN device. Raises `TunError` when it cannot be made or goes away.

    What it counted goes into `past_drops` at its end.
    """
    port = ports.open_tun(interface.name, interface.device_mtu, several=interface.queues > 1)
    if interface.queues > 1:
        port = TunQueues(port, interface.queues, ports)  # which `queue_readers` read
    try:
        netlink: Netlink = ctx.sibling("netlink").get()
        await netlink.configure(port.name, addresses.all(), interface.device_mtu)
        addresses.set_local(port)
        reader = TunReader(port, router)
        task_status.started(reader)
        await ports.serve(
            port,
            partial(reader.carry, port=port),
            reader.offer_lone,
            sparse=(reader.offer_sparse, reader.offer_sparse_lone),
        )
    finally:
        port.close()
        past_drops.update(port.drops)
