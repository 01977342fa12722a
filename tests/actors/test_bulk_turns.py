"""A turn of a bulk flow leaves nothing behind: what it has to say is said, and the deadlines that it brought nearer are armed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from session_world import World
from super_packets import super_packet

from holloway.actors.bulk_turns import BulkTurns, InboundTurn, OutboundTurn
from holloway.protocols.arrivals import Arrival
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.timers import Deadline


class Turns(BulkTurns):
    """The rest of an actor, as little of it as the turns ask for."""

    def __init__(self, world: World, name: str) -> None:
        self.session = world.nodes[name].session
        self.is_stopped, self._queued, self._may_fragment = False, 0, False
        self._armed_at = math.inf
        self._way = SimpleNamespace(  # type: ignore[assignment]
            soonest_s=self.session.soonest_s, clock_offset_s=0.0, tick=lambda: world.now
        )
        self._outbound, self._inbound = OutboundTurn(self), InboundTurn(self)
        self.sent: list[bytes] = []
        self.delivered = 0
        self._udp = self._tun = self.port = self  # type: ignore[assignment]

    def sender(self, destination: Any, *, may_fragment: bool) -> Any:
        assert destination == self.session.endpoint
        assert not may_fragment
        return self.send_run

    def send_run(self, run: Any) -> None:
        self.sent.append(b"".join(run.parts))
        self.stride = run.stride

    def send_bulk(self, packet: Any) -> None:
        self.delivered += 1

    def _flush(self) -> None:
        self.session.runs_to_send()
        self.delivered += len(self.session.packets_to_deliver())

    def _rearm(self) -> None:
        at = self.session.next_timeout()
        assert at is not None
        self._armed_at = min(self._armed_at, at)

    def _fail(self, error: Exception) -> None:
        self.crash = error

    crash: Exception | None = None


def offer(turn: OutboundTurn | InboundTurn | None, *what: Any) -> list[bool]:
    """Which of them a turn takes; none if there is none."""
    if turn is None:
        return []
    taken = [turn.take(each) for each in what]
    turn.close()
    return taken


@pytest.fixture
def world() -> World:
    world = World()
    world.establish()
    world.run(1.0)
    world.send(world.a, 2)
    world.run(0.5)
    widen(world)
    return world


def widen(world: World) -> None:
    for node in world.nodes.values():
        keys = node.session._ring.current
        assert isinstance(keys, RecordKeys)
        keys._size._size, keys._size._heard_at = 64, world.now


def test_the_deadlines_of_either_side_are_armed(world: World) -> None:
    sender, receiver = Turns(world, "a"), Turns(world, "b")
    for serial in range(40):
        world.now += 0.3
        widen(world)
        if offer(sender.begin_sending(), super_packet(44 * 1300, 1300, serial=serial)) != [True]:
            world.do(world.a, lambda session: session.handle_timeout(world.now))
            continue
        assert offer(receiver.begin_receiving(), Arrival(world.a.address, sender.sent[-1], sender.stride)) == [True]
        for turns in (sender, receiver):
            assert not turns.session._tunnel.outbox
            assert turns._armed_at <= (turns.session.next_timeout() or math.inf)
            turns._armed_at = math.inf if turns._armed_at <= world.now else turns._armed_at
    assert receiver.delivered == len(sender.sent) > 10


def test_a_report_that_is_due_soon_is_armed(world: World) -> None:
    sender, receiver = Turns(world, "a"), Turns(world, "b")
    receiver._armed_at = world.now + 1.0
    for serial in range(2):
        world.now += 0.001
        assert offer(sender.begin_sending(), super_packet(44 * 1300, 1300, serial=serial)) == [True]
        assert offer(receiver.begin_receiving(), Arrival(world.a.address, sender.sent[-1], sender.stride)) == [True]
    at = receiver.session._timers._times[Deadline.REPORT]
    assert world.now < at < world.now + 0.1
    assert receiver._armed_at == at


def test_a_turn_that_crashes_is_left_to_the_actor_and_holds_nothing(world: World) -> None:
    turns = Turns(world, "a")
    turns.sender = lambda destination, may_fragment: broken  # type: ignore[method-assign]
    turn = turns.begin_sending()
    packets = [super_packet(44 * 1300, 1300, serial=serial) for serial in range(2)]
    assert offer(turn, *packets) == [True, False], (
        "the second would go on with a session that nobody knows the state of"
    )
    assert isinstance(turns.crash, ZeroDivisionError)
    assert turn is not None
    assert turn.sealing is None
    assert turn.seal(packets[0]) is None
    assert turns.session.transmitted.packets >= 44, "its counter is used up"


@pytest.mark.parametrize("what", ["begin_sending", "begin_receiving", "end_sending", "end_receiving"])
def test_a_session_that_crashes_is_the_crash_of_its_peer_and_not_of_who_offers(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(world, "a")
    monkeypatch.setattr(turns.session, what, lambda *_: 1 // 0)
    offer(turns.begin_sending(), super_packet(44 * 1300, 1300))
    offer(turns.begin_receiving(), Arrival(world.b.address, bytes(3000), 1500))
    assert isinstance(turns.crash, ZeroDivisionError)


def broken(run: Any) -> None:
    raise ZeroDivisionError


def test_a_stopped_actor_and_one_with_a_queue_take_nothing(world: World) -> None:
    turns = Turns(world, "a")
    for stopped, queued in ((True, 0), (False, 1)):
        turns.is_stopped, turns._queued = stopped, queued
        assert turns.begin_sending() is turns.begin_receiving() is None
    turns._queued = 0
    assert offer(turns.begin_sending(), super_packet(44 * 1300, 1300)) == [True]
