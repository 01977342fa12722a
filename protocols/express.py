"""The short way of what comes alone: one short packet of the host into a datagram, and one short datagram into packets.

A ping, a keystroke or a query crosses a network that is otherwise at rest, when nothing of this program is in the caches of the
processor; then what a packet costs is how much code it touches. So here is all that usually happens to such a packet, and no
more. Whatever is not as usual (no key, or one that is to be replaced; a narrow path; packets that wait; another sender) is
left alone, untouched, for the general way, `Session.send` and `Session.receive`, which would have done exactly the same.

Not responsible for anything unusual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.events import DropReason
from holloway.protocols.packets import Packet
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES
from holloway.protocols.record_wire import RecordKind
from holloway.protocols.runs import Run

if TYPE_CHECKING:
    from holloway.protocols.journal import Journal
    from holloway.protocols.keyring import Keyring
    from holloway.protocols.timers import SessionTimers, Timers
    from holloway.protocols.transport import TransportKeys
    from holloway.protocols.tunnel import Tunnel
    from holloway.protocols.waiting import Waiting

SHORT_BYTES = BASE_DATAGRAM_BYTES - 64
"""Packets up to this fit in a datagram that passes everywhere."""


class ExpressLane:
    """The short way through one session. Times are monotonic seconds. It keeps no key: a key that is forgotten is gone."""

    __slots__ = ("_durations", "_journal", "_ring", "_staged", "_timers", "_tunnel")

    def __init__(
        self,
        ring: Keyring,
        tunnel: Tunnel,
        timers: SessionTimers,
        durations: Timers,
        staged: Waiting,
        journal: Journal,
    ) -> None:
        self._ring, self._tunnel, self._timers = ring, tunnel, timers
        self._durations, self._staged, self._journal = durations, staged.queue, journal

    def send(self, packet: Packet, now: float) -> bool:
        """Seal one packet into the outbox. False: nothing has happened."""
        keys, tunnel = self._ring.current, self._tunnel
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or type(packet) is not bytes
            or not 0 < len(packet) <= SHORT_BYTES
            or self._staged.packets
            or tunnel.path.size < tunnel.widest
        ):
            return False
        datagram = keys.seal_lone(packet)
        if datagram is None:
            return False
        length = len(datagram)
        tunnel.outbox.append(Run((datagram,), length, length))
        sent = tunnel.transmitted
        sent.packets += 1
        sent.bytes += length
        self._timers.packets_sent(now)
        return True

    def receive(self, arrival: Arrival, home: Address | None, now: float) -> bool | None:
        """Open one datagram from where the peer is known to be; whether it is authentic. None: nothing has happened."""
        keys, tunnel = self._ring.current, self._tunnel
        source, data, stride, _ = arrival
        size = len(data)
        if (
            keys is None
            or now >= (keys.young_until or self._judge(keys))
            or stride != size
            or source != home
            or self._staged.packets
            or tunnel.path.size < tunnel.widest
        ):
            return None
        try:
            packets = keys.open_lone(data, source, now)
        except InvalidTag:  # to try again would double what a forger can make us do
            self._journal.drop(DropReason.NOT_AUTHENTIC, source)
            return False
        if packets is None:
            return None
        received = tunnel.received
        received.bytes += size
        if packets:
            received.packets += tunnel.inside.add(RecordKind.PACKETS, packets, source)
            self._timers.packets_received(now)
        else:
            self._timers.any_received(now)
        if keys.is_waiting:
            tunnel.watch(now)
        return True

    def _judge(self, keys: TransportKeys) -> float:
        """Until when `keys` need no thought of a successor."""
        durations = self._durations
        young_s = (
            min(durations.rekey_after_s, durations.rekey_on_receive_s)
            if keys.is_initiator
            else durations.rekey_as_responder_s
        )
        keys.young_until = min(keys.expires_at, keys.created_at + young_s)
        return keys.young_until
