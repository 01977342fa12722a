"""Packets between whole nodes: both ways, in order, through rekeys, past strangers."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from struct import pack
from typing import Any

import pytest
import trio
from node_world import (
    PORT,
    World,
    config,
    crosses,
    drops,
    host,
    inner,
    name,
    outer,
    packet,
    peer,
    public_key,
    serial,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Endpoint
from holloway.protocols.packets import SuperPacket, internet_checksum
from holloway.simulations import determinism
from holloway.simulations.network import Link


async def test_packets_cross_both_ways_in_order(autojump_clock: MockClock) -> None:
    async with World().pair() as (_, _, left, right):
        for source, target, ends in ((left, right, (1, 2)), (right, left, (2, 1))):
            sent = [packet(*ends, number, size=40 + number % 1300) for number in range(300)]
            source.tun.inject(sent)
            got: list[bytes] = []
            with trio.fail_after(1):
                while len(got) < len(sent):
                    got += await target.tun.collect()
            assert got == sent


async def test_packets_sent_before_there_is_a_session_wait_for_it(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, peers=[peer(2)]), left), world.node(config(2, peers=[peer(1)]), right):
        left.tun.inject([packet(1, 2, number) for number in range(20)])
        with trio.fail_after(1):
            assert [serial(each) for each in await right.tun.collect()] == list(range(20))


def udp_super_packet(payload: bytes, segment_size: int) -> SuperPacket:
    """Host 1 sends `payload` to host 2 as one UDP super-packet."""
    length = 8 + len(payload)
    pseudo = int.from_bytes(inner(1), "big") + int.from_bytes(inner(2), "big") + 17 + length
    udp = pack(">HHHH", 9, 9, length, 0) + payload
    udp = udp[:6] + pack(">H", internet_checksum(udp, pseudo)) + udp[8:]
    header = pack(">BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, 17, 0, inner(1), inner(2))
    header = header[:10] + pack(">H", internet_checksum(header)) + header[12:]
    return SuperPacket(header + udp, segment_size)


async def test_super_packets_in_a_batch_arrive_as_their_segments_in_order(autojump_clock: MockClock) -> None:
    async with World().pair() as (_, _, left, right):
        first = udp_super_packet(bytes(range(256)) * 40, 1000)
        second = udp_super_packet(b"x" * 2500, 1200)
        batch = [packet(1, 2, 1), first, packet(1, 2, 2), second, packet(1, 2, 3)]
        expected = [packet(1, 2, 1), *first.segments(), packet(1, 2, 2), *second.segments(), packet(1, 2, 3)]
        assert len(first.segments()) == 11
        left.tun.inject(batch)
        got: list[bytes] = []
        with trio.fail_after(1):
            while len(got) < len(expected):
                got += await right.tun.collect()
        assert got == expected


async def test_ipv6_crosses_between_hosts_that_speak_ipv6(autojump_clock: MockClock) -> None:
    world = World()
    ports = [world.ports(number) for number in (1, 2)]
    for number, each in enumerate(ports, 1):
        each.host = f"2001:db8::{number}"
    one, two = (
        config(number, peers=[peer(3 - number, endpoint=Endpoint(f"2001:db8:0::{3 - number}", PORT))])
        for number in (1, 2)
    )
    async with world.node(one, ports[0]) as a, world.node(two, ports[1]) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        assert await crosses(ports[0], ports[1], packet(1, 2, 1))
        # However the configuration spells it, the endpoint is where the datagrams come from: nothing has moved.
        assert the_peer(a, 2)["endpoint"] == f"[2001:db8::2]:{PORT}"


async def test_both_dialling_at_once_end_with_one_session_that_works_both_ways(autojump_clock: MockClock) -> None:
    for seed in range(5):
        world = World(seed=seed, latency_s=0.05)
        async with world.pair() as (a, b, left, right):
            assert await crosses(left, right, packet(1, 2, 1))
            assert await crosses(right, left, packet(2, 1, 2))
            await trio.sleep(1)
            assert the_peer(a, 2)["state"] == the_peer(b, 1)["state"] == "ok"
            assert drops(a) == drops(b) == {}


async def test_rekeys_under_traffic_lose_nothing_in_two_hours(autojump_clock: MockClock) -> None:
    """A packet each way every few seconds, so that rekeys of either side meet packets in flight at every phase."""
    world = World(latency_s=0.3)
    async with world.pair() as (a, b, left, right):
        got: dict[int, list[int]] = {1: [], 2: []}

        async def collect(ports: Any, number: int) -> None:
            while True:
                got[number] += [serial(each) for each in await ports.tun.collect()]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, left, 1)
            nursery.start_soon(collect, right, 2)
            count, rng = 0, random.Random(1)
            while trio.current_time() < 7200:
                left.tun.inject([packet(1, 2, count)])
                right.tun.inject([packet(2, 1, count)])
                count += 1
                await trio.sleep(rng.uniform(0.05, 12))
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert got[1] == got[2] == list(range(count))
        assert the_peer(a, 2)["handshakes"] >= 45
        assert drops(a) == drops(b) == {}


async def test_an_idle_session_is_back_with_the_first_packet(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, left, right):
        await trio.sleep(3600)
        assert the_peer(a, 2)["state"] == "stale"
        assert the_peer(a, 2)["epoch"] == 0
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_cut_link_heals_within_seconds(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, left, right):
        world.network.shape(outer(1), outer(2), Link(loss=1))
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(400)
        assert the_peer(a, 2)["state"] == "down"
        world.network.shape(outer(1), outer(2), Link())
        assert await crosses(left, right, packet(1, 2, 2))


async def test_a_peer_behind_a_new_mapping_is_followed_at_once(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, left, right):
        world.network.rebind((outer(2), PORT), ("198.51.100.7", 40000))
        assert await crosses(right, left, packet(2, 1, 1), within_s=0.1)
        assert the_peer(a, 2)["endpoint"] == "198.51.100.7:40000"
        assert await crosses(left, right, packet(1, 2, 2), within_s=0.1)


async def test_a_peer_that_moved_on_and_died_is_called_where_the_configuration_says(autojump_clock: MockClock) -> None:
    """It roamed, restarted at home, and cannot call us: who only tried the last place would never meet it again."""
    world = World()
    async with world.pair() as (a, _, left, right):
        world.network.rebind((outer(2), PORT), ("198.51.100.7", 40000))
        assert await crosses(right, left, packet(2, 1, 1))
        assert the_peer(a, 2)["endpoint"] == "198.51.100.7:40000"
        world.network.rebind(("198.51.100.7", 40000), (outer(2), PORT))
        left.tun.inject([packet(1, 2, 2)])
        await trio.sleep(30)
        assert the_peer(a, 2)["endpoint"] == f"{outer(2)}:{PORT}"
        assert await crosses(left, right, packet(1, 2, 3))


async def test_only_what_is_for_a_peer_leaves_and_the_rest_is_counted(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, left, right):
        left.tun.inject([packet(1, 9, 1), b"\x00" * 40, packet(1, 2, 3)])
        with trio.fail_after(1):
            assert await right.tun.collect() == [packet(1, 2, 3)]
        assert drops(a) == {"no_route": 1, "not_ip": 1}


async def test_a_peer_speaks_for_nobody_else_and_not_in_our_name(autojump_clock: MockClock) -> None:
    """Even a peer that may send from anywhere may not send from our address, nor from another peer's."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    exit_node = peer(2, allowed=(ip_network("10.99.0.2/32"), ip_network("0.0.0.0/0")))
    peers = [exit_node, peer(3)]
    async with (
        world.node(config(1, peers=peers, prefixes=["192.168.7.0/24"]), left) as a,
        world.node(config(2, peers=[peer(1)]), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        right.tun.inject([packet(1, 1, 1), packet(3, 1, 2), packet(2, 1, 3)])
        behind_us = bytearray(packet(2, 1, 4))
        behind_us[12:16] = bytes((192, 168, 7, 7))
        elsewhere = bytearray(packet(2, 1, 5))
        elsewhere[12:16] = bytes((203, 0, 113, 5))
        right.tun.inject([bytes(behind_us), bytes(elsewhere)])
        await trio.sleep(1)
        assert [serial(each) for each in await left.tun.collect()] == [3, 5]
        assert the_peer(a, 2)["drops"] == {"source_not_allowed": 3}


async def test_thousands_of_hostile_datagrams_reach_nobody_and_are_counted(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, b, left, right):
        for number in range(50):
            assert await crosses(left, right, packet(1, 2, number))
        captured = [datagram for _, _, target, datagram in world.wire if target[0] == outer(1)]
        rng = random.Random(7)
        stranger = world.network.bind("203.0.113.9", 5)
        before = a.status()["drops"], the_peer(a, 2)["rx"]
        sent = 0
        for _ in range(60):
            batch = []
            for _ in range(100):
                kind = rng.randrange(5)
                datagram = bytearray(rng.choice(captured))
                if kind == 0:
                    datagram = bytearray(rng.randbytes(rng.randrange(0, 1500)))
                elif kind == 1:
                    datagram[rng.randrange(len(datagram))] ^= 1 << rng.randrange(8)
                elif kind == 2:
                    del datagram[rng.randrange(len(datagram)) :]
                elif kind == 3:
                    datagram += rng.randbytes(rng.randrange(1, 40))
                batch.append(bytes(datagram))
            stranger.send(batch, (outer(1), PORT))
            sent += len(batch)
            await trio.sleep(0.05)
        assert before[0] == {}
        counted = drops(a)
        assert sum(counted.values()) >= sent
        assert {"unknown_index", "bad_length", "bad_mac1", "replayed", "not_authentic"} <= set(counted)
        assert the_peer(a, 2)["rx"]["packets"] == before[1]["packets"] == 0
        assert the_peer(a, 2)["endpoint"] == f"{outer(2)}:{PORT}"
        assert await crosses(right, left, packet(2, 1, 1))
        assert drops(b) == {}
        validate("status", a.status())
        assert [each.restarts for each in a.tree.children()] == [0]


async def test_a_wrong_passphrase_gives_no_session_and_a_counted_reason(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holloway.actors.node.network_key", lambda passphrase, network: passphrase[:32].ljust(32))
    world = World()
    left, right = world.ports(1), world.ports(2)
    one = config(1, peers=[peer(2)], passphrase=b"six random words or more")
    two = config(2, peers=[peer(1)], passphrase=b"seven random words or more")
    async with world.node(one, left) as a, world.node(two, right) as b:
        assert not await crosses(left, right, packet(1, 2, 1), within_s=20)
        assert not the_peer(a, 2)["epoch"]
        assert the_peer(a, 2)["state"] == "down"
        assert drops(a)["handshake_not_authentic"] + drops(b)["handshake_not_authentic"] > 0


async def test_the_same_passphrase_gives_a_session(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holloway.actors.node.network_key", lambda passphrase, network: passphrase[:32].ljust(32))
    async with World().pair(passphrase=b"six random words or more") as (_, _, left, right):
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_node_whose_key_we_do_not_know_is_not_answered(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    stranger = peer(3, public_key=public_key(7))
    async with world.node(config(1, peers=[stranger]), left) as a, world.node(config(2, peers=[peer(1)]), right) as b:
        await trio.sleep(12)
        assert drops(a)["unknown_peer"] >= 2
        assert the_peer(b, 1)["state"] == "down"
        assert not [datagram for _, source, _, datagram in world.wire if source[0] == outer(1) and len(datagram) == 92]


async def test_two_networks_in_one_program_do_not_meet(autojump_clock: MockClock) -> None:
    """One wire and one store, the same inner addresses twice, and neither network knows of the other."""
    world = World()
    ports = {number: world.ports(number) for number in (1, 2, 3, 4)}
    async with AsyncExitStack() as stack:
        nodes = {}
        for number, network in ((1, "red"), (2, "red"), (3, "blue"), (4, "blue")):
            made = config(number, registry=True, network=network)
            if network == "blue":
                addresses = config(number - 2).interface.addresses
                made = replace(made, interface=replace(made.interface, addresses=addresses))
            nodes[number] = await stack.enter_async_context(world.node(made, ports[number]))
        with trio.fail_after(5):
            await nodes[1].connected(name(2))
            await nodes[3].connected(name(4))
        assert await crosses(ports[1], ports[2], packet(1, 2, 1))
        assert await crosses(ports[3], ports[4], packet(1, 2, 2))
        assert [list(node.roster.running) for node in nodes.values()] == [
            ["node-2"],
            ["node-1"],
            ["node-4"],
            ["node-3"],
        ]
        assert {(source[0], target[0]) for _, source, target, _ in world.wire} == {
            (outer(one), outer(other)) for one, other in ((1, 2), (2, 1), (3, 4), (4, 3))
        }
        assert [drops(node) for node in nodes.values()] == [{}] * 4


def run_once() -> list[Any]:
    """A little story, and everything that was seen on its wire."""
    world = World(seed=3, latency_s=0.02)

    async def story() -> None:
        async with world.pair() as (a, b, left, right):
            world.network.shape(outer(1), outer(2), Link(latency_s=0.02, loss=0.2, duplicate=0.1))
            for number in range(100):
                left.tun.inject([packet(1, 2, number)])
                right.tun.inject([packet(2, 1, number)])
                await trio.sleep(3)
            world.wire.append((0.0, ("", 0), ("", 0), repr((a.peers(), b.peers())).encode()))

    determinism.run(0, story)
    return world.wire


def test_the_same_run_twice_is_the_same_run() -> None:
    assert run_once() == run_once()


async def test_pings_go_through_the_tunnel_in_both_families(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    one, two = (
        replace(made, interface=replace(made.interface, addresses=(*made.interface.addresses, ip_interface(six))))
        for made, six in (
            (config(1, peers=[peer(2, allowed=(host(2), ip_network("fd99::2/128")))]), "fd99::1/64"),
            (config(2, peers=[peer(1, allowed=(host(1), ip_network("fd99::1/128")))]), "fd99::2/64"),
        )
    )
    async with world.node(one, left) as a, world.node(two, right):
        for target in (name(2), "fd99::2", "10.99.0.2"):
            answers: list[Any] = [each async for each in a.ping(target, count=2, interval_s=0.1)]
            assert [each["event"]["sequence"] for each in answers[:-1]] == [1, 2]
            assert answers[-1]["result"]["received"] == 2
            validate("ping", answers[-1]["result"])
            for each in answers[:-1]:
                validate("ping", {"schema": "holloway.ping/1"} | each)
