"""Lone packets through whole nodes: nobody outside can tell whether they took the short way."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from node_world import PORT, World, drops, inner, name, outer, packet, the_peer
from trio.testing import MockClock

from holloway.actors.lone_turns import LoneTurns, steady
from holloway.actors.peer_session import PeerSession
from holloway.actors.ports import DatagramPort, Ports, Receiving, TunPort
from holloway.protocols.arrivals import lone
from holloway.protocols.express import ExpressLane
from holloway.protocols.icmp import echo_request
from holloway.simulations.determinism import run

ECHO_S = 0.021


async def story() -> list[Any]:
    """Lone packets to and fro, at rest and in haste; pings of programs and of nodes; what is forged, refused and malformed."""
    world = World(seed=3)
    told: list[Any] = []
    async with world.pair() as (a, b, left, right):
        session = a.roster.running[name(2)]
        assert isinstance(session, PeerSession)
        for turn in range(40):
            left.tun.inject([packet(1, 2, turn, 60 + turn)])
            await trio.sleep(ECHO_S * (turn % 5))
            right.tun.inject([packet(2, 1, turn)])
            if turn % 7 == 0:
                await a.roster.running[name(2)].ping(inner(1), inner(2), 0.1)
            if turn % 11 == 0:
                left.tun.inject(
                    [echo_request(inner(1), inner(2), 7, turn, b"ping"), packet(1, 9, turn), packet(1, 2, turn)]
                )
                right.tun.inject([packet(7, 1, turn)])  # from whom the other side takes nothing
                await trio.sleep(ECHO_S)
                datagram = world.wire[-1][3]
                session.offer_arrivals([lone(datagram[:-1] + bytes([datagram[-1] ^ 1]), (outer(2), PORT))])
                session.offer_arrivals([lone(datagram, (outer(2), PORT))])
            await trio.sleep(12.0 if turn % 13 == 12 else 0.001)
            told.append((session._armed_at, session._waiting.deadline, session.session.next_timeout()))
        told += [the_peer(a, 2), the_peer(b, 1), drops(a), drops(b)]
        told += [await left.tun.collect(), await right.tun.collect(), list(world.wire)]
    return told


def test_nodes_do_the_same_with_and_without_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for where, method in ((DatagramPort, "send_lone"), (TunPort, "send_lone")):
        way: Callable[..., Any] = getattr(where, method)

        def counted(*arguments: Any, way: Callable[..., Any] = way, **more: Any) -> Any:
            taken.append(way.__qualname__)
            return way(*arguments, **more)

        monkeypatch.setattr(where, method, counted)
    short = run(5, story)
    assert min(taken.count("DatagramPort.send_lone"), taken.count("TunPort.send_lone")) > 50
    number = len(taken)
    monkeypatch.setattr(ExpressLane, "send_lone", lambda *_, **__: None)
    monkeypatch.setattr(ExpressLane, "receive_lone", lambda *_: None)
    assert run(5, story) == short
    assert len(taken) == number


def test_what_comes_alone_may_be_given_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the loop around Trio gives it, past those who only pass on."""
    usual = run(5, story)
    alone: list[str] = []

    async def serve(
        ports: Ports,
        port: Receiving[list[Any]],
        take: Callable[[Any], None],
        take_lone: Callable[[Any], None],
        **_: Any,
    ) -> None:
        while True:
            batch = await port.receive()
            if len(batch) == 1:
                alone.append(type(batch[0]).__name__)
                take_lone(batch[0])
            else:
                take(batch)

    monkeypatch.setattr(Ports, "serve", serve)
    assert run(5, story) == usual
    assert min(alone.count("bytes"), alone.count("Arrival")) > 50


def test_the_time_of_a_turn_is_that_of_its_clock() -> None:
    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        offset_s, tick = steady(clock)
        assert tick is time.perf_counter
        before, now, after = clock.current_time(), offset_s + tick(), clock.current_time()
        assert before <= now <= after

    trio.run(main)
    clock = MockClock()
    clock.jump(7.5)
    offset_s, tick = steady(clock)
    assert offset_s + tick() == 7.5


class Turns(LoneTurns):
    """Of a session that has sealed a packet."""

    def __init__(self, *, has_more: bool) -> None:
        self.taken: list[object] = []
        self.is_stopped, self._queued, self._armed_at = False, 0, 0.0
        session = SimpleNamespace(endpoint=None, has_more_to_send=has_more, send_lone=lambda *_, **__: b"sealed")
        way = SimpleNamespace(endpoint=None, clock_offset_s=0.0, tick=float, soonest_s=1.0, send=None, send_sparse=None)
        self.session, self._way = session, way  # type: ignore[assignment]

    def _turn(self, act: object, what: object) -> None:
        self.taken.append(what)


@pytest.mark.parametrize("has_more", [True, False])
def test_a_handshake_that_a_sparse_packet_has_caused_leaves_at_once(*, has_more: bool) -> None:
    turns = Turns(has_more=has_more)  # type: ignore[abstract]
    assert turns.offer_lone(b"packet", is_sparse=True)
    assert turns.taken == [None] * has_more
