"""The turns of a peer's actor for what comes alone: one packet, or one datagram, all the way on the short way of its session.

A part of `PeerSession`, which has everything else. What need not be done before the packet has left is done afterwards.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holloway.actors.bulk_turns import BulkTurns

if TYPE_CHECKING:
    import trio

    from holloway.actors.pinging import Pinger
    from holloway.protocols.addresses import Address
    from holloway.protocols.arrivals import Arrival
    from holloway.protocols.packets import Packet


class ShortWay:
    """What the turns of one peer have at hand: the fewer objects they touch, the better."""

    __slots__ = ("answers", "clock_offset_s", "endpoint", "send", "send_sparse", "soonest_s", "tick", "write")

    def __init__(self, write: Callable[[bytes], list[Packet]], soonest_s: float, clock: trio.abc.Clock) -> None:
        self.write, self.soonest_s = write, soonest_s
        self.endpoint: Address | None = None
        self.send: Callable[[bytes], None] = _nowhere
        """To `endpoint`."""
        self.send_sparse: Callable[[bytes], None] = _nowhere
        self.clock_offset_s, self.tick = steady(clock)

    def deliver(self, packet: bytes) -> None:
        self.answers = self.write(packet)


def steady(clock: trio.abc.Clock) -> tuple[float, Callable[[], float]]:
    """What gives the same as the `current_time` of `clock`, added up. Of Trio's own clock the second is no call of Python."""
    offset_s = getattr(clock, "offset", None)
    if isinstance(offset_s, float):
        before, now, after = time.perf_counter(), clock.current_time(), time.perf_counter()
        if before <= now - offset_s <= after:
            return offset_s, time.perf_counter
    return 0.0, clock.current_time


class LoneTurns(BulkTurns):
    """See the head of this module. A turn that crashes is left to the actor's own task to end of."""

    _armed_at: float
    _pinger: Pinger
    _way: ShortWay

    @abstractmethod
    def _turn(self, act: Callable[[Any, float], None], what: Any) -> None: ...

    def offer_lone(self, packet: Packet, *, is_sparse: bool = False, count: int = 1) -> bool:
        """One packet of the host for this peer, the whole turn on the short way. False: nothing has happened. `is_sparse` and `count`:
        see `ExpressLane.send_lone`.
        """
        if self._queued or self.is_stopped:
            return False
        session, way = self.session, self._way
        try:
            if session.endpoint is not way.endpoint:
                self._aim()
            now = way.clock_offset_s + way.tick()
            send = way.send_sparse if is_sparse else way.send
            if session.send_lone(packet, now, send, is_sparse=is_sparse, count=count) is None:
                return False
            if is_sparse and session.has_more_to_send:
                self._turn(_nothing_more, None)
            elif self._armed_at > now + way.soonest_s:
                self._rearm()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
        return True

    def _aim(self) -> None:
        """The peer is elsewhere now."""
        endpoint = self.session.endpoint
        if endpoint is not None:
            self._way.send = self._udp.lone_sender(endpoint, may_fragment=self._may_fragment)
            self._way.send_sparse = self._udp.lone_sender(endpoint, is_sparse=True)
            self._way.endpoint = endpoint

    def offer_arrival(self, arrival: Arrival) -> bool:
        """One datagram of the network for this peer, the whole turn on the short way. False: nothing has happened. Its memory may
        be used again as soon as this returns.
        """
        if self._queued or self.is_stopped or self._pinger.waiting:
            return False
        way = self._way
        try:
            now = way.clock_offset_s + way.tick()
            packet = self.session.receive_lone(arrival, now, way.deliver)
            if packet is None:
                return False
            if packet and self._armed_at > now + way.soonest_s:
                self._rearm()
        except Exception as error:  # noqa: BLE001 - only carried to the task that raises it
            self._fail(error)
            return True
        if not packet:
            self._turn(_nothing_more, None)
            return True
        answers = way.answers
        if len(answers) == 1:  # a turn of its own, after this one
            self._tun.answer_lone(answers[0])
        elif answers:
            self._tun.offer(answers)
        return True


def _nowhere(_: bytes) -> None:
    """No endpoint is known yet."""


def _nothing_more(_: None, now: float) -> None:
    """A turn of which only the outputs are left."""
