"""The short way of what comes alone: one short packet of the host into a datagram, and one short datagram into packets.

A ping, a keystroke or a query crosses a network that is otherwise at rest, when nothing of this program is in the caches of the
processor; then what a packet costs is how much code it touches. So here is all that usually happens to such a packet, and no
more. Whatever is not as usual (no key, or one that is to be replaced; a narrow path; packets that wait; another sender) is
left alone, untouched, for the general way, `Session.send` and `Session.receive`, which would have done exactly the same.

Not responsible for anything unusual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.packets import Packet
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import RecordKind
from holloway.protocols.runs import Run

if TYPE_CHECKING:
    from holloway.protocols.keyring import Keyring
    from holloway.protocols.timers import SessionTimers, Timers
    from holloway.protocols.transport import TransportKeys
    from holloway.protocols.tunnel import Tunnel
    from holloway.protocols.waiting import Waiting

SHORT_BYTES = BASE_DATAGRAM_BYTES - 64
"""Packets up to this fit in a datagram that passes everywhere."""


class ExpressLane:
    """The short way through one session. Times are monotonic seconds."""

    __slots__ = ("_durations", "_keys", "_ring", "_seen", "_staged", "_timers", "_tunnel", "_until")

    def __init__(
        self, ring: Keyring, tunnel: Tunnel, timers: SessionTimers, durations: Timers, staged: Waiting
    ) -> None:
        self._ring, self._tunnel, self._timers = ring, tunnel, timers
        self._durations, self._staged = durations, staged.queue
        self._seen: TransportKeys | None = None
        self._keys: RecordKeys | None = None
        self._until = float("-inf")

    def send(self, packet: Packet, now: float) -> bool:
        """Seal one packet into the outbox. False: nothing has happened."""
        if self._ring.current is not self._seen:
            self._look_again()
        keys, tunnel = self._keys, self._tunnel
        if (
            keys is None
            or now >= self._until
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

    def receive(self, arrival: Arrival, home: Address | None, now: float) -> bool:
        """Open one datagram from where the peer is known to be. False: nothing has happened."""
        if self._ring.current is not self._seen:
            self._look_again()
        keys, tunnel = self._keys, self._tunnel
        source, data, stride = arrival
        size = len(data)
        if (
            keys is None
            or now >= self._until
            or stride != size
            or source != home
            or self._staged.packets
            or tunnel.path.size < tunnel.widest
        ):
            return False
        packets = keys.open_lone(data, source, now)
        if packets is None:
            return False
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

    def _look_again(self) -> None:
        """There is another key to seal with, or none."""
        keys = self._seen = self._ring.current
        if not isinstance(keys, RecordKeys) or not keys.has_short_way:
            self._keys = None
            return
        durations = self._durations
        young_s = (
            min(durations.rekey_after_s, durations.rekey_on_receive_s)
            if keys.is_initiator
            else durations.rekey_as_responder_s
        )
        self._keys, self._until = keys, min(keys.expires_at, keys.created_at + young_s)
