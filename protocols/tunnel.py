"""The data of one session: packets into datagrams and back under the keys that the session has, and what belongs to that.

    packets ──seal──► datagrams          arrivals ──open──► packets
                                                 └► reports, probes: heard, and answered

Responsible for how long datagrams may be (`path_mtu`), for telling the peer how its records arrive, for what a narrow path
means to those who send through it, and for counting traffic. Not responsible for agreeing on keys, for choosing one, nor for
when a session acts: that is `session`, and its timers are told what is due.
"""

from __future__ import annotations

from collections.abc import Sequence

from holloway.protocols.addresses import Address
from holloway.protocols.delivery import Delivery
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal, Traffic
from holloway.protocols.keyring import Keyring
from holloway.protocols.mss import clamp_mss, clamp_super_packet
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.packets import Packet, SuperPacket, count_packets, destination
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES, PathMtu, Probe, ProbeAck
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_size import REPORT_GRACE_S
from holloway.protocols.record_wire import HEADER_BYTES, RecordKind
from holloway.protocols.runs import Run
from holloway.protocols.session_config import SessionConfig
from holloway.protocols.timers import SessionTimers
from holloway.protocols.too_big import too_big
from holloway.protocols.transport import Opened, TransportKeys

OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
"""What a datagram has beside inner bytes, in both suites."""
TOO_BIG_INTERVAL_S = 0.05
"""Between two answers to packets that are too long. Each sender needs one, and all of them are carried meanwhile."""

KEEPALIVE = (b"",)


class Tunnel:
    """See the head of this module. Times are monotonic seconds."""

    __slots__ = (
        "_aimed_at",
        "_journal",
        "_ring",
        "_sealing",
        "_timers",
        "_too_big_at",
        "inside",
        "outbox",
        "path",
        "received",
        "transmitted",
        "widest",
    )

    def __init__(self, config: SessionConfig, ring: Keyring, timers: SessionTimers, journal: Journal) -> None:
        self._ring, self._timers, self._journal = ring, timers, journal
        self.inside = Delivery(config.inspect, journal)
        self.widest = most = config.mtu + OVERHEAD_BYTES
        """How long datagrams are when any packet of the device passes in one."""
        # A foreign peer knows no probes; what is too long for the way to it is fragmented.
        self.path = PathMtu(BASE_DATAGRAM_BYTES if config.suite.transport is None else most, most)
        self._sealing = config.memory.sealing
        self._aimed_at: Address | None = None
        self._too_big_at = float("-inf")
        self.outbox: list[Run] = []
        self.received = Traffic()
        self.transmitted = Traffic()

    @property
    def room(self) -> int:
        """Inner bytes a datagram."""
        return self.path.size - OVERHEAD_BYTES

    # Sending.

    def send(self, keys: TransportKeys, packets: Sequence[Packet], now: float) -> None:
        """Seal packets of the host under a key that may seal them."""
        if self.path.size < self.widest:
            packets = self._fitted(packets, now)
        if self.seal(keys, packets, now):
            self.transmitted.packets += count_packets(packets)
            self._timers.data_sent(now)

    def seal(self, keys: TransportKeys, packets: Sequence[Packet], now: float) -> bool:
        """Whether there was anything to send: not if all of it was malformed."""
        runs = keys.seal(packets, self.path.size - OVERHEAD_BYTES, now)
        if not runs:
            return False
        self.queue(runs, now)
        if self.path.sent(max([run.stride for run in runs]), now):
            self.probe(now)
        return True

    def queue(self, runs: Sequence[Run], now: float) -> None:
        """Datagrams for the peer, of whatever kind."""
        self.outbox += runs
        for run in runs:
            self.transmitted.bytes += run.length
        self._timers.any_sent(now)

    def take_runs(self) -> list[Run]:
        """What is to be sent, at once: see `SealingBuffers`."""
        if not self.outbox:
            return []
        outbox, self.outbox = self.outbox, []
        self._sealing.give_back()
        return outbox

    def _fitted(self, packets: Sequence[Packet], now: float) -> Sequence[Packet]:
        """On a narrow path: what is too long for a datagram is spread over two, so that nothing is lost, and whoever sent
        it is told to send less, so that not every packet depends on two.
        """
        if not self.path.is_settled:
            return packets  # most likely it is wide, and will be known to be in a moment
        room = self.room
        for packet in packets:
            if not isinstance(packet, SuperPacket) and len(packet) > room and now >= self._too_big_at:
                answerer = destination(packet)
                answer = None if answerer is None else too_big(packet, room, answerer)
                if answer is not None:
                    self._too_big_at = now + TOO_BIG_INTERVAL_S
                    self.inside.add_own(answer)
        return [clamped(packet, room) for packet in packets]

    def narrowed(self, packet: bytes) -> bytes:
        """The same for a packet that fits in any datagram."""
        return clamp_mss(packet, self.room) if self.path.is_settled else packet

    # Receiving.

    def hear(self, records: Sequence[Opened], source: Address, now: float) -> bool:
        """Take in authentic records. Whether there were packets among them, good or not."""
        has_data = False
        for record in records:
            self.received.bytes += record.size
            if record.packets:
                has_data = True
                self.received.packets += self.inside.add(record.kind, record.packets, source)
            elif record.kind is RecordKind.PROBE:
                self._answer_probe(record, source, now)
            elif record.kind is RecordKind.PROBE_ACK:
                self._hear_acknowledgement(record, source, now)
        return has_data

    def deliver(self) -> list[Packet]:
        """What is for the host. Taking it empties the list."""
        inside = self.inside
        if not inside.packets and not inside.unfinished:
            return []
        packets = inside.take() if inside.unfinished else inside.packets
        inside.packets = []
        if self.path.size < self.widest and self.path.is_settled:
            room = self.room
            return [clamped(packet, room) for packet in packets]
        return packets

    # Reports and probes.

    def watch(self, now: float, *, may_report: bool = True) -> None:
        """Tell the peer how its records arrive, when that is due; of another key than the one in use it hears nothing. Wait
        for the rest of records that have begun to arrive. `may_report`: not on account of what nobody has authenticated.
        """
        keys = self._usable(now)
        at = None if keys is None else keys.report_due_at
        if may_report and keys is not None and at is not None and at <= now:
            self.queue(keys.seal_report(now), now)
            at = keys.report_due_at
        self._timers.report_due(None if at is None else at + REPORT_GRACE_S)
        self._timers.pieces_expire(self._ring.watch_pieces())

    def aim(self, endpoint: Address | None, now: float) -> None:
        """The peer is reached at `endpoint` from now on."""
        if endpoint != self._aimed_at:
            self._aimed_at = endpoint
            self.path.path_changed(now)
            self.probe(now)

    def connected(self, now: float) -> None:
        """There is a new key to seal with."""
        self.path.connected(now)
        self.probe(now)

    def probe(self, now: float) -> None:
        """Draw conclusions from probes that were lost, and send those that are due."""
        keys = self._usable(now)
        if not isinstance(keys, RecordKeys):
            self._timers.path_due(None)
            return
        self.path.handle_timeout(now)
        while keys.can_seal(KEEPALIVE) and (probe := self.path.next_probe(now)) is not None:
            self.queue([keys.seal_record(RecordKind.PROBE, probe.encode())], now)
        self._timers.path_due(self.path.next_timeout())

    def _answer_probe(self, record: Opened, source: Address, now: float) -> None:
        probe = Probe.parse(record.plaintext)
        keys = self._usable(now)
        if probe is None or record.datagrams > 1:
            self._journal.drop(DropReason.PROBE_MALFORMED, source)
        elif isinstance(keys, RecordKeys):
            self.queue([keys.seal_record(RecordKind.PROBE_ACK, ProbeAck(*probe).encode())], now)

    def _hear_acknowledgement(self, record: Opened, source: Address, now: float) -> None:
        told = ProbeAck.parse(record.plaintext)
        if told is None or not self.path.acknowledged(told.number, told.size, now):
            self._journal.drop(DropReason.PROBE_UNKNOWN, source)
        else:
            self.probe(now)

    def _usable(self, now: float) -> TransportKeys | None:
        """The current key, if it may still seal something."""
        keys = self._ring.current
        return keys if keys is not None and now < keys.expires_at and keys.can_seal(KEEPALIVE) else None

    def clear(self) -> None:
        """Drop everything that waits to be sent."""
        self.outbox.clear()


def clamped(packet: Packet, mtu: int) -> Packet:
    """The packet, with a smaller MSS if it begins a TCP connection."""
    return clamp_super_packet(packet, mtu) if isinstance(packet, SuperPacket) else clamp_mss(packet, mtu)
