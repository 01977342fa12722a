"""Peers that come, change and go at run time, those that cannot be started, and the kernel routes to all of them."""

from __future__ import annotations

import logging
from collections import Counter
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from node_world import (
    PORT,
    FragileNetlink,
    World,
    config,
    crosses,
    drops,
    host,
    name,
    outer,
    packet,
    peer,
    public_key,
    record,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Endpoint, Node
from holloway.actors.bounded_log import BoundedLog
from holloway.actors.kernel_routes import RETRY_S, KernelRoutes
from holloway.actors.roster import Roster
from holloway.actors.wanted import Peer
from holloway.protocols.membership import encode_record, node_key
from holloway.simulations.network import Link

NET_5, NET_6 = ip_network("192.168.5.0/24"), ip_network("192.168.6.0/24")


def publish(world: World, number: int, **changes: Any) -> None:
    """Write the record of host `number` as somebody else would, without a lease."""
    made = record(number, **changes)
    world.memory.transact((), {node_key("holloway", made.name): encode_record(made)}, (), None)


def withdraw(world: World, number: int) -> None:
    world.memory.transact((), {}, (node_key("holloway", name(number)),), None)


def found(number: int, *prefixes: str, endpoint: str | None = None) -> Peer:
    return Peer(
        name=name(number),
        public_key=public_key(number),
        allowed=(host(number), *map(ip_network, prefixes)),
        endpoints=() if endpoint is None else (Endpoint(endpoint, PORT),),
    )


async def test_peers_come_and_go_with_their_routes(autojump_clock: MockClock) -> None:
    world = World()
    left = world.ports(1)
    async with world.node(config(1), left) as a:
        for _ in range(3):
            a.roster.set_found([found(5, "192.168.5.0/24"), found(6, "192.168.6.0/24", "10.99.0.128/25")])
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(a.roster.running) == [name(5), name(6)]
            assert left.netlink.routes == {NET_5: "hw0", NET_6: "hw0"}
            assert len(a.router.routes) == 6
            a.roster.set_found([found(6, "192.168.6.0/24")])
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(a.roster.running) == [name(6)]
            assert left.netlink.routes == {NET_6: "hw0"}
            a.roster.set_found([])
            await trio.testing.wait_all_tasks_blocked()
            assert (a.roster.running, left.netlink.routes, len(a.router.routes)) == ({}, {}, 1)


async def test_a_change_of_prefixes_or_endpoints_leaves_the_session_alone(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1), left) as a, world.node(config(2, peers=[peer(1)]), right):
        a.roster.set_found([found(2, endpoint=outer(2))])
        with trio.fail_after(10):
            await a.connected(name(2))
        session = a.roster.running[name(2)]
        await trio.sleep(1)  # for what it takes to know the path
        wire = len(world.wire)
        for number in range(50):
            a.roster.set_found([found(2, f"192.168.{number}.0/24", endpoint=f"198.51.100.{number + 1}")])
            await trio.sleep(0.05)
            assert list(left.netlink.routes) == [ip_network(f"192.168.{number}.0/24")]
        assert a.roster.running[name(2)] is session
        assert the_peer(a, 2)["allowed"] == ["10.99.0.2/32", "192.168.49.0/24"]
        assert the_peer(a, 2)["endpoint"] == f"{outer(2)}:{PORT}"
        assert len(world.wire) == wire
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))


async def test_a_peer_that_does_not_answer_is_called_at_the_endpoint_that_its_record_has_now(
    autojump_clock: MockClock,
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1), left) as a, world.node(config(2, peers=[peer(1, endpoint=None)]), right):
        a.roster.set_found([found(2, endpoint="198.51.100.9")])
        await trio.sleep(3)
        assert the_peer(a, 2)["state"] == "handshaking"
        a.roster.set_found([found(2, endpoint=outer(2))])
        with trio.fail_after(6):
            await a.connected(name(2))
        world.network.shape(outer(1), outer(2), Link(loss=1))
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(300)
        assert the_peer(a, 2)["state"] == "down"
        world.network.shape(outer(1), outer(2), Link())
        world.network.rebind((outer(2), PORT), ("198.51.100.7", PORT))
        a.roster.set_found([found(2, endpoint="198.51.100.7")])
        with trio.fail_after(1):
            while the_peer(a, 2)["state"] != "ok":  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_another_key_under_the_same_name_is_another_peer(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        a.roster.set_found([found(2)])
        await trio.testing.wait_all_tasks_blocked()
        session = a.roster.running[name(2)]
        a.roster.set_found([Peer(name=name(2), public_key=public_key(3), allowed=(host(2),))])
        await trio.testing.wait_all_tasks_blocked()
        assert session.is_stopped
        assert a.roster.running[name(2)].peer.public_key == public_key(3)
        udp: Any = a.tree.ref("dataplane.udp").get()
        assert repr(udp.demux).startswith("<Demux 1 peers")


async def test_a_prefix_changes_hands_without_a_restart_of_either(autojump_clock: MockClock) -> None:
    """A node is given the address of one that has gone, and of which a session is still kept."""
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        a.roster.set_found([found(2, "192.168.5.0/24"), found(3, "192.168.5.0/24")])
        await trio.testing.wait_all_tasks_blocked()
        two, three = a.roster.running[name(2)], a.roster.running[name(3)]
        inside = NET_5[7].packed
        assert a.router.routes.lookup(inside) is two
        assert the_peer(a, 3)["problem"] == "its prefix 192.168.5.0/24 belongs to another peer"
        a.roster.set_found([found(3, "192.168.5.0/24"), found(2, "192.168.5.0/24")])
        await trio.testing.wait_all_tasks_blocked()
        assert a.router.routes.lookup(inside) is three
        assert the_peer(a, 3)["problem"] is None
        assert a.roster.running == {name(2): two, name(3): three}
        a.roster.set_found([found(2, "192.168.5.0/24")])
        await trio.testing.wait_all_tasks_blocked()
        assert a.router.routes.lookup(inside) is two


LOW_ORDER = (1).to_bytes(32, "little")  # RFC 7748: everybody knows the secret that it gives


async def test_a_peer_that_cannot_be_started_is_told_of_counted_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    peers = [peer(2), peer(3, public_key=LOW_ORDER)]
    async with world.node(config(1, peers=peers), left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(10):
            await a.connected(name(2))
        bad = the_peer(a, 3)
        assert (bad["state"], bad["endpoint"], bad["handshakes"]) == ("down", None, 0)
        assert "low order" in bad["problem"]
        validate("peers", a.peers())
        validate("status", a.status())
        assert drops(a)["peer_not_started"] == 1
        await trio.sleep(3600)
        assert 10 < drops(a)["peer_not_started"] < 30
        assert len([each for each in caplog.records if "cannot be used" in each.getMessage()]) == 1
        udp: Any = a.tree.ref("dataplane.udp").get()
        assert repr(udp.demux).startswith("<Demux 1 peers")  # no attempt left anything behind
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_peer_that_can_be_started_after_all_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was in the way: here the table of receivers, which has another peer with its key for a while."""
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        udp: Any = a.tree.ref("dataplane.udp").get()
        udp.demux.register(public_key(2), object())
        a.roster.set_found([found(2)])
        await trio.testing.wait_all_tasks_blocked()
        assert "two peers have one public key" in the_peer(a, 2)["problem"]
        udp.demux.unregister(public_key(2))
        await trio.sleep(5.1)
        assert the_peer(a, 2)["problem"] is None
        assert a.roster.failures == {}


async def test_a_refused_claim_is_counted_and_logged_once_however_often_the_plan_is_made(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        for number in range(20):
            a.roster.set_found([found(2, "10.99.0.1/32"), found(3, f"192.168.{number}.0/24")])
            await trio.sleep(0.1)
        assert drops(a) == {"prefix_ours": 1}
        told = [each for each in caplog.records if "is this node's own" in each.getMessage()]
        assert len(told) == 1


async def test_a_writer_that_makes_and_unmakes_a_conflict_does_not_fill_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        for number in range(2000):
            a.roster.set_found([found(2, "10.99.0.1/32")] if number % 2 else [found(2)])
            await trio.sleep(0.01)
        assert drops(a)["prefix_ours"] == 1000
        assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) <= 51


# Through the registry.


async def test_a_record_makes_a_peer_and_its_end_ends_it_later(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, registry=True), left) as a, world.node(config(2, peers=[peer(1)]), right):
        publish(world, 2, prefixes=(NET_5,))
        with trio.fail_after(10):
            await a.connected(name(2))
        assert list(left.netlink.routes) == [NET_5]
        assert await crosses(left, right, packet(1, 2, 1))
        session = a.roster.running[name(2)]
        withdraw(world, 2)
        await trio.sleep(179)
        assert a.roster.running[name(2)] is session
        assert await crosses(left, right, packet(1, 2, 1))
        await trio.sleep(2)
        assert a.roster.running == {}
        assert left.netlink.routes == {}


async def test_a_writer_in_a_hurry_restarts_nothing(autojump_clock: MockClock) -> None:
    """Endpoints, prefixes, key, and the record's very being, twenty times a second for a minute."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, registry=True), left) as a, world.node(config(2, peers=[peer(1)]), right):
        publish(world, 2)
        with trio.fail_after(10):
            await a.connected(name(2))
        session = a.roster.running[name(2)]
        plans = count_plans(a)
        for number in range(300):
            publish(world, 2, endpoints=(("198.51.100.1", number + 1),), prefixes=(NET_5,) if number % 2 else ())
            await trio.sleep(0.05)
            publish(world, 2, public_key=public_key(9))
            await trio.sleep(0.05)
            withdraw(world, 2)
            await trio.sleep(0.05)
            publish(world, 2)
            await trio.sleep(0.05)
        assert a.roster.running[name(2)] is session
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))
        assert plans["made"] < 80
        assert the_peer(a, 2)["handshakes"] <= 2


def count_plans(node: Node) -> Counter[str]:
    counted: Counter[str] = Counter()
    make = node.roster._make_plan

    def count() -> None:
        counted["made"] += 1
        make()

    node.roster._make_plan = count  # type: ignore[method-assign]
    return counted


# Kernel routes.


class Story:
    """Routes into hw0, of which 10.99.0.0/24 is the interface's own network."""

    def __init__(self, *known: Any) -> None:
        self.kernel, self.problems = FragileNetlink(), Counter[str]()
        log = BoundedLog(logging.getLogger("holloway.test"))
        self.routes = KernelRoutes(
            self.kernel, "hw0", (ip_network("10.99.0.0/24"),), known=known, problems=self.problems, log=log
        )


async def test_only_prefixes_outside_the_interfaces_networks_take_a_route(autojump_clock: MockClock) -> None:
    story = Story()
    await story.routes.update([host(2), ip_network("10.99.0.128/25"), NET_5, ip_network("10.99.0.0/16")])
    assert list(story.kernel.routes) == [NET_5, ip_network("10.99.0.0/16")]


async def test_a_default_route_is_the_administrators_and_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    for _ in range(3):
        await story.routes.update([ip_network("0.0.0.0/0"), ip_network("::/0")])
    await story.routes.update([])
    assert (story.kernel.routes, story.problems, len(caplog.records)) == ({}, {}, 2)
    assert story.routes.retry_at == float("inf")


async def test_a_refused_route_costs_itself_alone_and_is_asked_for_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    story.kernel.refused.add(str(NET_5))
    for _ in range(3):
        await story.routes.update([NET_5, NET_6])
    assert list(story.kernel.routes) == [NET_6]
    assert story.problems == {"route_refused": 3}
    assert story.routes.refused == {NET_5: f"cannot route {NET_5}: EPERM"}
    assert story.routes.retry_at == trio.current_time() + RETRY_S
    assert len(caplog.records) == 1
    story.kernel.refused.clear()
    await story.routes.update([NET_5, NET_6])
    assert list(story.kernel.routes) == [NET_6, NET_5]
    assert story.routes.refused == {}


async def test_routes_of_a_predecessor_are_made_again_or_removed(autojump_clock: MockClock) -> None:
    story = Story(NET_5, NET_6)
    story.kernel.routes |= {NET_5: "hw0", NET_6: "hw0"}
    await story.routes.update([NET_6])
    assert list(story.kernel.routes) == [NET_6]
    assert [type(each).__name__ for each in story.kernel.calls] == ["RouteRemoved", "RouteAdded"]
    await story.routes.clear()
    assert story.kernel.routes == {}
    assert story.routes.known == []


async def test_a_node_says_which_peer_has_no_route_and_gets_it_later(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    left.netlink.refused.add(str(NET_5))
    peers = [peer(2, allowed=(host(2), NET_5))]
    async with world.node(config(1, peers=peers), left) as a, world.node(config(2, peers=[peer(1)]), right):
        with trio.fail_after(10):
            await a.connected(name(2))
        assert the_peer(a, 2)["problem"] == f"no kernel route for {NET_5}: cannot route {NET_5}: EPERM"
        assert drops(a) == {"route_refused": 1}
        assert await crosses(left, right, packet(1, 2, 1))
        left.netlink.refused.clear()
        await trio.sleep(RETRY_S + 1)
        assert list(left.netlink.routes) == [NET_5]
        assert the_peer(a, 2)["problem"] is None


async def test_a_kernel_that_does_not_let_routes_go_does_not_stop_the_roster(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a process that may not change routes, beside an administrator who made them."""
    from holloway.protocols.errors import PortError

    async def refuse(self: object, interface: str, prefix: object) -> None:
        raise PortError("cannot remove the route", "EPERM")

    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        a.roster.set_found([found(5, "192.168.5.0/24")])
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(FragileNetlink, "remove_route", refuse)
        a.roster.set_found([found(6, "192.168.6.0/24")])
        await trio.sleep(1)
        assert list(a.roster.running) == [name(6)]
        assert drops(a) == {"route_not_removed": 1}


def test_a_roster_knows_what_the_plan_says_of_an_identity_now() -> None:
    roster = Roster([found(2, endpoint=outer(2))], own_key=public_key(1), own_prefixes=(), problems=Counter())
    assert roster.of(found(2).identity).endpoints == (Endpoint(outer(2), PORT),)
    gone = found(7).identity
    assert roster.of(gone) == gone
    other = Peer(name=name(2), public_key=public_key(9))
    assert roster.of(other) == other
