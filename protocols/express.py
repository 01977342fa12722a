"""The short way of what comes alone: one short packet of the host into a datagram, and one short datagram into a packet.

A ping, a keystroke or a query crosses a network that is otherwise at rest, when nothing of this program is in the caches of the
processor; then what a packet costs is how much code it touches, and how many objects. So here is all that usually happens to
such a packet, and no more, and what comes of it is handed straight to the caller. Whatever is not as usual (no key, or one
that is to be replaced; a narrow path; packets that wait; another sender) is left alone, untouched, for the general way,
`Session.send` and `Session.receive`, which would have done exactly the same.

Not responsible for anything unusual.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.events import DropReason
from holloway.protocols.packets import IPV4_HEADER_BYTES, Packet, total_length
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES
from holloway.protocols.record_wire import RecordKind
from holloway.protocols.records import packets_of

if TYPE_CHECKING:
    from collections import deque

    from holloway.protocols.journal import Journal
    from holloway.protocols.keyring import Keyring
    from holloway.protocols.timers import SessionTimers, Timers
    from holloway.protocols.transport import TransportKeys
    from holloway.protocols.tunnel import Tunnel

_PLAIN_IPV4 = b"\x45"  # what a packet without options begins with
SHORT_BYTES = BASE_DATAGRAM_BYTES - 64
"""Packets up to this fit in a datagram that passes everywhere."""


class ExpressLane:
    """The short way through one session, which is a part of `Session`: an object of its own would be one more to touch. Times are
    monotonic seconds.
    """

    endpoint: Address | None
    last_received_at: float | None
    _durations: Timers
    _journal: Journal
    _ring: Keyring
    _timers: SessionTimers
    _tunnel: Tunnel
    _waiting: deque[Packet]

    @property
    def soonest_s(self) -> float:
        """So far ahead is every deadline that the short way arms, unless it leaves something for the outputs of the session."""
        return self._timers.soonest_s

    def send_lone(
        self,
        packet: Packet,
        now: float,
        send: Callable[[bytes], object] | None = None,
        *,
        is_sparse: bool = False,
        count: int = 1,
    ) -> bytes | None:
        """Seal one packet of the host: a datagram for `endpoint`, to be sent at once. None: nothing has happened, `send` it.

        `send` is given it before anything else is done that need not be done first. `is_sparse`: it is of a flow that sends little, and
        its datagram may overtake others on the way. Then it may be `count` packets back to back, each as long as it says; it is sealed as
        long as there is a key, and may cause a handshake (`has_more_to_send`).
        """
        keys, tunnel = self._ring.current, self._tunnel
        if (
            type(packet) is not bytes
            or keys is None
            or now >= (keys.expires_at if is_sparse else keys.young_until or self._judge(keys))
            or not 0 < len(packet) <= SHORT_BYTES
            or self._waiting
            or tunnel.outbox
            or self.endpoint is None
        ):
            return None
        if tunnel.path.size < tunnel.widest:
            if not is_sparse or count > 1:
                return None
            packet = tunnel.narrowed(packet)
        datagram = keys.seal_sparse(packet) if is_sparse else keys.seal_lone(packet)
        if datagram is not None:
            if send is not None:
                send(datagram)
            sent = tunnel.transmitted
            sent.packets += count
            sent.bytes += len(datagram)
            self._timers.packets_sent(now)
            if is_sparse and now >= (keys.young_until or self._judge(keys)):
                self._refresh_on_send(keys, now)
        return datagram

    def receive_lone(
        self, arrival: Arrival, now: float, deliver: Callable[[bytes], object] | None = None
    ) -> bytes | None:
        """Open one datagram: a packet for the host; or nothing, and what came of the datagram is with the other outputs of the
        session. None: nothing has happened, `receive` it.

        `deliver` is given a packet for the host before anything else is done that need not be done first.
        """
        source, data, stride, _ = arrival
        size = len(data)
        keys, tunnel = self._ring.current, self._tunnel
        inside = tunnel.inside
        if (
            stride != size
            or keys is None
            or now >= (keys.young_until or self._judge(keys))
            or source != self.endpoint
            or self._waiting
            or tunnel.outbox
            or inside.packets
            or inside.unfinished
            or tunnel.path.size < tunnel.widest
        ):
            return None
        try:
            packet = keys.open_lone(data, now)
        except InvalidTag:  # to try again would double what a forger can make us do
            self._journal.drop(DropReason.NOT_AUTHENTIC, source)
            return b""
        if packet is None:
            return None
        if not keys.heard_as:
            self._ring.hear(keys)
        received = tunnel.received
        if (packet[:1] == _PLAIN_IPV4 and packet[2] << 8 | packet[3] == len(packet) >= IPV4_HEADER_BYTES) or (
            packet and total_length(packet) == len(packet)
        ):
            reason = inside.inspect(packet)
            if reason is None:
                if keys.is_waiting:  # a report goes before it
                    inside.packets.append(packet)
                elif deliver is not None:
                    deliver(packet)
                received.packets += 1
            else:
                self._journal.drop(reason, source)
                packet = b""
            self._timers.packets_received(now)
        else:
            self._take_in(packet, source, now)
            packet = b""
        self.last_received_at = now
        received.bytes += size
        if keys.is_waiting:
            tunnel.watch(now)
            return b""
        return packet

    @property
    def has_more_to_send(self) -> bool:
        """Whether the last packet has caused something else to be sent."""
        return bool(self._tunnel.outbox)

    @abstractmethod
    def _refresh_on_send(self, keys: TransportKeys, now: float) -> None: ...

    def _take_in(self, plaintext: bytes, source: Address, now: float) -> None:
        """A keepalive, several packets, or what is none."""
        packets = packets_of(plaintext, 1)
        if packets is None:
            self._journal.drop(DropReason.MALFORMED, source)
        if packets:
            self._tunnel.received.packets += self._tunnel.inside.add(RecordKind.PACKETS, packets, source)
            self._timers.packets_received(now)
        else:
            self._timers.any_received(now)

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
