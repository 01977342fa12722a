"""The turns of a peer's actor for a bulk flow: super-packets, or runs, each all the way on the short way of its session.

A part of `PeerSession`, which has everything else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.protocols.packets import Packet, SuperPacket

if TYPE_CHECKING:
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.record_turns import OpeningTurn, SealingTurn
    from holloway.protocols.runs import Run
    from holloway.protocols.session import Session


class BulkTurns:
    """See the head of this module. A turn that crashes is left to the actor's own task to end of."""

    session: Session
    is_stopped: bool
    _queued: int
    _may_be_answered: bool
    _may_fragment: bool
    _now: Callable[[], float]
    _tun: TunReader
    _udp: UdpEndpoint

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
        now, session = self._now(), self.session
        sealing = session.begin_sending(now)
        if sealing is None:
            return None
        assert session.endpoint is not None
        return OutboundTurn(self, sealing, self._udp.sender(session.endpoint, may_fragment=self._may_fragment), now)

    def begin_receiving(self) -> InboundTurn | None:
        """A turn for runs of the network that may be records for this peer. None: offer them with the others."""
        if self._queued or self.is_stopped:
            return None
        now = self._now()
        opening = self.session.begin_receiving(now)
        return None if opening is None else InboundTurn(self, opening, self._tun.port.send_bulk, now)

    def _end_turn(self, end: Callable[[], None], error: Exception | None) -> None:
        """`error`: what the turn has crashed with."""
        try:
            end()
            if self.session.has_outputs:
                self._flush()
                self._may_be_answered = False  # a bulk flow brings its own
            self._rearm()
        except Exception as later:  # noqa: BLE001 - only carried to the task that raises it
            error = error or later
        if error is not None:
            self._fail(error)


class OutboundTurn:
    """One turn, from `BulkTurns.begin_sending` to `close`."""

    __slots__ = ("_error", "_now", "_peer", "_seal", "_sealing", "_send")

    def __init__(self, peer: BulkTurns, sealing: SealingTurn, send: Callable[[Run], None], now: float) -> None:
        self._peer, self._sealing, self._send, self._now = peer, sealing, send, now
        self._seal: Callable[[SuperPacket], Run | None] = sealing.seal
        self._error: Exception | None = None

    def take(self, packet: SuperPacket) -> bool:
        """Send one packet at once. False: nothing has happened, `close` the turn and offer the packet with the others."""
        try:
            run = self._seal(packet)
            if run is None:
                return False
            self._send(run)
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._error, self._seal = error, _nothing
        return True

    def close(self) -> None:
        """The end of the turn. Once."""
        peer = self._peer
        peer._end_turn(lambda: peer.session.end_sending(self._sealing, self._now), self._error)


class InboundTurn:
    """One turn, from `BulkTurns.begin_receiving` to `close`."""

    __slots__ = ("_error", "_now", "_open", "_opening", "_peer", "_write")

    def __init__(self, peer: BulkTurns, opening: OpeningTurn, write: Callable[[SuperPacket], None], now: float) -> None:
        self._peer, self._opening, self._write, self._now = peer, opening, write, now
        self._open: Callable[[Arrival], Packet | None] = opening.open
        self._error: Exception | None = None

    def take(self, arrival: Arrival) -> bool:
        """Deliver what is in one run at once. False: nothing has happened, `close` the turn and offer the run with the others. Its
        memory may be used again as soon as this returns.
        """
        try:
            packet = self._open(arrival)
            if packet is None:
                return False
            if packet:
                self._write(packet)  # type: ignore[arg-type]  # only super-packets are not empty
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._error, self._open = error, _nothing
        return True

    def close(self) -> None:
        """The end of the turn. Once."""
        peer = self._peer
        peer._end_turn(lambda: peer.session.end_receiving(self._opening, self._now), self._error)


def _nothing(_: object) -> None:
    """What a turn that has crashed makes of anything."""
