"""Data under keys that a DTLS handshake exports: carried, replaced, and never used for another life of the peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from dtls_world import DtlsWorld
from node_world import (
    PORT,
    Daemon,
    crosses,
    drops,
    eventually_crosses,
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
from holloway.protocols.dtls_wire import LinkMessage, message

HEALED_S = 5.0


def path(node: Node, number: int) -> str:
    found: str = the_peer(node, number)["endpoint"]
    return found


async def exporting(world: DtlsWorld, *backends: str) -> Any:
    """Configurations of hosts 1 and 2 with these back ends."""
    made = []
    for number, backend in enumerate(backends, 1):
        plain = world.config(number, peer(3 - number))
        made.append(replace(plain, node=replace(plain.node, backend=backend)))
    return made


async def test_exported_keys_carry_data_and_change_without_losing_a_packet(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    one, two = await exporting(world, "dtls-exporter", "dtls-exporter")
    async with world.node(one, left) as a, world.node(two, right) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        sent, received, answered = 0, [], []
        while trio.current_time() < 300.0:
            left.tun.inject([packet(1, 2, sent, 1000), packet(1, 2, sent + 1, 1000)])
            right.tun.inject([packet(2, 1, sent)])
            sent += 2
            await trio.sleep(0.25)
            received += [serial(each) for each in await right.tun.collect()]
            answered += [serial(each) for each in await left.tun.collect()]
        assert received == list(range(sent))
        assert answered == list(range(0, sent, 2))
        for node, number in ((a, 2), (b, 1)):
            found = the_peer(node, number)
            assert (found["suite"], found["state"], found["epoch"] >= 3) == ("dtls-exporter", "ok", True)
            validate("status", node.status())
        # Of associations that are over already something may come; nothing else is dropped.
        assert {*drops(a), *drops(b)} <= {"dtls_unknown_association"}
        # Nearly nothing of it travelled in records of DTLS.
        in_dtls = sum(len(data) > 500 for *_, data in world.wire if data[0] == 0xD7 and data[12] == 23)
        assert in_dtls < sent / 20


async def test_a_side_that_exports_nothing_is_spoken_to_in_records_of_dtls(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    one, two = await exporting(world, "dtls-exporter", "dtls")
    async with world.node(one, left) as a, world.node(two, right) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        for turn in range(40):
            assert await crosses(left, right, packet(1, 2, turn))
            assert await crosses(right, left, packet(2, 1, turn))
            await trio.sleep(0.5)
        assert (the_peer(a, 2)["suite"], the_peer(b, 1)["suite"]) == ("dtls", "dtls")


async def test_exported_keys_of_an_earlier_life_are_not_used(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    one, two = await exporting(world, "dtls-exporter", "dtls-exporter")
    _, without = await exporting(world, "dtls-exporter", "dtls")
    async with trio.open_nursery() as nursery, world.node(one, left) as a:
        for number, made in enumerate((two, without, two)):
            mortal = Daemon(world, nursery, made, right)
            await mortal.start()
            assert await eventually_crosses(left, right, packet(1, 2, number), within_s=HEALED_S)
            await trio.sleep(1)
            assert await crosses(left, right, packet(1, 2, number))
            assert await crosses(right, left, packet(2, 1, number))
            assert the_peer(a, 2)["suite"] == made.node.backend
            right.socket.vanish()  # so that it can say no farewell
            await mortal.stop()


async def test_a_peer_that_proposes_keys_where_it_was_dialled_gets_none(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    one, two = await exporting(world, "dtls-exporter", "dtls")
    async with world.node(one, left) as a, world.node(two, right) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        await trio.sleep(1)
        hostile: Any = b.roster.running[name(1)]
        assert not hostile.channel.is_ours
        before = drops(a).get("malformed", 0)
        hostile._records.send(hostile.channel, [message(LinkMessage.KEYS, 4711)])
        await trio.sleep(0.1)
        assert drops(a)["malformed"] == before + 1
        asked: Any = a.roster.running[name(2)]
        assert asked.exported._ring.by_index == {}
        assert await crosses(left, right, packet(1, 2, 1))


async def test_under_exported_keys_a_peer_that_moves_is_followed_and_inner_sources_are_judged(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    one, two = await exporting(world, "dtls-exporter", "dtls-exporter")
    async with world.node(one, left) as a, world.node(two, right) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        await trio.sleep(1)
        world.network.rebind((outer(2), PORT), ("203.0.113.9", 4000))
        assert await crosses(right, left, packet(2, 1, 1))
        assert path(a, 2) == "203.0.113.9:4000"
        assert await crosses(left, right, packet(1, 2, 1))
        b.roster.running[name(1)].offer_packets([packet(3, 1, 1)])
        await trio.sleep(0.1)
        assert drops(a)["source_not_allowed"] == 1
        # Nothing that can be read on the way, and no session without DTLS.
        assert not any(b"\xa5" * 8 in data for *_, data in world.wire)
