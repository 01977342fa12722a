"""The actor of one peer: drives the pure `Session` with time, and moves its datagrams and packets to the ports.

Whoever has something for the peer *offers* it. An offer is one synchronous call: when the session is ready and nothing is
queued before it, the whole turn happens inside the call (seal, send; or open, write), otherwise the message waits in the
bounded inbox for the actor's own task, which also keeps the session's timers. State has one owner and one entry either
way, and no turn ever waits. A turn that crashes is the end of this actor and not of whoever offered.

What waits in the inbox is taken from the memory of the node. When that is used up, a message is refused while others wait; with
nothing before it, its turn is at once, so that a session whose keys are missing is never kept from getting them.

Not responsible for protocol decisions (`protocols.session`), for what a peer's endpoints come to (`calling`), nor for
finding the peer of a packet (`router`) or of a datagram (`udp_endpoint`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, assert_never

import trio

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.bulk_turns import InboundTurn, OutboundTurn
from holloway.actors.calling import Callbook
from holloway.actors.lone_turns import LoneTurns, ShortWay
from holloway.actors.pair_terms import PLAIN_WORDS
from holloway.actors.peer_messages import Answer, Inbound, Message, Outbound, Restart, cost, count, kept
from holloway.actors.pinging import PING_PAYLOAD, Pinger, Pong
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.compression import Packing
from holloway.protocols.events import (
    DropReason,
    EndpointMoved,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeStarted,
    KeyExpired,
    PacketDropped,
    PeerForgotUs,
)
from holloway.protocols.memory import MemoryBudget
from holloway.protocols.noise import OpenedInitiation
from holloway.protocols.offers import LZ4, NOT_COMPRESSED, SEALED, Security, Terms
from holloway.protocols.packets import Packet
from holloway.protocols.session import Session, State
from holloway.protocols.suites import WIREGUARD

if TYPE_CHECKING:
    from logging import Logger

    from holloway.actors.config import Endpoint
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.actors.wanted import Peer

__all__ = ["INBOX_MESSAGES", "PING_PAYLOAD", "PeerSession", "Pong"]

T = TypeVar("T")
INBOX_MESSAGES = 64
"""Messages, each a batch, that may wait for the actor's task."""


class PeerSession(LoneTurns):
    """Handle of one running peer actor. Made by `peers`, once for each incarnation."""

    def __init__(
        self,
        peer: Peer,
        make_session: Callable[[PeerSession], Session],
        *,
        tun: TunReader,
        udp: UdpEndpoint,
        log: Logger,
        first_ping: int,
        memory: MemoryBudget,
        terms_with: Callable[[Peer], Terms],
    ) -> None:
        """`make_session` is called at once with this handle, which the tables of the node then know it by. `first_ping`
        is any number, best a random one: pings count on from it. `memory`: what the inbox takes from. `terms_with`: what
        we are willing to with the peer as it is known at the time.
        """
        self.peer = peer
        self.drops: Counter[str] = Counter()
        self.callbook = Callbook(peer.endpoints, udp.can_reach)
        self.problem, self.suite = None, peer.suite
        self._may_fragment = peer.suite == WIREGUARD.name  # a foreign peer: nobody finds out what the path to it bears
        self._tun, self._udp, self._log = tun, udp, BoundedLog(log)
        self._inbox, self._outlet = trio.open_memory_channel[Message](INBOX_MESSAGES)
        self._inbox_share = memory.network.share()
        self._queued = 0
        self._may_be_answered = False
        self._waiting = trio.CancelScope()
        self._armed_at = math.inf  # the deadline of `_waiting`
        self._now = trio.lowlevel.current_clock().current_time  # `trio.current_time` is two calls more
        self._crash: Exception | None = None
        self._pinger = Pinger(first_ping)
        self._outbound, self._inbound = OutboundTurn(self), InboundTurn(self)
        self._terms_with = terms_with
        self._told_terms = SEALED
        self._nursery: trio.Nursery | None = None
        self._looking_up = trio.CancelScope()
        self._settled = trio.Event()
        self.is_connected = False
        """Whether the first handshake is complete."""
        self.is_stopped = False
        self.session = make_session(self)
        self._way = ShortWay(tun.write_lone, self.session.soonest_s, trio.lowlevel.current_clock())

    def __repr__(self) -> str:
        return f"<PeerSession {self.peer.name} {self.session!r}>"

    # Offers: synchronous messages from the other actors.

    def offer_packets(self, packets: list[Packet]) -> None:
        """Packets of the host for this peer."""
        if self._queued or self.is_stopped:
            self._queue(Outbound(packets))
            return
        if len(packets) == 1 and self.offer_lone(packets[0]):
            return
        if not self.session.is_ready:
            self._queue(Outbound(packets))
            return
        self._turn(self.session.send, packets)

    def offer_arrivals(self, arrivals: list[Arrival]) -> None:
        """Datagrams of the network for this peer. Their memory may be used again as soon as this returns."""
        if self._queued or self.is_stopped:
            self._queue(Inbound(arrivals))
            return
        if len(arrivals) == 1 and self.offer_arrival(arrivals[0]):
            return
        if not self.session.is_ready:
            self._queue(Inbound(arrivals))
            return
        self._turn(self.session.receive, arrivals)

    def offer_initiation(self, opened: OpenedInitiation, source: Address) -> None:
        """A handshake that names this peer. Never in the caller's turn: it costs three Diffie-Hellmans."""
        self._queue(Answer(opened, source))

    def offer_reset(self, token: bytes, source: Address) -> None:
        """A reset from a peer that has lost our session."""
        self._queue(Restart(token, source))

    def _queue(self, message: Message) -> None:
        if self.is_stopped:
            self.drops[DropReason.PEER_DOWN.value] += count(message)
            return
        taken = cost(message)
        if not self._inbox_share.take(taken):
            if self._queued:
                self.drops[DropReason.MEMORY_FULL.value] += count(message)
            else:
                self._take(message)
            return
        try:
            self._inbox.send_nowait(kept(message))
        except trio.WouldBlock:
            self._inbox_share.give(taken)
            self.drops[DropReason.INBOX_FULL.value] += count(message)
        else:
            self._queued += 1

    def _leaves_inbox(self, message: Message) -> None:
        self._queued -= 1
        self._inbox_share.give(cost(message))

    # Turns. One that crashes, in whosever call, is left to our own task to end of.

    def _take(self, message: Message) -> None:
        """A turn for one message."""
        if self.is_stopped:
            self.drops[DropReason.PEER_DOWN.value] += count(message)
        else:
            self._turn(self._handle, message)

    def _turn(self, act: Callable[[T, float], None], what: T) -> None:
        """Have `act` take in `what`, and hand on what comes of it. An answer of the host is a turn of its own, after this one."""
        try:
            act(what, self._now())
            self._flush()
            self._rearm()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
        if self._may_be_answered:
            self._may_be_answered = False
            self._tun.take_answers()

    def _take_turn(self, act: Callable[[], None]) -> None:
        """Any other turn."""
        if self.is_stopped:
            return
        try:
            act()
            self._flush()
            self._rearm()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._crash = error
        self.is_stopped = True
        self._waiting.cancel()

    # What the roster asks.

    def update(self, peer: Peer) -> None:
        """The same peer with other endpoints, prefixes or offers. A session that works is not disturbed: it tries new endpoints
        once the peer does not answer any more.
        """
        is_moved, is_changed = peer.endpoints != self.peer.endpoints, peer.offers != self.peer.offers
        self.peer = peer
        for is_due, turn in ((is_changed, self._set_terms), (is_moved, self._move)):
            if is_due:
                self._take_turn(turn)

    def _set_terms(self) -> None:
        self.session.set_terms(self._terms_with(self.peer), trio.current_time())

    def _move(self) -> None:
        self.callbook.replace(self.peer.endpoints)
        self._look_up_names()
        self._call()

    def announce(self) -> None:
        """This host may be reachable elsewhere now: let the peer hear from us, so that it learns where."""
        self._take_turn(lambda: self.session.announce(trio.current_time()))

    def rekey(self) -> None:
        """Agree on new keys now, whatever the age of the present ones."""
        self._take_turn(lambda: self.session.rekey(trio.current_time()))

    # The actor's own task.

    async def run(self, task_status: trio.TaskStatus[PeerSession]) -> None:
        """Serve the inbox and the timers until cancelled. The session is closed on the way out."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._look_up_names()
                self._take_turn(self._call)
                task_status.started(self)
                await self._serve()
                self._nursery.cancel_scope.cancel()
        finally:
            self.close()
        assert self._crash is not None
        raise self._crash

    def close(self) -> None:
        """Forget every key, and let go of whoever and whatever waits. Twice is fine."""
        self.is_stopped = True
        self._inbox.close()
        self._discard_inbox()
        self._outlet.close()
        self.session.close()
        self._pinger.close()
        self._settled.set()

    def _discard_inbox(self) -> None:
        while True:
            try:
                message = self._outlet.receive_nowait()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            self._leaves_inbox(message)
            self.drops[DropReason.PEER_DOWN.value] += count(message)

    async def _serve(self) -> None:
        """Until a turn crashes."""
        while not self.is_stopped:
            message: Message | None = None
            self._armed_at = self._deadline()
            with trio.CancelScope(deadline=self._armed_at) as self._waiting:
                message = await self._outlet.receive()
            while message is not None:
                self._leaves_inbox(message)
                self._take(message)
                try:
                    message = self._outlet.receive_nowait()
                except trio.WouldBlock:
                    message = None
            if self._deadline() <= trio.current_time():
                self._take_turn(lambda: self.session.handle_timeout(trio.current_time()))
                await trio.lowlevel.checkpoint()  # deadlines that fall due at once must not keep the others waiting

    def _deadline(self) -> float:
        return math.inf if (at := self.session.next_timeout()) is None else at

    def _rearm(self) -> None:
        """A turn outside the task may have brought a deadline nearer."""
        at = self.session.next_timeout()
        if at is not None and at < self._armed_at:  # an assignment costs a heap operation: not for every batch
            self._armed_at = self._waiting.deadline = at

    # What happens in a turn.

    def _handle(self, message: Message, now: float) -> None:
        session = self.session
        match message:
            case Outbound(packets):
                session.send(packets, now)
            case Inbound(arrivals):
                session.receive(arrivals, now)
            case Answer(opened, source):
                session.receive_initiation(opened, source, now)
            case Restart(token, source):
                session.receive_reset(token, source, now)

    def _flush(self) -> None:
        """Hand on what the session has to say, to the log, the network and the host."""
        session = self.session
        if session.events:  # first, because one may say where to send
            while (event := session.next_event()) is not None:
                self._note(event)
        if session.answers:
            for answer, source in session.answers_to_send():
                self._udp.send((answer,), source)
        runs = session.runs_to_send()
        if runs and session.endpoint is not None:
            self._udp.send_runs(runs, session.endpoint, may_fragment=self._may_fragment)
        packets = session.packets_to_deliver()
        if packets:
            if self._pinger.waiting:
                packets = self._pinger.without_answers(packets, trio.current_time())
            self._may_be_answered = self._tun.write(packets)

    def _note(self, event: Event) -> None:
        name, log = self.peer.name, self._log
        match event:
            case PacketDropped():
                pass  # counted in session.drops; a line for each would be a gift to an attacker
            case HandshakeStarted(attempt):
                log.debug("peer %s: handshake begun, attempt %d", name, attempt)
                if attempt > 1:
                    self._call_elsewhere(attempt)
            case HandshakeCompleted(epoch, is_initiator, _, terms):
                self.callbook.proven = self.session.endpoint
                side = "initiator" if is_initiator else "responder"
                tell = log.debug if self.is_connected else log.info
                tell("peer %s: session up, epoch %d, we are the %s", name, epoch, side)
                self.is_connected = True
                self._tell_terms(terms)
                self._settled.set()
            case HandshakeGaveUp(attempts):
                log.warning("peer %s: no answer to %d initiations", name, attempts)
                self.callbook.not_answered()
            case EndpointMoved(old, new):
                self.callbook.proven = new
                before = format_address(old) if old else "nowhere"
                log.info("peer %s: endpoint moved from %s to %s", name, before, format_address(new))
            case KeyExpired(epoch):
                log.info("peer %s: key of epoch %d expired", name, epoch)
            case PeerForgotUs():
                log.info("peer %s: has lost our session, beginning again", name)
            case _:
                assert_never(event)

    def _tell_terms(self, terms: Terms) -> None:
        """Whether data is encrypted from now on, when that is not as before."""
        if (terms ^ self._told_terms) & Terms.CLEAR:
            if Terms.CLEAR in terms:
                words = "both sides ask for plain text, so whoever is on the way can read what is sent"
                self._log.warning("peer %s: %s: %s", self.peer.name, PLAIN_WORDS, words)
            else:
                self._log.warning("peer %s: encrypted from now on", self.peer.name)
        self._told_terms = terms

    # Calling.

    def _call(self) -> None:
        """Begin a handshake unless the session works. With no address to call at, it will begin when there is one."""
        addresses = self.callbook.addresses
        if self.health() == "ok":
            return
        if addresses and self.session.endpoint not in addresses:
            self.session.set_endpoint(addresses[0])
        elif self.peer.endpoints and not addresses and not self.callbook.names:
            self._log.warning("peer %s: we have no socket of the family of its endpoints", self.peer.name)
        self.session.connect(trio.current_time())

    def _call_elsewhere(self, attempt: int) -> None:
        """The peer did not answer: the initiation that is about to leave goes to the next place where it may be."""
        address = self.callbook.at(attempt)
        if address is not None and address != self.session.endpoint:
            self.session.set_endpoint(address)
        self.callbook.not_answered()

    def _look_up_names(self) -> None:
        """Look up the names among the present endpoints, and no others any more."""
        self._looking_up.cancel()
        if self.callbook.names and self._nursery is not None:
            self._looking_up = trio.CancelScope()
            self._nursery.start_soon(self._keep_looking_up, self._looking_up)

    async def _keep_looking_up(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.callbook.keep_looking_up(self._cannot_look_up, lambda: self._take_turn(self._call))

    def _cannot_look_up(self, name: Endpoint, why: str) -> None:
        self._log.warning("peer %s: cannot look up %s: %s", self.peer.name, name.host, why)

    # What the node asks.

    async def wait_connected(self) -> bool:
        """Wait until the first handshake is complete; False when the actor ended before."""
        await self._settled.wait()
        return self.is_connected

    async def ping(self, source: bytes, target: bytes, timeout_s: float) -> Pong | None:
        """Send an ICMP echo request into the tunnel; `None` when no answer came in time, or the actor ended.

        `source` and `target` are inner addresses of one family, 4 or 16 bytes. The answer does not reach the host. Raises
        `HollowayError` when too many pings wait.
        """
        key, request = self._pinger.begin(source, target, trio.current_time())
        try:
            ping = self._pinger.waiting[key]
            self.offer_packets([request])
            with trio.move_on_after(timeout_s):
                await ping.ended.wait()
        finally:
            del self._pinger.waiting[key]
        endpoint = self.session.endpoint
        if ping.round_trip_s is None or endpoint is None:
            return None
        self.session.round_trip_s = ping.round_trip_s
        return Pong(ping.round_trip_s, format_address(endpoint), self.session.epoch)

    @property
    def security(self) -> Security | None:
        """Whether data is encrypted; `None` while there is no key."""
        terms = self.session.terms
        return None if terms is None else Security.NONE if Terms.CLEAR in terms else Security.SESSION

    @property
    def compression(self) -> str | None:
        """What data may be compressed with; `None` while there is no key."""
        terms = self.session.terms
        return None if terms is None else LZ4 if Terms.LZ4 in terms else NOT_COMPRESSED

    @property
    def packing(self) -> Packing:
        """What compression came to."""
        return self.session.packing

    def health(self) -> str:
        """`ok`; `handshaking`; `stale`: the peer owes us an answer, or the keys of an idle session ran out; or `down`."""
        match self.session.state:
            case State.ESTABLISHED:
                return "ok"
            case State.REKEYING:
                return "stale" if self.session.is_silent else "ok"
            case State.INITIATING:
                return "down" if self.session.is_silent else "handshaking"
            case State.CONFIRMING:
                return "handshaking"
            case State.IDLE:
                return "stale" if self.is_connected and not self.session.is_silent else "down"
            case State.CLOSED:
                return "down"
