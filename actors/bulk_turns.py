"""The turns of a peer's actor for a bulk flow: super-packets, or runs, each all the way on the short way of its session.

A part of `PeerSession`, which has everything else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from holloway.protocols.packets import Packet, SuperPacket

if TYPE_CHECKING:
    from holloway.actors.lone_turns import ShortWay
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.protocols.addresses import Address
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.record_turns import OpeningTurn, SealingTurn
    from holloway.protocols.runs import Run
    from holloway.protocols.session import Session

T = TypeVar("T")


class BulkTurns:
    """See the head of this module. A turn that crashes is left to the actor's own task to end of."""

    session: Session
    is_stopped: bool
    _armed_at: float
    _inbound: InboundTurn
    _outbound: OutboundTurn
    _queued: int
    _may_be_answered: bool
    _may_fragment: bool
    _tun: TunReader
    _udp: UdpEndpoint
    _way: ShortWay

    @abstractmethod
    def _flush(self) -> None: ...

    @abstractmethod
    def _rearm(self) -> None: ...

    @abstractmethod
    def _fail(self, error: Exception) -> None: ...

    def begin_sending(self) -> OutboundTurn | None:
        """A turn for super-packets of the host for this peer. None: offer them with the others."""
        if self._queued or self.is_stopped:
            return None
        way, session, turn = self._way, self.session, self._outbound
        try:
            endpoint = session.endpoint
            if turn.endpoint is not endpoint and endpoint is not None:
                turn.send = self._udp.sender(endpoint, may_fragment=self._may_fragment)
                turn.endpoint = endpoint
            now = way.clock_offset_s + way.tick()
            sealing = session.begin_sending(now)
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
            return None
        if sealing is None:
            return None
        turn.now, turn.sealing, turn.seal, turn.error = now, sealing, sealing.seal, None
        return turn

    def begin_receiving(self) -> InboundTurn | None:
        """A turn for runs of the network that may be records for this peer. None: offer them with the others."""
        if self._queued or self.is_stopped:
            return None
        way, turn = self._way, self._inbound
        try:
            now = way.clock_offset_s + way.tick()
            opening = self.session.begin_receiving(now)
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
            return None
        if opening is None:
            return None
        turn.now, turn.opening, turn.open, turn.error = now, opening, opening.open, None
        turn.write = self._tun.port.send_bulk
        return turn

    def _end_turn(self, end: Callable[[T, float], bool], what: T, now: float, error: Exception | None) -> None:
        """`end`: of the session's part of it, `what`. `error`: what it has crashed with."""
        try:
            if end(what, now):
                self._flush()
                self._may_be_answered = False  # a bulk flow brings its own
                self._rearm()
            elif self._armed_at > now + self._way.soonest_s:
                self._rearm()
        except Exception as later:  # noqa: BLE001 - only carried to the task that raises it
            error = error or later
        if error is not None:
            self._fail(error)


class OutboundTurn:
    """What a peer's actor has for `BulkTurns.begin_sending`, from there to `close`; in between it holds nothing of the session."""

    __slots__ = ("_peer", "endpoint", "error", "now", "seal", "sealing", "send")

    def __init__(self, peer: BulkTurns) -> None:
        self._peer = peer
        self.now = 0.0
        self.sealing: SealingTurn | None = None
        self.seal: Callable[[SuperPacket], Run | None] = _nothing
        self.endpoint: Address | None = None
        self.send: Callable[[Run], None] = _nothing
        self.error: Exception | None = None

    def take(self, packet: SuperPacket) -> bool:
        """Send one packet at once. False: nothing has happened, `close` the turn and offer the packet with the others."""
        try:
            run = self.seal(packet)
            if run is None:
                return False
            self.send(run)
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self.error, self.seal = error, _nothing
        return True

    def close(self) -> None:
        """The end of the turn."""
        peer, sealing, error = self._peer, self.sealing, self.error
        assert sealing is not None
        self.sealing, self.seal, self.error = None, _nothing, None
        peer._end_turn(peer.session.end_sending, sealing, self.now, error)


class InboundTurn:
    """The same for `BulkTurns.begin_receiving`."""

    __slots__ = ("_peer", "error", "now", "open", "opening", "write")

    def __init__(self, peer: BulkTurns) -> None:
        self._peer = peer
        self.now = 0.0
        self.opening: OpeningTurn | None = None
        self.open: Callable[[Arrival], Packet | None] = _nothing
        self.write: Callable[[SuperPacket], None] = _nothing
        self.error: Exception | None = None

    def take(self, arrival: Arrival) -> bool:
        """Deliver what is in one run at once. False: nothing has happened, `close` the turn and offer the run with the others. Its
        memory may be used again as soon as this returns.
        """
        try:
            packet = self.open(arrival)
            if packet is None:
                return False
            if packet:
                self.write(packet)  # type: ignore[arg-type]  # only super-packets are not empty
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self.error, self.open = error, _nothing
        return True

    def close(self) -> None:
        """The end of the turn."""
        peer, opening, error = self._peer, self.opening, self.error
        assert opening is not None
        self.opening, self.open, self.write, self.error = None, _nothing, _nothing, None
        peer._end_turn(peer.session.end_receiving, opening, self.now, error)


def _nothing(_: object) -> None:
    """What there is outside a turn, and after one has crashed."""
