"""The actor of one peer that is reached over DTLS: drives the pure `Link` with time, and moves records and packets to the ports.

It is offered the same things by the same actors as a `PeerSession`, and answers the same questions. Every offer is one synchronous
call, in which the whole turn happens; packets wait only while there is no association. A turn that crashes is the end of this
actor and not of whoever offered.

Not responsible for handshakes (`dtls_handshaker`), for records (`dtls_channel`), nor for when to do what (`holloway.protocols.dtls_link`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, assert_never

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.calling import Callbook
from holloway.actors.dtls_calls import DtlsCalls
from holloway.actors.dtls_channel import Ending, HandshakeRefused, SecureChannel
from holloway.actors.dtls_keys import DtlsKeys
from holloway.actors.dtls_records import DtlsRecords
from holloway.actors.dtls_view import DtlsView
from holloway.actors.pinging import Pinger, Pong
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.dtls_link import Dial, GaveUp, Link, Retire, SendProbe
from holloway.protocols.dtls_wire import FIRST_OF_PACKETS, LinkMessage, message, read_message
from holloway.protocols.events import DropReason
from holloway.protocols.inspection import Inspector
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.offers import NOT_COMPRESSED, Security
from holloway.protocols.packets import Packet, count_packets
from holloway.protocols.staging import Staging
from holloway.protocols.timers import Timers

if TYPE_CHECKING:
    from logging import Logger

    from holloway.actors.dtls_handshaker import DtlsHandshaker
    from holloway.actors.router import Router
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.actors.wanted import Peer
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.exported import ExportedSession
    from holloway.protocols.noise import OpenedInitiation


class DtlsPeer:
    """Handle of one running peer actor. Made by `peers`, once for each incarnation."""

    def __init__(
        self,
        peer: Peer,
        make_exported: Callable[[DtlsPeer], ExportedSession] | None,
        *,
        own_name: str,
        timers: Timers,
        router: Router,
        handshaker: DtlsHandshaker,
        tun: TunReader,
        udp: UdpEndpoint,
        log: Logger,
        first_ping: int,
        memory: MemoryBudget,
        mtu: int,
    ) -> None:
        """`make_exported`: called at once, it makes what carries data under keys of the association; None: data is in records of
        DTLS. `first_ping`: see `PeerSession`. What waits for an association is taken from `memory`.
        """
        self.peer = peer
        self.drops: Counter[str] = Counter()
        self.callbook = Callbook(peer.endpoints, udp.can_reach)
        self.is_connected = False
        """Whether the first handshake is complete."""
        self.is_stopped = False
        self.link = Link(timers, is_preferred=own_name < peer.name, keepalive_s=peer.keepalive_s)
        self._channels: dict[int, SecureChannel] = {}
        self._inspect = Inspector(router.routes, self, router.local)
        self._handshaker, self._tun, self._udp, self._log = handshaker, tun, udp, BoundedLog(log)
        self._calls = DtlsCalls(peer.name, self.callbook, self._log)
        self._staged = Staging(memory)
        self._pinger = Pinger(first_ping)
        self._waiting = trio.CancelScope()
        self._looking_up = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._crash: Exception | None = None
        self._settled = trio.Event()
        self._may_be_answered = False
        self._records = DtlsRecords(udp, mtu)
        self.session = DtlsView(self, self._records.sent)
        self._keys = DtlsKeys(None if make_exported is None else make_exported(self), udp)

    @property
    def suite(self) -> str:
        """What data is sealed in."""
        channel = self.channel
        is_exported = channel is not None and self._keys.can_send(channel, (), trio.current_time())
        return "dtls-exporter" if is_exported else "dtls"

    @property
    def exported(self) -> ExportedSession | None:
        """What carries data under keys of associations."""
        return self._keys.session

    packing = None

    @property
    def problem(self) -> str | None:
        """Why the last handshake was refused, until one is not."""
        return self._calls.problem

    @property
    def security(self) -> Security | None:
        """DTLS, when there is an association."""
        return None if self.link.current is None else Security.DTLS

    @property
    def compression(self) -> str | None:
        """DTLS compresses nothing here."""
        return None if self.link.current is None else NOT_COMPRESSED

    def __repr__(self) -> str:
        return f"<DtlsPeer {self.peer.name} {self.link!r}>"

    @property
    def channel(self) -> SecureChannel | None:
        """The association under which packets leave."""
        number = self.link.current
        return None if number is None else self._channels[number]

    # Offers: synchronous messages from the other actors.

    def offer_packets(self, packets: list[Packet]) -> None:
        """Packets of the host for this peer."""
        self._take_turn(partial(self._send, packets), lost=packets)

    def offer_lone(self, packet: bytes, *, is_sparse: bool = False, count: int = 1) -> bool:
        """See `RunningPeer`. There is no short way."""
        return False

    def begin_sending(self) -> None:
        """See `RunningPeer`. Likewise."""

    def offer_arrival(self, arrival: Arrival) -> bool:
        """See `Receiver`. Likewise."""
        return False

    def begin_receiving(self) -> None:
        """See `Receiver`. Likewise."""

    def offer_records(self, records: Sequence[tuple[SecureChannel, bytes, Address]]) -> None:
        """DTLS datagrams of the network, each with its association and its source."""
        self._take_turn(partial(self._receive, records))

    def offer_arrivals(self, arrivals: list[Arrival]) -> None:
        """Datagrams of the network under exported keys. Their memory may be used again as soon as this returns."""
        self._take_turn(partial(self._receive_exported, arrivals))

    def offer_initiation(self, opened: OpenedInitiation, source: Address) -> None:
        """A handshake that is not DTLS is none."""
        self.drops[DropReason.WRONG_SUITE.value] += 1

    def offer_reset(self, token: bytes, source: Address) -> None:
        """Nobody has a token of ours."""
        self.drops[DropReason.UNKNOWN_RESET.value] += 1

    def accept(self, channel: SecureChannel) -> None:
        """An association that the peer dialled."""
        self._take_turn(partial(self._begin, channel))
        if self.is_stopped:
            self._udp.send(channel.close(), channel.address)

    # What the roster and others ask.

    def update(self, peer: Peer) -> None:
        """The same peer with other endpoints or prefixes. An association that works is not disturbed, as long as its certificate
        speaks for what the peer is now.
        """
        is_moved = peer.endpoints != self.peer.endpoints
        self.peer = peer
        self._take_turn(partial(self._adapt, is_moved))

    def announce(self) -> None:
        """This host may be reachable elsewhere now: let the peer hear from us, so that it learns where."""
        self._take_turn(self._announce)

    def rekey(self) -> None:
        """Make a new association now, whatever the age of the present one."""
        self._take_turn(lambda: self.link.rekey(trio.current_time()))

    async def wait_connected(self) -> bool:
        """Wait until the first handshake is complete; False when the actor ended before."""
        await self._settled.wait()
        return self.is_connected

    async def ping(self, source: bytes, target: bytes, timeout_s: float) -> Pong | None:
        """See `PeerSession.ping`."""
        key, request = self._pinger.begin(source, target, trio.current_time())
        try:
            ping = self._pinger.waiting[key]
            self.offer_packets([request])
            with trio.move_on_after(timeout_s):
                await ping.ended.wait()
        finally:
            del self._pinger.waiting[key]
        channel = self.channel
        if ping.round_trip_s is None or channel is None:
            return None
        self.link.round_trip_s = ping.round_trip_s
        return Pong(ping.round_trip_s, format_address(channel.address), self.link.epoch)

    def health(self) -> str:
        """See `PeerSession.health`."""
        link = self.link
        if self.is_stopped:
            return "down"
        if link.current is not None:
            return "stale" if link.is_silent(trio.current_time()) else "ok"
        return "handshaking" if link.is_dialling and link.attempts <= 1 and self.problem is None else "down"

    # Turns. One that crashes, in whosever call, is left to our own task to end of.

    def _take_turn(self, act: Callable[[], None], *, lost: Sequence[Packet] = ()) -> None:
        if self.is_stopped:
            self.drops[DropReason.PEER_DOWN.value] += count_packets(lost)
            return
        try:
            act()
            self._follow_link()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._crash = error
            self.is_stopped = True
            self._waiting.cancel()
        if self._may_be_answered:  # now that this turn is over: the answer is a turn of its own
            self._may_be_answered = False
            self._tun.take_answers()

    def _follow_link(self) -> None:
        """Do what the link wants done, and wake our task when that is due earlier than it thinks."""
        link = self.link
        while (action := link.next_action()) is not None:
            match action:
                case SendProbe(number, probe_number):
                    if number in self._channels:  # and was not ended by what came early under it
                        self._records.send(self._channels[number], [message(LinkMessage.PROBE, probe_number)])
                case Dial(attempt):
                    assert self._nursery is not None
                    self._looking_up.cancel()
                    self._nursery.start_soon(self._dial, attempt)
                case Retire(number):
                    self._close(self._channels.pop(number))
                    self._keys.forget(number, is_last=not self._channels)
                case GaveUp(attempts):
                    self._log.warning("peer %s: no association after %d attempts", self.peer.name, attempts)
                    self._discard(DropReason.HANDSHAKE_TIMEOUT)
                    assert self._nursery is not None
                    self._looking_up = trio.CancelScope()
                    self._nursery.start_soon(self._call_when_named, self._looking_up)
                case _:
                    assert_never(action)
        at = self._deadline()
        if at < self._waiting.deadline:  # noqa: PLR1730 - an assignment costs a heap operation: not for every batch
            self._waiting.deadline = at

    def _send(self, packets: Sequence[Packet]) -> None:
        now = trio.current_time()
        channel = self.channel
        if channel is None:
            displaced = self._staged.put(packets)
            self.drops[DropReason.STAGING_FULL.value] += count_packets(displaced.by_bounds)
            self.drops[DropReason.MEMORY_FULL.value] += count_packets(displaced.by_memory)
            self.link.connect(now)
            return
        if self._keys.can_send(channel, packets, now):
            self._keys.send(channel, packets, now)
            self.link.sent(0, now)  # what was sealed is counted there
            return
        self._propose_keys(channel, now)
        count, answers = self._records.send_packets(channel, packets, now)
        self.link.sent(count, now)
        self._deliver(answers, now)

    def _receive(self, records: Sequence[tuple[SecureChannel, bytes, Address]]) -> None:
        now = trio.current_time()
        packets: list[Packet] = []
        for channel, record, source in records:
            if channel.closed.is_set():
                continue
            before = channel.address
            texts = channel.open(record, source)
            if isinstance(texts, Ending):
                self._end(channel, texts, now)
                continue
            if not texts:
                self.drops[DropReason.NOT_AUTHENTIC.value] += 1
                continue
            self.session.from_records.bytes += len(record)
            self.link.heard(channel.number, now)
            if channel.address != before and channel is self.channel:
                self._note_move(before, channel, now)
            for text in texts:
                self._read(channel, text, packets, now)
        self.session.from_records.packets += len(packets)
        if packets and self.channel is not None:
            self._propose_keys(self.channel, now)
        self._deliver(self._records.path.arrived(packets), now)

    def _receive_exported(self, arrivals: list[Arrival]) -> None:
        now, channel = trio.current_time(), self.channel
        for number in self._keys.receive(arrivals, channel, now):
            self.link.heard(number, now)
        at = self._keys.endpoint
        if channel is not None and at is not None and at != channel.address:
            before, channel.address = channel.address, at
            self._note_move(before, channel, now)
        self._keys.flush(self.channel)
        self._deliver(self._keys.packets_to_deliver(), now)

    def _deliver(self, packets: list[Packet], now: float) -> None:
        if packets and self._pinger.waiting:
            packets = self._pinger.without_answers(packets, now)
        if packets:
            self._may_be_answered = self._tun.write(packets)

    def _read(self, channel: SecureChannel, text: bytes, packets: list[Packet], now: float) -> None:
        """What one record says."""
        if text[0] >= FIRST_OF_PACKETS:
            reason = self._inspect(text)
            if reason is None:
                packets.append(text)
            else:
                self.drops[reason.value] += 1
            return
        match read_message(text):
            case None:
                self.drops[DropReason.MALFORMED.value] += 1
            case LinkMessage.PROBE, number:
                self._records.send(channel, [message(LinkMessage.ANSWER, number)])
            case LinkMessage.ANSWER, number:
                self.link.answered(number, now)
            case (LinkMessage.PATH_PROBE | LinkMessage.PATH_HEARD) as kind, number:
                self._records.hear(kind, number, channel, now)
            case kind, index:
                self._agree_on_keys(channel, kind, index, now)

    def _agree_on_keys(self, channel: SecureChannel, kind: LinkMessage, index: int, now: float) -> None:
        if channel.number not in self._channels:
            return
        if kind is LinkMessage.KEYS_AGREED and channel is not self.channel:
            return  # of two that came up at once the other one was chosen meanwhile
        said = self._keys.hear(kind, index, channel, now)
        if said is not None:
            self._records.send(channel, [said])
        self._keys.flush(self.channel)

    def _propose_keys(self, channel: SecureChannel, now: float) -> None:
        if channel.is_ours and channel is self.channel:
            said = self._keys.propose(channel, now)
            if said is not None:
                self._records.send(channel, [said])
            self._keys.flush(channel)

    def _note_move(self, old: Address, channel: SecureChannel, now: float) -> None:
        new = self.callbook.proven = channel.address
        self._records.moved(channel, now)
        self._log.info(
            "peer %s: endpoint moved from %s to %s", self.peer.name, format_address(old), format_address(new)
        )

    def _begin(self, channel: SecureChannel) -> None:
        """An association is up."""
        self._channels[channel.number] = channel
        now = trio.current_time()
        self.link.established(channel.number, now, is_ours=channel.is_ours, is_foreign=channel.is_plain)
        if not channel.is_plain:
            self.callbook.proven = channel.address
        self._calls.problem = None
        self._looking_up.cancel()
        side = "we dialled" if channel.is_ours else "it dialled"
        tell = self._log.debug if self.is_connected else self._log.info
        tell("peer %s: association up, %s", self.peer.name, side)
        self.is_connected = True
        self._settled.set()
        self._records.connected(channel, now)
        self._propose_keys(channel, now)
        if len(self._staged):
            self._send(self._staged.take())
        if channel.early:
            self._receive([(channel, record, source) for record, source in channel.early])
            channel.early = ()

    def _end(self, channel: SecureChannel, ending: Ending, now: float) -> None:
        if self._channels.pop(channel.number, None) is not None:
            self._log.info("peer %s: an association is %s", self.peer.name, ending.value)
            self._close(channel)
            self._keys.forget(channel.number, is_last=not self._channels)
            self.link.closed(channel.number, now)

    def _close(self, channel: SecureChannel) -> None:
        self._udp.send(channel.close(), channel.address)

    def _adapt(self, is_moved: bool) -> None:
        now = trio.current_time()
        for channel in list(self._channels.values()):
            addresses = self._handshaker.own_addresses(self)
            problem = channel.speaker.fits(self.peer.name, addresses)
            if problem is not None:
                self._log.warning("peer %s: its certificate does not fit any more: %s", self.peer.name, problem.value)
                self._calls.problem = problem.value
                del self._channels[channel.number]
                self._close(channel)
                self._keys.forget(channel.number, is_last=not self._channels)
                self.link.closed(channel.number, now)
        if is_moved:
            self.callbook.replace(self.peer.endpoints)
            self.link.retry(now)
            self._connect(now)

    def _announce(self) -> None:
        channel = self.channel
        if channel is not None:
            self._records.send(channel, [message(LinkMessage.PROBE, 0)])

    def _connect(self, now: float) -> None:
        if self.peer.endpoints or self.callbook.proven is not None:
            self.link.connect(now)

    def _discard(self, reason: DropReason) -> None:
        self.drops[reason.value] += count_packets(self._staged.take())

    # Our own tasks.

    async def run(self, task_status: trio.TaskStatus[DtlsPeer]) -> None:
        """Keep the timers until cancelled. Every association is closed on the way out."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._take_turn(lambda: self._connect(trio.current_time()))
                task_status.started(self)
                while not self.is_stopped:
                    with trio.CancelScope(deadline=self._deadline()) as self._waiting:
                        await trio.sleep_forever()
                    self._take_turn(self._time_out)
                    await trio.lowlevel.checkpoint()  # deadlines due at once must not keep the others waiting
                self._nursery.cancel_scope.cancel()
        finally:
            self.close()
        assert self._crash is not None
        raise self._crash

    def _deadline(self) -> float:
        return min(self.link.next_timeout(), self._keys.next_timeout(), self._records.next_timeout(self.channel))

    def _time_out(self) -> None:
        now = trio.current_time()
        self.link.handle_timeout(now)
        self._keys.handle_timeout(self.channel, now)
        self._records.probe(self.channel, now)

    async def _dial(self, attempt: int) -> None:
        """One attempt, wherever the peer may be."""
        try:
            address = await self._calls.place(attempt)
            channel = await self._handshaker.dial(self, address, is_plain=self.peer.is_plain_dtls)
        except HandshakeRefused as refused:
            self._take_turn(partial(self._note_refusal, refused, attempt))
        else:
            self.accept(channel)

    def _note_refusal(self, refused: HandshakeRefused, attempt: int) -> None:
        self.drops[refused.problem.value] += 1
        self.link.failed(self._calls.note(refused, attempt), trio.current_time())

    async def _call_when_named(self, scope: trio.CancelScope) -> None:
        """Nobody is called any more: until a name of the peer comes to something new, or there is another reason to call."""
        with scope:
            if await self._calls.new_address():
                self._take_turn(lambda: self._connect(trio.current_time()))

    def close(self) -> None:
        """Forget every key, and let go of whoever and whatever waits. Twice is fine."""
        self.is_stopped = True
        for channel in self._channels.values():
            self._close(channel)
        self._channels.clear()
        self._keys.clear()
        self._discard(DropReason.PEER_DOWN)
        self._pinger.close()
        self._settled.set()
