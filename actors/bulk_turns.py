"""The turns of a peer's actor for a bulk flow: one super-packet, or one run, all the way on the short way of its session.

A part of `PeerSession`, which has everything else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from holloway.protocols.packets import SuperPacket

if TYPE_CHECKING:
    from holloway.actors.tun_reader import TunReader
    from holloway.actors.udp_endpoint import UdpEndpoint
    from holloway.protocols.arrivals import Arrival
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

    def offer_bulk(self, packet: SuperPacket) -> bool:
        """One super-packet of the host for this peer, the whole turn on the short way. False: nothing has happened."""
        if self._queued or self.is_stopped:
            return False
        session = self.session
        try:
            run = session.send_bulk(packet, self._now())
            if run is None:
                return False
            assert session.endpoint is not None
            self._udp.send_run(run, session.endpoint, may_fragment=self._may_fragment)
            self._end_turn()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
        return True

    def offer_run(self, arrival: Arrival) -> bool:
        """A run of the network that may be one record for this peer, the whole turn on the short way. False: nothing has
        happened. Its memory may be used again as soon as this returns.
        """
        if self._queued or self.is_stopped:
            return False
        session = self.session
        try:
            packet = session.receive_bulk(arrival, self._now())
            if packet is None:
                return False
            if packet:
                assert isinstance(packet, SuperPacket)
                self._tun.port.send_bulk(packet)
            self._end_turn()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
        return True

    def _end_turn(self) -> None:
        if self.session.has_outputs:
            self._flush()
            self._may_be_answered = False  # a bulk flow brings its own
        self._rearm()
