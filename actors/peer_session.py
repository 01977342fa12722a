"""The actor of one peer: drives the pure `Session` with time, and moves its datagrams and packets to the ports.

Whoever has something for the peer *offers* it. An offer is one synchronous call: when the session is ready and nothing is
queued before it, the whole turn happens inside the call (seal, send; or open, write), otherwise the message waits in the
bounded inbox for the actor's own task, which also keeps the session's timers. State has one owner and one entry either
way, and no turn ever waits. Not responsible for protocol decisions (`protocols.session`), nor for finding the peer of a
packet (`router`) or of a datagram (`udp_endpoint`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

import trio

from holloway.actors.ports import TunPort
from holloway.protocols.addresses import Address, format_address
from holloway.protocols.events import (
    DropReason,
    EndpointMoved,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeStarted,
    KeyExpired,
    PacketDropped,
    PeerForgotUs,
)
from holloway.protocols.icmp import EchoReply, echo_request, parse_echo_reply
from holloway.protocols.noise import OpenedInitiation
from holloway.protocols.packets import Packet
from holloway.protocols.session import Session, State

if TYPE_CHECKING:
    from logging import Logger

    from holloway.actors.config import PeerConfig
    from holloway.actors.udp_endpoint import UdpEndpoint

INBOX_MESSAGES = 64
"""Messages, each a batch, that may wait for the actor's task."""
MAX_PINGS = 64
RESOLVE_RETRY_S = 15.0
PING_PAYLOAD = b"holloway ping"


@dataclass(frozen=True, slots=True)
class Outbound:
    """Seal these packets for the peer."""

    packets: list[Packet]


@dataclass(frozen=True, slots=True)
class Inbound:
    """Open these datagrams from the peer."""

    datagrams: list[tuple[bytes, Address]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer this initiation."""

    opened: OpenedInitiation
    source: Address


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin again: the peer has lost our session and proves it with this token."""

    token: bytes
    source: Address


Message: TypeAlias = Outbound | Inbound | Answer | Restart


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer to a ping through the session: `round_trip_s`, and over which outer path and key it came."""

    round_trip_s: float
    path: str | None
    epoch: int


@dataclass(slots=True)
class _Ping:
    sent_at: float
    answered: trio.Event = field(default_factory=trio.Event)
    round_trip_s: float = math.nan


class PeerSession:
    """Handle of one running peer actor. Made by `peers`, once for each incarnation."""

    def __init__(
        self,
        peer: PeerConfig,
        make_session: Callable[[PeerSession], Session],
        *,
        tun: TunPort,
        udp: UdpEndpoint,
        log: Logger,
    ) -> None:
        """`make_session` is called at once with this handle, which the tables of the node then know it by."""
        self.peer = peer
        self.drops: Counter[str] = Counter()
        self._tun, self._udp, self._log = tun, udp, log
        self._inbox, self._outlet = trio.open_memory_channel[Message](INBOX_MESSAGES)
        self._queued = 0
        self._waiting = trio.CancelScope()
        self._pings: dict[tuple[int, int], _Ping] = {}
        self._resolve = trio.Event()
        self.connected = trio.Event()
        """Set once the first handshake is complete."""
        self.is_stopped = False
        self.session = make_session(self)

    def __repr__(self) -> str:
        return f"<PeerSession {self.peer.name} {self.session!r}>"

    # Offers: synchronous messages from the other actors.

    def offer_packets(self, packets: list[Packet]) -> None:
        """Packets of the host for this peer."""
        if not self._queued and self.session.is_ready:
            self._take(Outbound(packets))
        else:
            self._queue(Outbound(packets), len(packets))

    def offer_datagrams(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Datagrams of the network for this peer."""
        if not self._queued and self.session.is_ready:
            self._take(Inbound(datagrams))
        else:
            self._queue(Inbound(datagrams), len(datagrams))

    def offer_initiation(self, opened: OpenedInitiation, source: Address) -> None:
        """A handshake that names this peer. Never in the caller's turn: it costs three Diffie-Hellmans."""
        self._queue(Answer(opened, source), 1)

    def offer_reset(self, token: bytes, source: Address) -> None:
        """A reset from a peer that has lost our session."""
        self._queue(Restart(token, source), 1)

    def _queue(self, message: Message, count: int) -> None:
        if self.is_stopped:
            self.drops[DropReason.PEER_DOWN.value] += count
            return
        try:
            self._inbox.send_nowait(message)
        except trio.WouldBlock:
            self.drops[DropReason.INBOX_FULL.value] += count
        else:
            self._queued += 1

    def _take(self, message: Message) -> None:
        """A whole turn inside an offer."""
        if self.is_stopped:
            return
        self._handle(message, trio.current_time())
        self._rearm()

    # The actor's own task.

    async def run(self, task_status: trio.TaskStatus[PeerSession]) -> None:
        """Serve the inbox and the timers until cancelled. The session is closed on the way out."""
        try:
            async with trio.open_nursery() as nursery:
                if self.peer.endpoint is not None and not _is_numeric(self.peer.endpoint.host):
                    nursery.start_soon(self._keep_resolved)
                self.session.connect(trio.current_time())
                self._flush()
                task_status.started(self)
                await self._serve()
        finally:
            self.is_stopped = True
            self.session.close()
            self._inbox.close()
            self._outlet.close()

    async def _serve(self) -> None:
        while True:
            message: Message | None = None
            with trio.CancelScope(deadline=self._deadline()) as self._waiting:
                message = await self._outlet.receive()
            while message is not None:
                self._queued -= 1
                self._handle(message, trio.current_time())
                try:
                    message = self._outlet.receive_nowait()
                except trio.WouldBlock:
                    message = None
            now = trio.current_time()
            if self._deadline() <= now:
                self.session.handle_timeout(now)
                self._flush()
                await trio.lowlevel.checkpoint()  # deadlines that fall due at once must not keep the others waiting

    def _deadline(self) -> float:
        at = self.session.next_timeout()
        return math.inf if at is None else at

    def _rearm(self) -> None:
        """A turn outside the task may have brought a deadline nearer."""
        at = self._deadline()
        if at < self._waiting.deadline:  # an assignment costs a heap operation: not for every batch
            self._waiting.deadline = at  # noqa: PLR1730

    # Turns.

    def _handle(self, message: Message, now: float) -> None:
        session = self.session
        match message:
            case Outbound(packets):
                session.send(packets, now)
            case Inbound(datagrams):
                session.receive(datagrams, now)
            case Answer(opened, source):
                session.receive_initiation(opened, source, now)
            case Restart(token, source):
                session.receive_reset(token, source, now)
        self._flush()

    def _flush(self) -> None:
        """Hand on what the session has to say, to the network, the host and the log."""
        session = self.session
        datagrams = session.datagrams_to_send()
        if datagrams and session.endpoint is not None:
            self._udp.send(datagrams, session.endpoint)
        packets = session.packets_to_deliver()
        if packets:
            if self._pings:
                packets = self._without_echo_replies(packets)
            self._tun.send(packets)
        while (event := session.next_event()) is not None:
            match event:
                case PacketDropped():
                    pass  # counted in session.drops; a line for each would be a gift to an attacker
                case HandshakeStarted(attempt):
                    self._log.debug("peer %s: handshake begun, attempt %d", self.peer.name, attempt)
                case HandshakeCompleted(epoch, is_initiator, _):
                    self.connected.set()
                    side = "initiator" if is_initiator else "responder"
                    level = self._log.info if epoch == 1 else self._log.debug
                    level("peer %s: session up, epoch %d, we are the %s", self.peer.name, epoch, side)
                case HandshakeGaveUp(attempts):
                    self._log.warning("peer %s: no answer to %d initiations", self.peer.name, attempts)
                    self._resolve.set()
                case EndpointMoved(old, new):
                    before = format_address(old) if old else "nowhere"
                    self._log.info("peer %s: endpoint moved from %s to %s", self.peer.name, before, format_address(new))
                case KeyExpired(epoch):
                    self._log.info("peer %s: key of epoch %d expired", self.peer.name, epoch)
                case PeerForgotUs():
                    self._log.info("peer %s: has lost our session, beginning again", self.peer.name)

    # Names.

    async def _keep_resolved(self) -> None:
        """Look the peer's host name up at the start and whenever a whole dialling was in vain."""
        endpoint = self.peer.endpoint
        assert endpoint is not None
        while True:
            self._resolve = trio.Event()
            address = await self._look_up(endpoint.host, endpoint.port)
            if address is None:
                await trio.sleep(RESOLVE_RETRY_S)
                continue
            self.session.set_endpoint(address)
            self.session.connect(trio.current_time())
            self._flush()
            self._rearm()
            await self._resolve.wait()

    async def _look_up(self, host: str, port: int) -> Address | None:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
        except OSError as error:
            self._log.warning("peer %s: cannot resolve %s: %s", self.peer.name, host, error)
            return None
        for *_, address in found:
            if self._udp.can_reach(address):
                return address
        self._log.warning("peer %s: %s has no address of a family that we listen on", self.peer.name, host)
        return None

    # Pings through the session, answered by the peer's host.

    async def ping(self, source: bytes, target: bytes, identifier: int, sequence: int, timeout_s: float) -> Pong | None:
        """Send an ICMP echo request into the tunnel; `None` when no answer came in time.

        `source` and `target` are inner addresses of one family, 4 or 16 bytes. The answer does not reach the host.
        """
        key = identifier, sequence
        if len(self._pings) >= MAX_PINGS or key in self._pings:
            return None
        ping = self._pings[key] = _Ping(trio.current_time())
        try:
            self.offer_packets([echo_request(source, target, identifier, sequence, PING_PAYLOAD)])
            with trio.move_on_after(timeout_s):
                await ping.answered.wait()
                endpoint = self.session.endpoint
                path = format_address(endpoint) if endpoint else None
                return Pong(ping.round_trip_s, path, self.session.epoch)
            return None
        finally:
            del self._pings[key]

    def _without_echo_replies(self, packets: Sequence[bytes]) -> list[bytes]:
        """Take the answers to our own pings out of what goes to the host."""
        rest = []
        for packet in packets:
            reply = parse_echo_reply(packet)
            ping = self._pings.get((reply.identifier, reply.sequence)) if isinstance(reply, EchoReply) else None
            if ping is None:
                rest.append(packet)
            elif not ping.answered.is_set():
                ping.round_trip_s = trio.current_time() - ping.sent_at
                self.session.round_trip_s = ping.round_trip_s
                ping.answered.set()
        return rest

    # What status says.

    def health(self) -> str:
        """`ok`, `handshaking`, `stale` (keys, but the peer owes us an answer) or `down`."""
        match self.session.state:
            case State.ESTABLISHED:
                return "ok"
            case State.REKEYING:
                return "stale" if self.session.is_silent else "ok"
            case State.INITIATING:
                return "down" if self.session.is_silent else "handshaking"
            case State.CONFIRMING:
                return "handshaking"
            case State.IDLE | State.CLOSED:
                return "down"


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
