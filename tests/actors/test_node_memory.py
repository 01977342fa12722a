"""A whole node under floods that want more memory than it may use: the cap holds, the quiet are served, all of it comes back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
from node_world import (
    PORT,
    FragilePorts,
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

from holloway.actors import Config, Node
from holloway.actors.config import LimitsConfig
from holloway.actors.config.model import DEFAULT_MEMORY
from holloway.actors.config.schema import MIN_MEMORY
from holloway.actors.peer_session import INBOX_MESSAGES, PeerSession
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.memory import (
    DEFAULT_MEMORY_BYTES,
    SHARES,
    MemoryBudget,
    MemoryShare,
    arrivals_cost,
    packet_cost,
    packets_cost,
)
from holloway.protocols.packets import SuperPacket
from holloway.protocols.reassembly import MAX_BYTES
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import SPREAD_BITS
from holloway.protocols.staging import STAGED_BYTES

QUIET, FLOODED, ABSENT, LATE = 2, range(3, 9), range(20, 60), 9


def small(made: Config) -> Config:
    return replace(made, limits=LimitsConfig(memory=MIN_MEMORY))


def session_of(node: Node, number: int) -> PeerSession:
    return node.roster.running[name(number)]


def held(node: Node) -> int:
    """What the queues of all sessions hold, counted anew; every inbox is empty between turns."""
    total = 0
    for each in node.roster.running.values():
        total += sum(map(packet_cost, each.session._staged.peek()))
        total += sum(keys._pieces.held_bytes for keys in keys_of(each))
        assert each._queued == 0
    return total


def keys_of(peer_session: PeerSession) -> list[RecordKeys]:
    return [keys for keys in peer_session.session._ring.by_index.values() if isinstance(keys, RecordKeys)]


def forged(node: Node, flooded: int, serials: Iterable[int]) -> list[bytes]:
    """Five pieces each of records that will never be whole, as somebody makes them who has watched the peer of that number."""
    keys = session_of(node, flooded).session._ring.current
    assert isinstance(keys, RecordKeys)
    first = max(keys._window.top, keys._first_in) + 1
    return [
        struct.pack("<IHHQ", keys.local_index, number, 1, first + 1000 + serial << SPREAD_BITS | 5) + bytes(1400)
        for serial in serials
        for number in range(5)
    ]


async def test_floods_of_pieces_and_packets_stay_below_the_cap_and_leave_quiet_peers_alone(
    autojump_clock: MockClock,
) -> None:
    world = World()
    everybody = (QUIET, *FLOODED, LATE, *ABSENT)
    ports: dict[int, FragilePorts] = {number: world.ports(number) for number in (1, QUIET, *FLOODED, LATE)}
    async with AsyncExitStack() as stack:
        victim = small(config(1, peers=[peer(number) for number in everybody]))
        node = await stack.enter_async_context(world.node(victim, ports[1]))
        for number in (QUIET, *FLOODED):
            await stack.enter_async_context(world.node(config(number, peers=[peer(1)]), ports[number]))
        with trio.fail_after(5):
            for number in (QUIET, *FLOODED):
                await node.connected(name(number))
        highest = 0
        for turn in range(12):
            for number in FLOODED:
                ports[number].socket.send(forged(node, number, range(100 * turn, 100 * turn + 100)), (outer(1), PORT))
            ports[1].tun.inject([packet(1, number, turn, size=1400) for number in ABSENT for _ in range(100)])
            await trio.sleep(0.02)
            assert node.memory.held == held(node) <= MIN_MEMORY
            highest = max(highest, held(node))
            assert await crosses(ports[QUIET], ports[1], packet(QUIET, 1, turn))
            assert await crosses(ports[1], ports[QUIET], packet(1, QUIET, turn))
        assert highest > 0.7 * MIN_MEMORY
        assert highest <= node.memory.peak <= MIN_MEMORY
        for number in (*FLOODED, *ABSENT):
            assert the_peer(node, number)["drops"]["memory_full"] > 0
        assert "memory_full" not in the_peer(node, QUIET)["drops"]

        # Whoever comes in the middle of it has a handshake and a packet staged for it as always.
        ports[1].tun.inject([packet(1, LATE, 4711)])
        await stack.enter_async_context(world.node(config(LATE, peers=[peer(1)]), ports[LATE]))
        with trio.fail_after(5):
            await node.connected(name(LATE))
            assert packet(1, LATE, 4711) in await ports[LATE].tun.collect()

        # And records that come in pieces have theirs put together.
        await trio.sleep(1)
        for number in FLOODED:
            ports[number].socket.send(forged(node, number, range(5000, 5100)), (outer(1), PORT))
        await trio.sleep(0.02)
        assert node.memory.held > 0.7 * MIN_MEMORY
        wanted = long_packet(QUIET, 1)
        ports[QUIET].tun.inject([wanted])
        found: list[bytes] = []
        with trio.fail_after(1):
            while len(found) < wanted.count:
                found += await ports[1].tun.collect()
        assert found == wanted.segments()
        assert "memory_full" not in the_peer(node, QUIET)["drops"]
        validate("status", node.status())
        assert node.status()["node"]["memory"] == {  # type: ignore[index]
            "held_bytes": held(node),
            "peak_bytes": node.memory.peak,
            "cap_bytes": MIN_MEMORY,
        }
    assert node.memory.held == 0


def long_packet(source: int, target: int) -> SuperPacket:
    """A super-packet that leaves as records of several datagrams each."""
    payload = bytes(range(256)) * 78
    header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + inner(source) + inner(target)
    return SuperPacket(header + struct.pack(">HHHH", 5, 6, 8 + len(payload), 0) + payload, 1368)


async def test_the_traffic_of_a_session_that_works_asks_for_no_memory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    take = MemoryShare.take

    def watched(share: MemoryShare, cost: int) -> bool:
        asked.append(cost)
        return take(share, cost)

    monkeypatch.setattr(MemoryShare, "take", watched)
    async with World().pair() as (a, b, left, right):
        assert asked  # the answer to the handshake waited in an inbox
        await trio.sleep(1)  # until both know how long a datagram may be
        asked.clear()
        for number in range(50):
            assert await crosses(left, right, packet(1, 2, number, size=1400))
            assert await crosses(right, left, packet(2, 1, number, size=1400))
        assert asked == []
        assert a.memory.held == b.memory.held == 0


# The inbox.


def exhaust(memory: MemoryBudget) -> list[MemoryShare]:
    """Let others hold everything there is."""
    others = []
    for pool in (memory.host, memory.network):
        while (share := pool.share()).take(1):
            others.append(share)
            while share.take(max(1, (share.limit - share.held) // 2)):
                pass
    return others


def give_back(others: list[MemoryShare]) -> None:
    for each in others:
        each.give(each.held)


async def test_with_no_memory_left_a_message_is_refused_while_others_wait(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(small(config(1, peers=[peer(2)])), left) as a:
        session = session_of(a, 2)
        session.offer_packets([packet(1, 2, 1)])
        session.offer_arrivals([lone(bytes(40), (outer(2), PORT))])
        assert a.memory.held > 140
        others = exhaust(a.memory)
        session.offer_packets([packet(1, 2, 2)] * 2)
        session.offer_arrivals([lone(bytes(40), (outer(2), PORT))] * 3)
        assert session.drops == {"memory_full": 5}
        give_back(others)
        session.offer_packets([packet(1, 2, 3)])
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(10):
                assert [serial(each) for each in await right.tun.collect()] == [1, 3]
        assert a.memory.held == 0


async def test_with_no_memory_left_a_session_still_gets_its_keys(autojump_clock: MockClock) -> None:
    """Nothing can wait, so the answer of the peer has its turn at once, and so have the packets that come too early."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(small(config(1, peers=[peer(2)])), left) as a:
        others = exhaust(a.memory)
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(0.01)
        assert drops(a) == {"memory_full": 1}
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(10):
                await a.connected(name(2))
            assert await crosses(left, right, packet(1, 2, 2))
            assert await crosses(right, left, packet(2, 1, 3))
        assert drops(a) == {"memory_full": 1}
        assert a.memory.held == sum(each.held for each in others)


async def test_what_a_full_inbox_loses_takes_no_memory(autojump_clock: MockClock) -> None:
    async with World().node(config(1, peers=[peer(2)]), World().ports(1)) as a:
        session = session_of(a, 2)
        for number in range(INBOX_MESSAGES + 30):
            session.offer_packets([packet(1, 2, number)])
        assert session.drops["inbox_full"] > 0
        assert a.memory.held == session._queued * packets_cost([packet(1, 2, 0)])
        await trio.testing.wait_all_tasks_blocked()
        assert a.memory.held == held(a) > 0


async def test_the_arrivals_that_wait_are_counted_as_they_are_kept(autojump_clock: MockClock) -> None:
    async with World().node(config(1, peers=[peer(2)]), World().ports(1)) as a:
        session = session_of(a, 2)
        run = Arrival((outer(2), PORT), memoryview(bytes(30_000)), 1000)
        session.offer_arrivals([run, run])
        assert a.memory.held == arrivals_cost([run.kept(), run.kept()]) > 60_000
        await trio.testing.wait_all_tasks_blocked()
        assert a.memory.held == 0


# Ends.


async def test_a_peer_that_crashes_gives_back_what_it_held_and_counts_what_waited(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with World().node(config(1, peers=[peer(2), peer(3)]), World().ports(1)) as a:
        for number in (2, 3):
            session_of(a, number).offer_packets([packet(1, number, 1)] * 50)
        await trio.testing.wait_all_tasks_blocked()
        per_peer = 50 * packet_cost(packet(1, 2, 1))
        assert a.memory.held == 2 * per_peer
        session = session_of(a, 2)
        session.offer_packets([packet(1, 2, 2)] * 7)
        session._fail(RuntimeError("a bug in a turn"))
        session.offer_packets([packet(1, 2, 3)] * 2)
        await trio.testing.wait_all_tasks_blocked()
        assert a.memory.held == per_peer
        assert drops(a) == {"peer_down": 9, "closed": 50}
        session.close()
        assert a.memory.held == per_peer
    assert a.memory.held == 0


async def test_a_peer_that_is_taken_out_gives_back_what_it_held(autojump_clock: MockClock) -> None:
    async with World().node(config(1, peers=[peer(2)]), World().ports(1)) as a:
        session = session_of(a, 2)
        session.offer_packets([packet(1, 2, 1)] * 50)
        await trio.testing.wait_all_tasks_blocked()
        assert a.memory.held == 50 * packet_cost(packet(1, 2, 1))
        pool: Any = a.tree.ref("dataplane.peers").get()
        offered = 50
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.stop, a.roster.plan.peers[name(2)].identity)
            while not session.is_stopped:  # its task is cancelled with some of these still in the inbox
                for _ in range(3):
                    session.offer_packets([packet(1, 2, 2)] * 2)
                offered += 6
                await trio.lowlevel.checkpoint()
        assert a.memory.held == 0
        assert drops(a)["peer_down"] > 0
        assert sum(drops(a).values()) == offered


async def test_a_node_has_the_memory_of_its_configuration(autojump_clock: MockClock) -> None:
    async with World().node(small(config(1)), World().ports(1)) as a:
        assert a.memory.cap == MIN_MEMORY
    async with World().node(config(1), World().ports(1)) as a:
        assert a.memory.cap == DEFAULT_MEMORY == DEFAULT_MEMORY_BYTES
    # The least is enough for one queue that is as long as it may be by its own bounds.
    assert max(STAGED_BYTES, MAX_BYTES) <= MIN_MEMORY // 2 // SHARES
