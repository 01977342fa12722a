"""A turn of a bulk flow leaves nothing behind: what it has to say is said, and the deadlines that it brought nearer are armed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from session_world import World
from super_packets import super_packet

from holloway.actors.bulk_turns import BulkTurns
from holloway.protocols.arrivals import Arrival
from holloway.protocols.record_keys import RecordKeys


class Turns(BulkTurns):
    """The rest of an actor, as little of it as the turns ask for."""

    def __init__(self, world: World, name: str) -> None:
        self.session = world.nodes[name].session
        self.is_stopped, self._queued, self._may_fragment = False, 0, False
        self._now = lambda: world.now
        self.armed_at = math.inf
        self.sent: list[bytes] = []
        self.delivered = 0
        self._udp = self._tun = self.port = self  # type: ignore[assignment]

    def send_run(self, run: Any, destination: Any, *, may_fragment: bool) -> None:
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
        self.armed_at = min(self.armed_at, at)

    def _fail(self, error: Exception) -> None:
        raise error


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
        if not sender.offer_bulk(super_packet(44 * 1300, 1300, serial=serial)):
            world.do(world.a, lambda session: session.handle_timeout(world.now))
            continue
        assert receiver.offer_run(Arrival(world.a.address, sender.sent[-1], sender.stride))
        for turns in (sender, receiver):
            assert not turns.session.has_outputs
            assert turns.armed_at <= (turns.session.next_timeout() or math.inf)
            turns.armed_at = math.inf if turns.armed_at <= world.now else turns.armed_at
    assert receiver.delivered == len(sender.sent) > 10


def test_a_stopped_actor_and_one_with_a_queue_take_nothing(world: World) -> None:
    turns = Turns(world, "a")
    turns.is_stopped = True
    assert not turns.offer_bulk(super_packet(44 * 1300, 1300))
    assert not turns.offer_run(Arrival(world.b.address, bytes(3000), 1500))
    turns.is_stopped, turns._queued = False, 1
    assert not turns.offer_bulk(super_packet(44 * 1300, 1300))
    assert not turns.offer_run(Arrival(world.b.address, bytes(3000), 1500))
    assert not turns.sent
