"""What happens to a node when a part of it crashes, or the peer does: everything is back, and nothing else is disturbed."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import trio
from node_world import (
    Daemon,
    FragilePorts,
    World,
    config,
    crosses,
    drops,
    eventually_crosses,
    host,
    name,
    packet,
    peer,
    serial,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Node
from holloway.actors.records import Records
from holloway.supervisor import ChildExited, ChildStarted, Event, IntensityExceeded, State, SupervisorGaveUp

BEHIND_2 = ip_network("192.168.2.0/24")


def routed_peer(number: int) -> Any:
    """Host `number` with a network behind it, which takes a kernel route."""
    return peer(number, allowed=(host(number), BEHIND_2))


async def restarts(node: Node, path: str) -> int:
    """How often a child of the data plane was started again by its supervisor."""
    dataplane: Any = node.tree.ref("dataplane").get()
    return next(info.restarts for info in dataplane.children() if info.name == path)


@pytest.mark.parametrize("part", ["netlink", "udp", "tun"])
async def test_a_crash_in_the_data_plane_brings_back_sessions_and_routes(part: str, autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    events: list[Event] = []
    async with (
        world.node(config(1, peers=[routed_peer(2)], registry=True), left, on_event=events.append) as a,
        world.node(config(2, peers=[peer(1)]), right) as b,
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        for turn in range(3):
            await trio.sleep(100)  # so that three crashes are not too many
            left.tun.inject([packet(1, 77, 1)])
            await trio.sleep(0.1)
            before, events[:] = drops(a), []
            getattr(left, f"crash_{part}")()
            await trio.testing.wait_all_tasks_blocked()
            validate("status", a.status())
            validate("peers", a.peers())
            assert the_peer(a, 2)["state"] == "down"
            assert the_peer(a, 2)["problem"]
            assert await eventually_crosses(left, right, packet(1, 2, 10 * turn), within_s=2)
            assert await eventually_crosses(right, left, packet(2, 1, 10 * turn + 1), within_s=2)
            assert left.netlink.routes == {BEHIND_2: "hw0"}
            assert the_peer(a, 2)["problem"] is None
            assert all(drops(a)[reason] >= count for reason, count in before.items())
            crashed = [each.path for each in events if isinstance(each, ChildExited) and each.exit.reason == "failed"]
            assert crashed == [f"node.dataplane.{part}"]
            assert not [each for each in events if isinstance(each, ChildStarted) and "registry" in each.path]
        assert [info.restarts for info in a.tree.children()] == [0, 0]
        assert drops(b).keys() <= {"unknown_index", "key_expired"}


async def test_a_socket_that_cannot_be_had_again_at_once_is_tried_again(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, left, right):
        left.datagrams_refused = 2
        left.crash_udp()
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=5)
        assert a.status()["node"]["listen"] == ["192.0.2.1:1099"]  # type: ignore[index]


async def test_a_data_plane_that_cannot_live_ends_the_node_with_its_cause(autojump_clock: MockClock) -> None:
    world = World()
    left = world.ports(1)
    with pytest.raises(IntensityExceeded) as raised:  # noqa: PT012 - it is the body that is cancelled
        async with world.node(config(1, peers=[peer(2)]), left):
            left.datagrams_refused = 1000
            left.crash_udp()
            await trio.sleep(3600)
    assert "EADDRINUSE" in str(raised.value.causes.exceptions) + repr(raised.value.causes.exceptions)
    assert not left.tun.is_open


async def test_a_data_plane_that_gives_up_is_begun_again_and_the_registry_goes_on(autojump_clock: MockClock) -> None:
    """Five crashes in a row spend its budget once, and of the node's own only one restart."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    events: list[Event] = []
    async with (
        world.node(config(1, registry=True), left, on_event=events.append) as a,
        world.node(config(2, registry=True), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        for number in range(5):
            left.crash_udp()
            assert await eventually_crosses(left, right, packet(1, 2, number), within_s=5)
        assert [info.restarts for info in a.tree.children()] == [1, 0]
        assert [each for each in events if isinstance(each, SupervisorGaveUp)]
        assert not [each for each in events if isinstance(each, ChildExited) and "registry" in each.path]


def poison(node: Node, number: int, method: str) -> None:
    """Let the next turn of that kind be a bug."""
    session: Any = node.roster.running[name(number)].session

    def crash(*args: object, **more: object) -> None:
        raise RuntimeError("a bug in a turn")

    setattr(session, method, crash)


@pytest.mark.parametrize(
    ("method", "starter", "packets"),
    [("receive_lone", 2, 1), ("send_lone", 1, 1), ("receive", 2, 2), ("send", 1, 2), ("runs_to_send", 1, 2)],
)
async def test_a_turn_that_crashes_ends_its_own_peer_and_nobody_else(
    method: str, starter: int, packets: int, autojump_clock: MockClock
) -> None:
    """The turn runs inside a call of the socket's or the device's actor, and is not their crash."""
    world = World()
    ports = {number: world.ports(number) for number in (1, 2, 3)}
    events: list[Event] = []
    async with (
        world.node(config(1, peers=[peer(2), peer(3)]), ports[1], on_event=events.append) as a,
        world.node(config(2, peers=[peer(1)]), ports[2]),
        world.node(config(3, peers=[peer(1)]), ports[3]),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
            await a.connected(name(3))
        events.clear()
        first, other = a.roster.running[name(2)], a.roster.running[name(3)]
        poison(a, 2, method)
        ports[starter].tun.inject([packet(starter, 3 - starter, 1, 1000)] * packets)
        await trio.sleep(0.05)
        assert first.is_stopped
        assert the_peer(a, 2)["state"] == "down"
        assert "a bug in a turn" in the_peer(a, 2)["problem"]
        validate("peers", a.peers())
        assert await eventually_crosses(ports[1], ports[2], packet(1, 2, 2), within_s=2)
        failed = [each.path for each in events if isinstance(each, ChildExited)]
        assert failed == ["node.dataplane.peers.node-2"]
        assert a.roster.running[name(3)] is other
        assert await crosses(ports[1], ports[3], packet(1, 3, 3))


async def test_a_peer_that_always_crashes_takes_nobody_with_it(autojump_clock: MockClock) -> None:
    world = World()
    ports = {number: world.ports(number) for number in (1, 2, 3)}
    async with (
        world.node(config(1, peers=[peer(2), peer(3)]), ports[1]) as a,
        world.node(config(2, peers=[peer(1)]), ports[2]),
        world.node(config(3, peers=[peer(1)]), ports[3]),
    ):
        with trio.fail_after(5):
            await a.connected(name(3))
        other = a.roster.running[name(3)]
        crashes = 0
        while trio.current_time() < 600:
            if name(2) in a.roster.running:
                poison(a, 2, "send")
                ports[1].tun.inject([packet(1, 2, 1)])
                crashes += 1
            await trio.sleep(0.1)
        assert crashes > 20
        assert a.roster.running[name(3)] is other
        assert await crosses(ports[3], ports[1], packet(3, 1, 1))
        assert [info.restarts for info in a.tree.children()] == [0]


async def test_a_crash_of_the_roster_leaves_the_peers_in_peace(autojump_clock: MockClock) -> None:
    world = World()
    left, right, third = world.ports(1), world.ports(2), world.ports(3)
    async with (
        world.node(config(1, peers=[peer(2)], registry=True), left) as a,
        world.node(config(2, peers=[peer(1)]), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        session = a.roster.running[name(2)]
        left.netlink.poisoned.add("192.168.3.0/24")
        async with world.node(config(3, registry=True, prefixes=["192.168.3.0/24"]), third) as c:
            await trio.sleep(0.5)
            assert await restarts(a, "roster") > 0
            left.netlink.poisoned.clear()
            with trio.fail_after(30):
                await c.connected(name(1))
                while ip_network("192.168.3.0/24") not in left.netlink.routes:  # noqa: ASYNC110
                    await trio.sleep(0.1)
        assert a.roster.running[name(2)] is session
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_membership_that_always_crashes_leaves_the_data_plane_in_peace(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    events: list[Event] = []
    async with (
        world.node(config(1, registry=True), left, on_event=events.append) as a,
        world.node(config(2, registry=True), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        session = a.roster.running[name(2)]

        def crash(*args: object) -> None:
            raise RuntimeError("a bug in reading records")

        events.clear()
        monkeypatch.setattr(Records, "peers", crash)
        world.memory.transact((), {b"/holloway/holloway/nodes/node-9": b"{}"}, (), None)
        await trio.sleep(3600)
        validate("status", a.status())
        assert a.status()["node"]["registry"]["in_touch"] is False  # type: ignore[index]
        assert len([each for each in events if "membership" in each.path]) > 100
        assert not [each for each in events if "dataplane" in each.path]
        assert a.roster.running[name(2)] is session
        assert await crosses(left, right, packet(1, 2, 1))
        monkeypatch.undo()
        await trio.sleep(60)
        assert a.status()["node"]["registry"]["in_touch"] is True  # type: ignore[index]
        assert a.roster.running[name(2)] is session
        assert [info.state for info in a.tree.children()] == [State.RUNNING, State.RUNNING]


@pytest.mark.parametrize("has_endpoint", [True, False])
async def test_a_restarted_peer_is_back_within_a_second(has_endpoint: bool, autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    two = config(2, peers=[peer(1, endpoint=has_endpoint)])
    async with trio.open_nursery() as nursery, world.node(config(1, peers=[peer(2)]), left) as a:
        daemon = Daemon(world, nursery, two, right)
        await daemon.start()
        with trio.fail_after(10):
            await a.connected(name(2))
        assert await crosses(left, right, packet(1, 2, 0))
        for number in range(1, 4):
            await trio.sleep(30)
            await daemon.stop()
            await daemon.start()
            assert await eventually_crosses(left, right, packet(1, 2, number), within_s=1)
            assert await eventually_crosses(right, left, packet(2, 1, number), within_s=1)
        await daemon.stop()


async def test_traffic_goes_on_while_a_peer_restarts_and_resumes_in_order(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    two = config(2, peers=[peer(1)])
    got: list[int] = []

    async def collect(ports: FragilePorts) -> None:
        with trio.move_on_after(5):
            while True:
                got.extend(serial(each) for each in await ports.tun.collect())

    async def send() -> None:
        for number in range(500):
            left.tun.inject([packet(1, 2, number)])
            await trio.sleep(0.01)

    async with trio.open_nursery() as daemons, world.node(config(1, peers=[peer(2)]), left) as a:
        daemon = Daemon(world, daemons, two, right)
        await daemon.start()
        with trio.fail_after(10):
            await a.connected(name(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(1)
            await daemon.stop()
            await trio.sleep(1)
            await daemon.start()
            nursery.start_soon(collect, right)
        await daemon.stop()
        assert got == list(range(got[0], 500))
        assert got[0] < 205
