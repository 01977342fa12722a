"""What a node says of itself, before, between and after the lives of its parts."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from node_world import PORT, World, config, crosses, drops, host, name, outer, packet, peer, the_peer, validate
from trio.testing import MockClock

from holloway.actors import Config, Node
from holloway.actors.node import Node as RealNode
from holloway.actors.secrets import Secrets
from holloway.actors.status import summary
from holloway.protocols.errors import HollowayError
from holloway.protocols.keys import encode_key


def said(node: Node) -> Any:
    return node.status()


async def test_status_tells_the_whole_story_of_a_session(autojump_clock: MockClock) -> None:
    world = World(latency_s=0.05)
    left, right = world.ports(1), world.ports(2, answer_pings=True)
    one = config(1, peers=[peer(2, keepalive_s=25)])
    async with world.node(one, left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(5):
            await a.connected(name(2))
        assert await crosses(right, left, packet(2, 1, 1, size=100))
        for number in range(3):
            assert await crosses(left, right, packet(1, 2, number, size=200))
        async for _ in a.ping(name(2), count=1):
            pass
        await trio.sleep(5 - trio.current_time())
        node = said(a)["node"]
        assert node | {"pid": os.getpid(), "uptime_s": 5.0, "listen": [f"{outer(1)}:{PORT}"]} == node
        assert node["name"] == name(1)
        assert node["addresses"] == ["10.99.0.1/24"]
        assert node["public_key"] == encode_key(a.public_key)
        assert (node["network"], node["interface"], node["mtu"], node["registry"]) == ("holloway", "hw0", 1420, None)
        (found,) = said(a)["peers"]
        assert found["state"] == "ok"
        assert found["addresses"] == ["10.99.0.2"]
        assert (found["rx"]["packets"], found["tx"]["packets"]) == (2, 4)
        assert found["tx"]["bytes"] > 3 * 200
        assert found["rtt_ms"] == pytest.approx(100, abs=1)
        assert 4 < found["last_handshake_s"] < 5
        detail = the_peer(a, 2)
        assert {key: detail[key] for key in found} == found
        assert (detail["keepalive_s"], detail["allowed"], detail["handshakes"]) == (25, ["10.99.0.2/32"], 1)
        assert detail["problem"] is None
        validate("status", a.status())
        validate("peers", a.peers())


async def test_peers_are_told_in_the_order_of_their_names_and_none_is_missing(autojump_clock: MockClock) -> None:
    world = World()
    peers = [peer(number) for number in (7, 3, 5)]
    async with world.node(config(1, peers=peers), world.ports(1)) as a:
        assert [each["name"] for each in said(a)["peers"]] == [name(3), name(5), name(7)]
        pool: Any = a.tree.ref("dataplane.peers").get()
        await pool.stop(a.roster.plan.peers[name(5)].identity)
        assert [each["name"] for each in said(a)["peers"]] == [name(3), name(5), name(7)]
        assert the_peer(a, 5)["problem"] == "it is not running yet"
        validate("peers", a.peers())


async def test_a_node_that_is_not_running_still_answers(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(config(1, peers=[peer(2)], registry=True), world.ports(1)) as a:
        await trio.sleep(1)
    for node in (a, unborn(config(1, peers=[peer(2)], registry=True), world)):
        validate("status", node.status())
        validate("peers", node.peers())
        assert said(node)["node"]["listen"] == []
        assert said(node)["node"]["registry"] == {"trust": "store", "in_touch": False, "nodes": 0, "refused": {}}
        assert said(node)["peers"][0]["state"] == "down"


def unborn(made: Config, world: World) -> Node:
    assert made.session.private_key is not None
    return RealNode(made, world.ports(9), Secrets(made.session.private_key), None)


async def test_counters_of_peers_that_are_gone_are_still_in_the_sum(autojump_clock: MockClock) -> None:
    world = World()
    async with world.pair() as (a, _, left, right):
        spoofed = bytearray(packet(2, 1, 1))
        spoofed[12:16] = bytes((10, 99, 0, 77))
        right.tun.inject([bytes(spoofed)] * 3)
        await trio.sleep(1)
        assert drops(a) == {"source_not_allowed": 3}
        pool: Any = a.tree.ref("dataplane.peers").get()
        await pool.stop(a.roster.plan.peers[name(2)].identity)
        assert drops(a) == {"source_not_allowed": 3}
        left.tun.send([b""])
        assert drops(a) == {"source_not_allowed": 3, "tun_einval": 1}
        left.crash_tun()
        await trio.sleep(1)
        assert drops(a) == {"source_not_allowed": 3, "tun_einval": 1}


async def test_nothing_that_a_node_says_of_itself_shows_a_key(autojump_clock: MockClock) -> None:
    world = World()
    secret = bytes(range(32))
    one = replace(config(1, peers=[replace(peer(2), preshared_key=secret)]))
    async with world.node(one, world.ports(1)) as a:
        texts = repr((a, a.status(), a.peers(), a.roster.running, a.roster.plan, a.tree.children(), one))
        for key in (one.session.private_key, secret):
            assert key is not None
            assert encode_key(key) not in texts
            assert repr(key)[2:-1] not in texts


async def test_a_peer_without_an_address_of_its_own_cannot_be_pinged_by_name(autojump_clock: MockClock) -> None:
    world = World()
    peers = [peer(2, allowed=(ip_network("192.168.2.0/24"), ip_network("fd99::2/128"))), peer(3, allowed=(host(3),))]
    async with world.node(config(1, peers=peers), world.ports(1)) as a:
        for target, why in ((name(2), "single address of a family of ours"), ("fd99::2", "no IPv6 address of its own")):
            with pytest.raises(HollowayError, match=why):
                async for _ in a.ping(target):
                    pass
        answers: list[Any] = [each async for each in a.ping("192.168.2.9", count=1, timeout_s=0.1)]
        assert answers[-1]["result"]["peer"] == name(2)


def test_a_summary_has_least_mean_and_greatest() -> None:
    assert summary([]) is None
    assert summary([1.0, 2.0, 4.5]) == {"min": 1.0, "avg": 2.5, "max": 4.5}
