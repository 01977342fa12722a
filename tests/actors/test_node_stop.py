"""What a node leaves behind: nothing, however and whenever it ends."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from node_world import FragilePorts, World, config, crosses, host, name, packet, peer
from trio.testing import MockClock

from holloway.actors import ListenConfig
from holloway.protocols.errors import PortError
from holloway.supervisor import ChildStartError

ROUTED = (host(2), ip_network("192.168.2.0/24"))


def task_names() -> list[str]:
    """Every task of the run."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    todo, found = [root], []
    while todo:
        task = todo.pop()
        found.append(task.name)
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return sorted(found)


def nothing_is_left(world: World, *ports: FragilePorts) -> bool:
    """Whether no socket, device, route or record of a node is there any more."""
    store = world.memory.snapshot(b"")
    assert world.network._sockets == {}
    assert not store.entries, list(store.entries)
    for each in ports:
        assert each._tun is None or not each.tun.is_open
        assert each.netlink.routes == {}
    return True


async def test_a_stopped_node_leaves_no_task_no_table_and_no_object(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    before = task_names()
    async with (
        world.node(config(1, peers=[peer(2, allowed=ROUTED)], registry=True), left) as a,
        world.node(config(2, registry=True), right) as b,
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        assert await crosses(left, right, packet(1, 2, 1))
        udp: Any = a.tree.ref("dataplane.udp").get()
        demux, router, roster = udp.demux, a.router, a.roster
        session = roster.running[name(2)]
        assert len(router.routes) == 3
        assert left.netlink.routes
        assert world.memory.snapshot(b"").entries
        kept = [weakref.ref(each) for each in (a, b, udp, session, session.session, a.tree.ref("registry").get())]
    assert task_names() == before
    assert nothing_is_left(world, left, right)
    assert (len(router.routes), roster.running) == (1, {})
    assert repr(demux) == "<Demux 0 peers, 0 indices, 0 tokens>"
    assert session.is_stopped
    del a, b, udp, demux, router, roster, session
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


async def test_peers_that_come_and_go_leave_nothing(autojump_clock: MockClock) -> None:
    """Through the registry, a hundred times, with sessions that work."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, registry=True), left) as a:
        udp: Any = a.tree.ref("dataplane.udp").get()
        handles = []
        tasks = task_names()
        for number in range(20):
            async with world.node(config(2, registry=True, prefixes=["192.168.2.0/24"]), right) as b:
                with trio.fail_after(10):
                    await b.connected(name(1))
                assert await crosses(right, left, packet(2, 1, number))
                handles.append(weakref.ref(a.roster.running[name(2)]))
                assert left.netlink.routes
            await trio.sleep(200)
            assert a.roster.running == {}
            assert left.netlink.routes == {}
        assert repr(udp.demux) == "<Demux 0 peers, 0 indices, 0 tokens>"
        assert len(a.router.routes) == 1
        assert task_names() == tasks
        gc.collect()
        assert [handle() for handle in handles] == [None] * 20


async def cancelled_at(tick: int) -> int:
    """Run a program around two nodes that loses interest at a tick of its life. How far it came."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    before, progress = task_names(), 0

    async def lose_interest(scope: trio.CancelScope) -> None:
        for _ in range(tick):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_interest, nursery.cancel_scope)
        async with world.node(config(1, peers=[peer(2, allowed=ROUTED)], registry=True), left) as a:
            progress = 1
            async with world.node(config(2, registry=True), right):
                progress = 2
                await a.connected(name(2))
                progress = 3
                await trio.sleep_forever()
    assert task_names() == before
    assert nothing_is_left(world, left, right)
    return progress


def test_a_program_cancelled_at_any_moment_leaves_nothing() -> None:
    reached = [trio.run(cancelled_at, tick, clock=MockClock(autojump_threshold=0)) for tick in range(0, 110, 2)]
    assert reached[0] == 0
    assert set(reached) >= {0, 1, 2}
    assert reached.count(0) > 5


async def test_a_program_cancelled_with_a_session_leaves_nothing(autojump_clock: MockClock) -> None:
    world = World()
    before = task_names()
    with trio.move_on_after(3):
        async with world.pair() as (_, _, left, right):
            while await crosses(left, right, packet(1, 2, 1)):
                pass
    assert task_names() == before
    assert nothing_is_left(world, left, right)


async def test_a_start_that_fails_late_gives_back_what_began_early(autojump_clock: MockClock) -> None:
    world = World()
    left = world.ports(1)
    made = config(1, peers=[peer(2)])
    taken = world.network.bind(left.host, 1099)
    before = task_names()
    with pytest.raises(ChildStartError) as raised:
        async with world.node(made, left):
            pytest.fail("it started")
    cause: BaseException | None = raised.value
    while isinstance(cause, ChildStartError):
        cause = cause.__cause__
    assert isinstance(cause, PortError)
    taken.close()
    assert task_names() == before
    assert nothing_is_left(world, left)


async def test_what_the_body_raises_comes_out_bare_and_the_node_is_stopped(autojump_clock: MockClock) -> None:
    world = World()
    left = world.ports(1)
    with pytest.raises(ValueError, match="of the program"):
        async with world.node(config(1, peers=[peer(2)]), left):
            raise ValueError("a mistake of the program")
    assert nothing_is_left(world, left)


async def test_two_lives_of_one_host_do_not_disturb_each_other(autojump_clock: MockClock) -> None:
    """The second node cannot have the port of the first, says so, and takes nothing of it along."""
    world = World()
    async with world.pair() as (_, _, left, right):
        with pytest.raises(ChildStartError):
            async with world.node(config(1), world.ports(1)):
                pytest.fail("it started")
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_node_that_asks_for_any_port_says_which_it_has(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(replace(config(1), listen=ListenConfig(port=0)), world.ports(1)) as a:
        (listening,) = a.status()["node"]["listen"]  # type: ignore[index]
        assert listening.startswith("192.0.2.1:")
        assert not listening.endswith(":0")
    assert a.status()["node"]["listen"] == []  # type: ignore[index]


async def test_waiting_for_a_slow_passphrase_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In real time: the derivation runs in a thread, which nobody should have to wait for."""
    release = threading.Event()
    monkeypatch.setattr("holloway.actors.node.network_key", lambda passphrase, network: release.wait(5))
    world = World()
    began = trio.current_time()
    with trio.move_on_after(0.05) as scope:
        async with world.node(config(1, passphrase=b"six random words or more"), world.ports(1)):
            pytest.fail("it started")
    assert scope.cancelled_caught
    assert trio.current_time() - began < 2
    release.set()
