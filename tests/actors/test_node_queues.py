"""Nodes with several queues: what arrives is spread, and what befalls one queue leaves the others alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from node_world import (
    PORT,
    FragileDatagrams,
    FragilePorts,
    FragileTun,
    World,
    config,
    crosses,
    eventually_crosses,
    name,
    outer,
    packet,
    peer,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Config, Node
from holloway.actors.tun_reader import TunReader
from holloway.actors.udp_queues import UdpQueue, UdpQueues
from holloway.protocols.errors import PortError, TunError
from holloway.protocols.packets import Packet
from holloway.supervisor import ActorDown, ChildExited, ChildStarted, Event

QUEUES = 4
OTHERS = range(2, 10)


def widened(made: Config, queues: int = QUEUES) -> Config:
    return replace(made, interface=replace(made.interface, queues=queues))


@asynccontextmanager
async def star(
    world: World, events: list[Event] | None = None
) -> AsyncIterator[tuple[Node, FragilePorts, dict[int, FragilePorts]]]:
    """Host 1 with several queues, and eight others with one that know it; all have a session."""
    left = world.ports(1)
    watch = {} if events is None else {"on_event": events.append}
    async with AsyncExitStack() as stack:
        others = {number: world.ports(number) for number in OTHERS}
        hub = await stack.enter_async_context(
            world.node(widened(config(1, peers=[peer(number) for number in OTHERS])), left, **watch)
        )
        for number, ports in others.items():
            await stack.enter_async_context(world.node(config(number, peers=[peer(1)]), ports))
        with trio.fail_after(10):
            for number in OTHERS:
                await hub.connected(name(number))
        yield hub, left, others


def queues(node: Node) -> Any:
    return node.status()["node"]["queues"]  # type: ignore[index]


def family(node: Node) -> UdpQueues:
    (found,) = node.tree.ref("dataplane.udp").get().sockets
    assert isinstance(found, UdpQueues)
    return found


def crashes(events: list[Event]) -> list[str]:
    return [event.path for event in events if isinstance(event, ChildExited) and event.exit.error is not None]


async def test_what_arrives_is_spread_and_shown_by_queue(autojump_clock: MockClock) -> None:
    async with star(World()) as (hub, left, others):
        for number, ports in others.items():
            assert await crosses(ports, left, packet(number, 1, number))
            assert await crosses(left, ports, packet(1, number, number))
        status: Any = hub.status()
        validate("status", status)
        shown = status["node"]["queues"]
        assert len(shown) == QUEUES
        assert sum(each["udp"]["datagrams"] > 0 for each in shown) > 2
        assert sum(each["tun"]["packets"] > 0 for each in shown) > 2
        assert sum(each["tun"]["packets"] for each in shown) == len(OTHERS)
        assert sum(each["tun"]["bytes"] for each in shown) == 100 * len(OTHERS)
        assert all(each["udp"]["bytes"] >= 32 * each["udp"]["datagrams"] for each in shown)


async def test_one_queue_is_as_if_there_were_no_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("nobody asked for a second one")

    monkeypatch.setattr(FragilePorts, "open_beside", never)
    monkeypatch.setattr(FragilePorts, "open_tun_queue", never)
    async with World().pair() as (a, _, left, right):
        assert await crosses(left, right, packet(1, 2, 1))
        assert queues(a) == []
        assert isinstance(a.tree.ref("dataplane.udp").get().sockets[0], FragileDatagrams)
        with pytest.raises(ActorDown):
            a.tree.ref("dataplane.queues").get()


async def test_all_to_one_address_leaves_by_one_socket(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[Any, set[int]] = {}
    original = FragileDatagrams.send

    def spy(port: FragileDatagrams, datagrams: Any, destination: Any, **options: Any) -> None:
        sent.setdefault((port.local[0], destination), set()).add(id(port))
        original(port, datagrams, destination, **options)

    monkeypatch.setattr(FragileDatagrams, "send", spy)
    async with star(World()) as (_, left, others):
        for serial in range(5):
            for number, ports in others.items():
                assert await crosses(left, ports, packet(1, number, serial))
    from_hub = {target: ports for (source, target), ports in sent.items() if source == outer(1)}
    assert len(from_hub) == len(OTHERS)
    assert all(len(ports) == 1 for ports in from_hub.values())
    assert len(set().union(*from_hub.values())) > 2, "different peers by different sockets"


async def test_a_socket_that_breaks_is_replaced_and_no_session_notices(autojump_clock: MockClock) -> None:
    events: list[Event] = []
    async with star(World(), events) as (hub, left, others):
        made = family(hub)
        before = [queue.port for queue in made.queues]
        events.clear()
        broken = before[1]
        assert isinstance(broken, FragileDatagrams)
        broken.vanish()
        for number, ports in others.items():
            assert await eventually_crosses(ports, left, packet(number, 1, number), within_s=5)
            assert await eventually_crosses(left, ports, packet(1, number, number), within_s=5)
        await trio.sleep(1)
        assert crashes(events) == ["node.dataplane.queues.udp-1"]
        assert family(hub) is made
        after = [queue.port for queue in made.queues]
        assert [old is new for old, new in zip(before, after, strict=True)] == [True, False, True, True]
        assert all(the_peer(hub, number)["handshakes"] == 1 for number in OTHERS)
        assert not any(queue.is_broken for queue in made.queues)


async def test_while_a_socket_is_broken_its_share_goes_to_the_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with star(World()) as (hub, left, others):
        made = family(hub)
        broken = made.queues[2].port
        assert isinstance(broken, FragileDatagrams)
        monkeypatch.setattr(made, "replace", lambda queue: made.close_broken(queue))
        broken.vanish()
        await trio.sleep(0.01)
        for number, ports in others.items():
            assert await crosses(ports, left, packet(number, 1, number))
            assert await crosses(left, ports, packet(1, number, number))


async def test_a_reader_that_crashes_takes_nobody_with_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    original, poison = TunReader.offer, packet(1, 5, 666)

    def offer(reader: TunReader, packets: list[Packet]) -> None:
        if poison in packets:
            raise RuntimeError("a bug met a packet")
        original(reader, packets)

    monkeypatch.setattr(TunReader, "offer", offer)
    async with star(World(), events) as (hub, left, others):
        events.clear()
        left.tun.inject([poison])
        await trio.sleep(0.1)
        (crashed,) = crashes(events)
        assert crashed.startswith("node.dataplane.queues.tun-")
        assert [event.path for event in events if isinstance(event, ChildStarted)] == [crashed]
        for number, ports in others.items():
            assert await crosses(left, ports, packet(1, number, number))
        assert all(the_peer(hub, number)["handshakes"] == 1 for number in OTHERS)


async def test_a_socket_that_cannot_be_replaced_has_all_bound_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    async with star(World(), events) as (hub, left, others):
        before = family(hub)
        events.clear()
        refusals = [PortError("cannot listen", "EMFILE: too many open files")]
        original = left.open_beside
        monkeypatch.setattr(left, "open_beside", lambda port: refuse(refusals) or original(port))
        broken = before.queues[0].port
        assert isinstance(broken, FragileDatagrams)
        broken.vanish()
        await trio.sleep(2)
        for number, ports in others.items():
            assert await eventually_crosses(ports, left, packet(number, 1, number), within_s=20)
        assert set(crashes(events)) == {"node.dataplane.queues.udp-0", "node.dataplane.udp"}
        assert family(hub) is not before
        assert len(family(hub).queues) == QUEUES


def refuse(refusals: list[PortError]) -> None:
    if refusals:
        raise refusals.pop()


@pytest.mark.parametrize("noticed_by", [QUEUES, 1])
async def test_a_device_that_is_gone_is_made_again_once(autojump_clock: MockClock, noticed_by: int) -> None:
    events: list[Event] = []
    async with star(World(), events) as (_, left, others):
        events.clear()
        for queue in left.tun.queues[:noticed_by]:
            assert isinstance(queue, FragileTun)
            queue.failure = TunError("lost the TUN device hw0", "ENODEV: somebody deleted it")
            queue.close()
        await trio.sleep(1)
        for number, ports in others.items():
            assert await eventually_crosses(left, ports, packet(1, number, number), within_s=20)
        assert crashes(events) == ["node.dataplane.tun"]
        assert len(left.tun.queues) == QUEUES


async def test_counters_of_queues_and_drops_survive_a_broken_socket(autojump_clock: MockClock) -> None:
    world = World()
    async with star(world) as (hub, _, _):
        made = family(hub)
        strangers = [world.network.bind("203.0.113.9", port) for port in range(5000, 5016)]
        for stranger in strangers:
            stranger.send([b"x"] * 10, (outer(1), PORT))
        await trio.sleep(0.1)
        assert sum(queue.datagrams for queue in made.queues) >= 160
        made.queues[3].port.drops["receive_buffer_full"] += 7
        seen = made.queues[3].datagrams
        broken = made.queues[3].port
        assert isinstance(broken, FragileDatagrams)
        broken.vanish()
        await trio.sleep(1)
        assert made.queues[3].port is not broken
        assert made.queues[3].datagrams >= seen > 0
        assert queues(hub)[3]["udp"]["drops"] == {"receive_buffer_full": 7}
        assert hub.drops()["receive_buffer_full"] == 7


async def test_a_node_that_does_not_start_leaves_no_socket_open(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    ports = world.ports(1)
    refusals = [PortError("cannot listen", "EMFILE: too many open files")]
    original, calls = ports.open_beside, []

    def refused_at_last(port: Any) -> Any:
        calls.append(port)
        if len(calls) == QUEUES - 1:
            raise refusals[0]
        return original(port)

    monkeypatch.setattr(ports, "open_beside", refused_at_last)
    with pytest.raises(Exception, match="did not start"):
        async with world.node(widened(config(1)), ports):
            pytest.fail("it started")
    assert world.network._sockets == {}


async def test_a_stopped_node_ends_without_a_crash(autojump_clock: MockClock) -> None:
    events: list[Event] = []
    async with star(World(), events):
        pass
    assert crashes(events) == []


def test_a_queue_without_a_whole_socket_sends_by_none() -> None:
    """What is sent while all are broken is counted where it is refused, and raises nothing."""
    world = World()
    made = UdpQueues(world.ports(1).open_datagrams(None, PORT)[0], world.ports(1))
    queue: UdpQueue = made.queues[0]
    made.close_broken(queue)
    made.send([b"x"], (outer(2), PORT))
    assert made.drops == {"udp_ebadf": 1}
