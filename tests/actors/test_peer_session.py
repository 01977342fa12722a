"""One peer's actor inside a node: offers and the inbox, pings, health, what the log is told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from node_world import (
    PORT,
    World,
    config,
    crosses,
    drops,
    inner,
    name,
    outer,
    packet,
    peer,
    serial,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Node
from holloway.actors.peer_session import INBOX_MESSAGES, Outbound, PeerSession
from holloway.actors.pinging import MAX_PINGS, PING_PAYLOAD, Pinger
from holloway.protocols.arrivals import lone
from holloway.protocols.errors import HollowayError
from holloway.protocols.icmp import answer_echo, echo_request
from holloway.protocols.noise import OpenedInitiation
from holloway.protocols.suites import SUITES, WIREGUARD, Suite
from holloway.simulations.network import Link


def session_of(node: Node, number: int) -> PeerSession:
    return node.roster.running[name(number)]


# Offers.


async def test_an_offer_to_a_ready_session_is_done_when_it_returns(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, _, _):
        sent = len(world.wire)
        session_of(a, 2).offer_packets([packet(1, 2, 1)])
        assert len(world.wire) == sent + 1


async def test_a_full_inbox_counts_what_it_loses_and_keeps_the_order_of_the_rest(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, peers=[peer(2)]), left) as a:
        session = session_of(a, 2)
        for number in range(INBOX_MESSAGES + 1):  # the first is in the task's hands, which waits for it
            session.offer_packets([packet(1, 2, number)])
        for number in range(10):
            session.offer_packets([packet(1, 2, 1000 + number)] * 3)
        assert drops(a) == {"inbox_full": 30}
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(10):
                assert [serial(each) for each in await right.tun.collect()] == list(range(INBOX_MESSAGES + 1))
        assert the_peer(a, 2)["drops"] == {"inbox_full": 30}


async def test_what_is_offered_while_something_waits_does_not_overtake_it(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, _, right):
        session = session_of(a, 2)
        session._queue(packets_message(1))
        session.offer_packets([packet(1, 2, 2)])
        session.offer_packets([packet(1, 2, 3)])
        with trio.fail_after(1):
            assert [serial(each) for each in await right.tun.collect()] == [1, 2, 3]


def packets_message(number: int) -> Any:
    return Outbound([packet(1, 2, number)])


async def test_offers_to_an_actor_that_has_ended_are_counted_and_do_nothing(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, _, _):
        session = session_of(a, 2)
    sent = len(world.wire)
    session.offer_packets([packet(1, 2, 1)] * 2)
    session.offer_arrivals([lone(b"\xff" * 40, ("192.0.2.2", 1))])
    session.offer_reset(bytes(16), ("192.0.2.2", 1))
    assert session.drops == {"peer_down": 4}
    assert len(world.wire) == sent
    assert not await session.wait_connected() or session.is_connected


async def test_an_initiation_is_never_answered_in_the_callers_turn(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, _, _):
        looked_at = []

        class Opened(OpenedInitiation):
            def __init__(self) -> None:
                looked_at.clear()

            @property
            def suite(self) -> Any:
                looked_at.append("suite")
                return WIREGUARD

        session_of(a, 2).offer_initiation(Opened(), ("192.0.2.2", PORT))
        assert looked_at == []
        await trio.testing.wait_all_tasks_blocked()
        assert looked_at == ["suite"]
        assert drops(a) == {"wrong_suite": 1}


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
async def test_what_is_for_a_peer_that_knows_no_probes_may_be_fragmented(
    suite: Suite, autojump_clock: MockClock
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(1, peers=[peer(2, suite=suite.name)]), left) as a,
        world.node(config(2, peers=[peer(1, suite=suite.name)]), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        session_of(a, 2).offer_packets([packet(1, 2, 1)])
        assert len(left.socket.may_fragment) >= 2
        assert set(left.socket.may_fragment) == {suite is WIREGUARD}


async def test_a_turn_outside_the_task_brings_the_next_deadline_nearer(autojump_clock: MockClock) -> None:
    """The keepalive that answers received data is due 10 s later, though the actor's task slept for longer."""
    world = World()
    async with world.pair() as (_, _, left, right):
        await trio.sleep(50)
        sent = len(world.wire)
        assert await crosses(left, right, packet(1, 2, 1))
        await trio.sleep(9.9)
        assert len(world.wire) == sent + 1
        await trio.sleep(0.2)
        assert len(world.wire) == sent + 2


async def test_a_packet_that_is_sent_outside_the_task_is_missed_when_nobody_answers(autojump_clock: MockClock) -> None:
    """A handshake is due 15 s later, and a third of a second at the most, though the actor's task slept for longer."""
    world = World()
    async with world.pair() as (_, _, left, _):
        await trio.sleep(50)
        world.network.shape(outer(1), outer(2), Link(loss=1))
        sent = len(world.wire)
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(14.9)
        assert len(world.wire) == sent + 1
        await trio.sleep(0.5)
        assert len(world.wire) == sent + 2


@pytest.mark.parametrize("way", ["send", "receive"])
async def test_a_turn_that_crashes_is_the_last_one(
    way: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with world.pair() as (a, _, _, _):
        session = session_of(a, 2)
        turns = []

        def crash(*_: object) -> None:
            turns.append(1)
            raise RuntimeError("the turn crashes")

        monkeypatch.setattr(session.session, way, crash)
        for _ in range(3):
            if way == "send":
                session.offer_packets([packet(1, 2, 1)])
            else:
                session.offer_arrivals([lone(bytes(80), outer(2))])
        assert len(turns) == 1
        assert session.drops["peer_down"] == 2
        monkeypatch.undo()
        await trio.sleep(5)
        assert session_of(a, 2) is not session
        assert the_peer(a, 2)["state"] == "ok"


# Health.


async def test_health_follows_the_session(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, peers=[peer(2), peer(3, endpoint=None)]), left) as a:
        assert the_peer(a, 2)["state"] == "handshaking"
        assert (the_peer(a, 3)["state"], the_peer(a, 3)["endpoint"]) == ("down", None)
        assert the_peer(a, 3)["problem"] is None
        await trio.sleep(12)
        assert the_peer(a, 2)["state"] == "down"
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(10):
                await a.connected(name(2))
            assert the_peer(a, 2)["state"] == "ok"
            world.network.shape(outer(1), outer(2), Link(loss=1))
            left.tun.inject([packet(1, 2, 1)])
            await trio.sleep(17)
            assert the_peer(a, 2)["state"] == "stale"
            await trio.sleep(170)
            assert the_peer(a, 2)["state"] == "down"
            world.network.shape(outer(1), outer(2), Link())
            assert await crosses(left, right, packet(1, 2, 2))
            assert the_peer(a, 2)["state"] == "ok"
        validate("peers", a.peers())


async def test_connected_waits_for_a_peer_through_its_restarts(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, peers=[peer(2)]), left) as a, trio.open_nursery() as nursery:
        done = []

        async def wait() -> None:
            await a.connected(name(2))
            done.append(trio.current_time())

        nursery.start_soon(wait)
        await trio.sleep(2)
        left.crash_udp()
        await trio.sleep(2)
        assert done == []
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(10):
                await a.connected(name(2))
            await trio.lowlevel.checkpoint()
            assert len(done) == 1


# Pings.


async def collect_answers(node: Node, target: str, **options: Any) -> list[Any]:
    return [answer async for answer in node.ping(target, **options)]


async def test_pings_at_the_same_time_do_not_take_each_others_answers(autojump_clock: MockClock) -> None:
    world = World(latency_s=0.2)
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    results: list[Any] = []
    async with world.node(config(1, peers=[peer(2)]), left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(5):
            await a.connected(name(2))

        async def ping() -> None:
            results.extend((await collect_answers(a, name(2), count=5, interval_s=0.05))[-1:])

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ping)
        assert [each["result"]["received"] for each in results] == [5] * 10
        assert all(abs(each["result"]["rtt_ms"]["avg"] - 400) < 1 for each in results)
        assert session_of(a, 2)._pinger.waiting == {}
        assert the_peer(a, 2)["rtt_ms"] == pytest.approx(400, abs=1)
        # None of the answers was the host's.
        with trio.move_on_after(1):
            pytest.fail(f"the host got {await left.tun.collect()}")


async def test_answers_to_the_pings_of_the_host_are_the_hosts(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    async with world.node(config(1, peers=[peer(2)]), left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(5):
            await a.connected(name(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect_answers, a, name(2))
            await trio.sleep(0.001)
            ((identifier, sequence),) = session_of(a, 2)._pinger.waiting
            # The very numbers of ours, and another payload.
            left.tun.inject([echo_request(inner(1), inner(2), identifier, sequence, b"the host's")])
            left.tun.inject([echo_request(inner(1), inner(2), identifier ^ 1, sequence, b"the host's too")])
            with trio.fail_after(1):
                assert [each[28:] for each in await left.tun.collect()] == [b"the host's", b"the host's too"]


@pytest.mark.parametrize(
    ("sender", "payload", "step", "is_ours"),
    [
        (inner(2), PING_PAYLOAD, 0, True),
        (inner(3), PING_PAYLOAD, 0, False),
        (inner(2), b"the host's", 0, False),
        (inner(2), PING_PAYLOAD, 1, False),
    ],
)
def test_an_answer_is_ours_by_number_sender_and_payload(
    sender: bytes, payload: bytes, step: int, is_ours: bool
) -> None:
    pinger = Pinger(0x1FFFF)
    key, _ = pinger.begin(inner(1), inner(2), 1.0)
    assert key == (1, 0xFFFF)
    answer = answer_echo(echo_request(inner(1), sender, key[0] + step, key[1], payload))
    assert answer is not None
    assert pinger.without_answers([packet(2, 1, 1), answer, b""], 3.0) == [
        packet(2, 1, 1),
        *([] if is_ours else [answer]),
        b"",
    ]
    assert pinger.waiting[key].round_trip_s == (2.0 if is_ours else None)
    assert pinger.begin(inner(1), inner(2), 1.0)[0] == (2, 0)
    assert Pinger(0xFFFFFFFF).begin(inner(1), inner(2), 1.0)[0] == (0xFFFF, 0xFFFF)


async def test_a_ping_that_is_not_answered_times_out_and_the_next_goes_on(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, _, _):
        began = trio.current_time()
        answers = await collect_answers(a, name(2), count=3, interval_s=0.1, timeout_s=2.0)
        assert [each["event"]["error"] for each in answers[:-1]] == ["timeout"] * 3
        assert trio.current_time() - began == pytest.approx(6.0)
        assert answers[-1]["result"] | {"sent": 3, "received": 0, "rtt_ms": None} == answers[-1]["result"]
        for each in answers[:-1]:
            validate("ping", {"schema": "holloway.ping/1"} | each)
        validate("ping", answers[-1]["result"])


async def test_a_ping_outlives_the_restart_of_the_peers_actor(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    async with world.node(config(1, peers=[peer(2)]), left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(5):
            await a.connected(name(2))
        answers: list[Any] = []
        async for answer in a.ping(name(2), count=6, interval_s=1.0, timeout_s=0.5):
            answers.append(answer)
            if len(answers) == 2:
                left.crash_udp()
        assert answers[-1]["result"]["received"] == 6
        left.crash_udp()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(HollowayError, match="cannot ping node-2"):
            await collect_answers(a, name(2))


async def test_pings_to_one_peer_at_once_are_bounded(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, _, _):
        session = session_of(a, 2)
        async with trio.open_nursery() as nursery:
            for _ in range(MAX_PINGS):
                nursery.start_soon(session.ping, inner(1), inner(2), 1.0)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(HollowayError, match="too many pings"):
                await session.ping(inner(1), inner(2), 1.0)
        assert session._pinger.waiting == {}


async def test_a_ping_ends_with_the_actor_and_not_with_its_time(autojump_clock: MockClock) -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        async with world.pair() as (a, _, _, _):
            session = session_of(a, 2)
            nursery.start_soon(session.ping, inner(1), inner(2), 3600.0)
            await trio.sleep(1)
        began = trio.current_time()
    assert trio.current_time() - began < 1


@pytest.mark.parametrize("target", ["node-9", "10.99.0.9", "not a peer", "", "::1", "x" * 10_000])
async def test_a_ping_to_nobody_is_refused_in_words(target: str, autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, _, _):
        with pytest.raises(HollowayError, match="no peer") as raised:
            await collect_answers(a, target)
        assert len(str(raised.value)) < 300


# What the log is told.


async def test_a_peer_that_moves_all_the_time_does_not_fill_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.pair() as (a, _, left, right):
        caplog.set_level(logging.INFO)
        caplog.clear()
        seen = outer(2), PORT
        for number in range(1000):
            now = f"198.51.100.{number % 200 + 1}", 10_000 + number
            world.network.rebind(seen, now)
            seen = now
            assert await crosses(right, left, packet(2, 1, number))
        assert the_peer(a, 2)["endpoint"] == f"{seen[0]}:{seen[1]}"
        minutes = trio.current_time() / 60 + 1
        moved = [each for each in caplog.records if "moved" in each.getMessage()]
        assert 5 <= len(moved) <= 11 * minutes
        await trio.sleep(60)
        world.network.rebind(seen, (outer(2), PORT))
        assert await crosses(right, left, packet(2, 1, 5000))
        assert any("more lines of this kind were left out" in each.getMessage() for each in caplog.records)
