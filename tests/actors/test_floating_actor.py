"""Floating addresses in running nodes: who has one, who follows, and what packets for it do. Ports are simulated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, EnrolledWorld, until
from node_world import (
    Daemon,
    FragilePorts,
    World,
    config,
    crosses,
    drops,
    eventually_crosses,
    name,
    outer,
    packet,
    validate,
)
from trio.testing import MockClock

from holloway.actors import FloatingConfig, MemoryRegistry, Node, RegistryPort, open_node
from holloway.actors.config import ConfigProblems
from holloway.actors.floating import Candidate
from holloway.actors.registry import Compare, Lease, LeaseId, Snapshot, Transaction, Watch
from holloway.actors.registry.port import NOTHING
from holloway.actors.registry_plane import floating_name
from holloway.protocols.errors import PortError
from holloway.protocols.floating_claims import FloatingClaim, encode_floating, floating_prefix
from holloway.simulations.network import Link
from holloway.simulations.ports import SimulatedPorts

FLOATING = IPv4Address("10.99.0.200")
CERTIFIED = IPv4Address("10.99.2.1")
ALONE = ip_interface("10.99.0.200/32")
WANTED = FloatingConfig(address=FLOATING)
OVER_S = 3.0


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


class Line(RegistryPort):
    """A way to the store that somebody can cut: then nothing is answered any more."""

    def __init__(self, store: RegistryPort) -> None:
        self._store = store
        self.is_cut = False

    async def _pass(self) -> RegistryPort:
        if self.is_cut:
            await trio.sleep_forever()
        return self._store

    async def snapshot(self, prefix: bytes) -> Snapshot:
        return await (await self._pass()).snapshot(prefix)

    @asynccontextmanager
    async def watch(self, prefix: bytes, after_revision: int) -> AsyncIterator[Watch]:
        async with (await self._pass()).watch(prefix, after_revision) as watch:
            yield CutWatch(self, watch)

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        puts: Mapping[bytes, bytes] = NOTHING,
        deletes: Sequence[bytes] = (),
        *,
        lease: LeaseId | None = None,
    ) -> Transaction:
        return await (await self._pass()).transact(compares, puts, deletes, lease=lease)

    async def grant(self, ttl_s: float) -> Lease:
        return await (await self._pass()).grant(ttl_s)

    async def keep_alive(self, lease: LeaseId) -> None:
        await (await self._pass()).keep_alive(lease)

    async def revoke(self, lease: LeaseId) -> None:
        await (await self._pass()).revoke(lease)

    async def close(self) -> None:
        await self._store.close()


class CutWatch(Watch):
    def __init__(self, line: Line, watch: Watch) -> None:
        self._line, self._watch = line, watch

    async def receive(self) -> Any:
        changes = await self._watch.receive()
        if self._line.is_cut:
            await trio.sleep_forever()
        return changes


class Lines:
    """All ways of one node to the store."""

    def __init__(self, memory: MemoryRegistry) -> None:
        self._memory = memory
        self._lines: list[Line] = []
        self.is_cut = False

    def handle(self) -> RegistryPort:
        self._lines.append(Line(self._memory.handle()))
        self._lines[-1].is_cut = self.is_cut
        return self._lines[-1]

    def cut(self) -> None:
        self.is_cut = True
        for line in self._lines:
            line.is_cut = True


@dataclass
class Host:
    node: Node
    ports: FragilePorts
    lines: Lines

    @property
    def floating(self) -> Any:
        answer: Any = self.node.status()
        (found,) = answer["node"]["floating"]
        return found

    @property
    def has_it(self) -> bool:
        """On the device."""
        return ALONE in self.ports.netlink.addresses

    @property
    def sends_to(self) -> str | None:
        """The peer that packets for the address go to."""
        peer = self.node.router.routes.lookup(FLOATING.packed)
        return None if peer is None else peer.peer.name

    def die(self) -> None:
        """As with kill -9: nobody hears of it any more, in no way."""
        self.lines.cut()
        self.cut_off()

    def cut_off(self, *others: int, loss: float = 1.0) -> None:
        """From other nodes, all of them if none is named; or, without `loss`, back again."""
        for other in others or range(1, 10):
            self.ports.network.shape(self.ports.host, outer(other), Link(loss=loss))


def floating_config(number: int, wanted: Sequence[FloatingConfig] = (WANTED,)) -> Any:
    return replace(config(number, registry=True), floating=tuple(wanted))


@asynccontextmanager
async def hosts(*candidates: int, others: Sequence[int] = ()) -> AsyncIterator[list[Host]]:
    """Nodes of one network with sessions among them all, the first candidate holding the address."""
    world = World()
    async with AsyncExitStack() as stack:
        found: list[Host] = []
        for number in (*candidates, *others):
            ports, lines = world.ports(number, answer_pings=True), Lines(world.memory)
            wanted = (WANTED,) if number in candidates else ()
            node = await stack.enter_async_context(
                open_node(floating_config(number, wanted), ports=ports, memory=lines)
            )
            found.append(Host(node, ports, lines))
            if len(found) == 1:
                await until(lambda: found[0].has_it)
        for host in found:
            for other in found:
                if other is not host:
                    await host.node.connected(other.node.config.node.name)
        await until(lambda: all(host.sends_to == name(candidates[0]) for host in found[1:]))
        await trio.sleep(1)  # by now those who wait know how long the holder takes to answer
        yield found


def _candidate(host: Host) -> Candidate:
    candidate: Candidate = host.node.tree.ref(f"registry.{floating_name(FLOATING)}").get()
    return candidate


def _owns(host: Host) -> bool:
    return _candidate(host).owns()


def _fence(host: Host) -> int:
    holder = host.node.floating.holder(FLOATING)
    return 0 if holder is None else holder.fence


def to_floating(source: int, serial: int) -> bytes:
    made = packet(source, 200, serial)
    assert made[16:20] == FLOATING.packed
    return made


async def test_all_send_to_the_one_node_that_has_the_address(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, two, three):
        fence = _fence(three)
        await trio.sleep(10)
        assert _fence(three) == fence, "nobody else had it meanwhile"
        assert [host.has_it for host in (one, two, three)] == [True, False, False]
        assert one.floating == {
            "address": str(FLOATING),
            "holder": name(1),
            "ours": True,
            "priority": 0,
            "state": "holding",
        }
        assert (two.floating["state"], two.floating["ours"]) == ("waiting", False)
        assert (three.floating["state"], three.floating["priority"]) == ("followed", None)
        for host in (one, two, three):
            validate("status", host.node.status())
        assert await crosses(three.ports, one.ports, to_floating(3, 1))
        # Its answers are accepted from there, and from nobody else.
        answer = packet(1, 3, 2)
        assert await crosses(one.ports, three.ports, answer[:12] + FLOATING.packed + answer[16:])
        assert not await crosses(two.ports, three.ports, answer[:12] + FLOATING.packed + answer[16:])
        assert drops(three.node)["source_not_allowed"] == 1


async def test_a_holder_that_is_killed_is_replaced(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, two, three):
        one.die()
        began = trio.current_time()
        assert await eventually_crosses(three.ports, two.ports, to_floating(3, 1), within_s=OVER_S)
        assert trio.current_time() - began < 2.0
        assert two.has_it
        assert three.sends_to == name(2)
        assert three.floating["holder"] == name(2)


async def test_a_holder_that_is_stopped_hands_over_at_once(autojump_clock: MockClock) -> None:
    world = World()
    ports, other = world.ports(1), world.ports(2)
    async with trio.open_nursery() as nursery:
        daemon = Daemon(world, nursery, floating_config(1), ports)
        await daemon.start()
        await until(lambda: ALONE in ports.netlink.addresses)
        async with world.node(floating_config(2), other):
            await trio.sleep(1)
            assert ALONE not in other.netlink.addresses
            nursery.start_soon(daemon.stop)
            began = trio.current_time()
            await until(lambda: ALONE in other.netlink.addresses)
            assert trio.current_time() - began < 0.5
            assert ALONE not in ports.netlink.addresses


async def test_a_holder_without_the_store_has_given_up_before_another_one_begins(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, two, three):
        one.lines.cut()
        owners = set()
        for _ in range(400):
            owners.add((_owns(one), _owns(two)))
            assert not (one.has_it and _owns(two))
            await trio.sleep(0.01)
        assert owners == {(True, False), (False, False), (False, True)}
        assert not one.has_it
        # Whoever still sends to the old one is not served there.
        before = drops(one.node).get("destination_not_ours", 0)
        peer = three.node.roster.running[name(1)]
        peer.offer_packets([to_floating(3, 9)])
        await trio.sleep(1)
        assert drops(one.node)["destination_not_ours"] == before + 1


async def test_a_holder_whom_nobody_hears_is_replaced_though_it_reaches_the_store(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, two, three):
        one.cut_off()
        began = trio.current_time()
        assert await eventually_crosses(three.ports, two.ports, to_floating(3, 1), within_s=OVER_S)
        assert trio.current_time() - began < 2.0
        assert (one.has_it, two.has_it) == (False, True)
        fence = _fence(three)
        await trio.sleep(20)
        one.cut_off(loss=0)
        await trio.sleep(20)
        assert _fence(three) == fence, "it goes back and forth between nobody"
        assert _owns(two)


async def test_one_node_that_does_not_hear_the_holder_takes_nothing_from_it(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, _, three):
        fence = _fence(three)
        one.cut_off(2)
        for _ in range(200):
            await trio.sleep(0.05)
            assert _owns(one)
        assert _fence(three) == fence


async def test_a_node_that_hears_nobody_takes_nothing_from_anybody(autojump_clock: MockClock) -> None:
    async with hosts(1, 2, others=[3]) as (one, two, three):
        fence = _fence(three)
        two.cut_off()
        await trio.sleep(10)
        assert _owns(one)
        assert _fence(three) == fence


async def test_of_two_nodes_that_have_nobody_to_ask_the_holder_stays(autojump_clock: MockClock) -> None:
    async with hosts(1, 2) as (one, two):
        fence = _fence(two)
        one.cut_off()
        await trio.sleep(10)
        assert _owns(one)
        assert _fence(two) == fence


async def test_a_device_that_is_made_anew_has_the_address_again(autojump_clock: MockClock) -> None:
    async with hosts(1) as (one,):
        one.ports.crash_tun()
        await until(lambda: one.ports.tun.is_open)
        await until(lambda: one.has_it and one.floating["ours"])
        await trio.sleep(5)
        assert one.has_it


async def test_a_device_that_somebody_changed_keeps_the_address(autojump_clock: MockClock) -> None:
    async with hosts(1) as (one,):
        one.ports.netlink.addresses.clear()
        one.ports.netlink.change("hw0")
        await until(lambda: one.has_it)


async def test_a_claim_that_nobody_can_read_is_removed_in_the_end(autojump_clock: MockClock) -> None:
    world = World()
    key = floating_prefix("holloway") + str(FLOATING).encode()
    handle = world.memory.handle()
    await handle.put(key, b"junk")
    ports = world.ports(1)
    async with world.node(floating_config(1), ports) as node:
        await trio.sleep(5)
        assert ALONE not in ports.netlink.addresses
        assert drops(node)["floating_not_json"] == 1
        await until(lambda: ALONE in ports.netlink.addresses)
    await handle.close()


def node_addresses(world: EnrolledWorld, number: int) -> SimulatedPorts:
    return SimulatedPorts(world.wire, f"192.0.2.{number}", answer_pings=True)


async def test_with_an_authority_nobody_holds_an_address_without_a_certificate_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = EnrolledWorld(tmp_path)
    await world.put(world.authority.statements(NOW))
    world.enrol(1, f"{CERTIFIED}/32")
    world.enrol(2, f"{CERTIFIED}/32")
    world.enrol(3)
    wanted = [FloatingConfig(address=CERTIFIED)]
    with pytest.raises(ConfigProblems, match=r"no prefix 10\.99\.2\.1/32"):
        async with world.node(3, floating=wanted):
            pass
    with pytest.raises(ConfigProblems, match="not in the floating range"):
        async with world.node(1, floating=[FloatingConfig(address=IPv4Address("10.99.77.1"))]):
            pass
    left, right = node_addresses(world, 1), node_addresses(world, 2)
    alone = ip_interface(f"{CERTIFIED}/32")
    key = floating_prefix(NETWORK) + str(CERTIFIED).encode()
    async with world.node(3) as watcher:
        async with world.node(1, floating=wanted, ports=left) as first:
            await until(lambda: alone in left.netlink.addresses)
            await until(lambda: _holder(watcher) == name(1))
            validate("status", watcher.status())
            kept = world.value(key)
            assert first.enrolled is not None
        await until(lambda: _holder(watcher) is None)
        # Claims that prove nothing, or prove something else: nobody is sent to.
        fingerprint = watcher.enrolled.identity.public.fingerprint.hex()  # type: ignore[union-attr]
        for forged, why in (
            (b"junk", "floating_unreadable"),
            (encode_floating(FloatingClaim(name(3), fingerprint, "00" * 8, 0, 800)), "floating_unsigned"),
            (kept, "floating_wrong_lease"),
        ):
            await world.delete(key)
            await world.put({key: forged})
            await until(lambda why=why: drops(watcher).get(why) == 1)  # type: ignore[misc]
            assert _holder(watcher) is None
        # Nor is the address lost: whoever is certified has it after a while.
        async with world.node(2, floating=wanted, ports=right):
            await until(lambda: alone in right.netlink.addresses)
            await until(lambda: _holder(watcher) == name(2))
            with trio.fail_after(5):
                await watcher.roster.find(name(2))
            peer = watcher.router.routes.lookup(CERTIFIED.packed)
            assert peer is not None
            assert peer.peer.name == name(2)


def _holder(node: Node) -> str | None:
    holder = node.floating.holder(CERTIFIED)
    return None if holder is None else holder.name


async def test_no_record_takes_an_address_of_the_floating_range(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    await world.put(world.authority.statements(NOW))
    world.enrol(1, f"{CERTIFIED}/32")
    world.enrol(2)
    greedy = world.config(1)
    greedy = replace(greedy, node=replace(greedy.node, prefixes=(ip_network(f"{CERTIFIED}/32"),)))
    ports = SimulatedPorts(world.wire, "192.0.2.1")
    async with open_node(greedy, ports=ports, memory=world.memory), world.node(2) as node:
        with trio.fail_after(5):
            await node.roster.find(name(1))
        assert node.router.routes.lookup(CERTIFIED.packed) is None
        assert drops(node)["prefix_floating"] == 1


async def test_a_holder_that_is_revoked_makes_room_for_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = EnrolledWorld(tmp_path)
    wanted = [FloatingConfig(address=CERTIFIED)]
    for number in (1, 2):
        world.enrol(number, f"{CERTIFIED}/32")
    await world.put(world.authority.statements(NOW))
    left, right = node_addresses(world, 1), node_addresses(world, 2)
    alone = ip_interface(f"{CERTIFIED}/32")
    async with world.node(1, floating=wanted, ports=left):
        await until(lambda: alone in left.netlink.addresses)
        async with world.node(2, floating=wanted, ports=right):
            await trio.sleep(1)
            assert alone not in right.netlink.addresses
            await world.put(world.authority.revoke(name(1), NOW))
            await until(lambda: alone in right.netlink.addresses, within_s=5)
            assert alone not in left.netlink.addresses
        await trio.sleep(5)
        assert alone not in left.netlink.addresses


async def test_what_was_said_with_an_old_certificate_is_said_anew(autojump_clock: MockClock) -> None:
    async with hosts(1, 2) as (one, two):
        fence = _fence(two)
        belief = _candidate(one)._around.belief
        belief.standing = lambda: 1  # type: ignore[method-assign]
        await until(lambda: _fence(two) > fence)
        await trio.sleep(1)
        assert _owns(one) != _owns(two)


async def test_a_node_whose_device_refuses_the_address_leaves_it_to_others(autojump_clock: MockClock) -> None:
    world = World()
    ports, other = world.ports(1), world.ports(2)

    async def refuse(interface: str, address: Any) -> None:
        raise PortError("no", "EPERM")

    ports.netlink.add_address = refuse  # type: ignore[method-assign]
    async with world.node(floating_config(1), ports) as node, world.node(floating_config(2), other):
        await until(lambda: ALONE in other.netlink.addresses)
        assert drops(node)["floating_not_taken"] <= 1


async def test_the_better_node_gets_the_address_after_a_while(autojump_clock: MockClock) -> None:
    world = World()
    ports, other = world.ports(1, answer_pings=True), world.ports(2)
    async with world.node(floating_config(1), ports) as node:
        await until(lambda: ALONE in ports.netlink.addresses)
        better = floating_config(2, [FloatingConfig(address=FLOATING, priority=9)])
        async with world.node(better, other) as best:
            await node.connected(name(2))
            await best.connected(name(1))
            await trio.sleep(25)
            assert ALONE not in other.netlink.addresses
            await until(lambda: ALONE in other.netlink.addresses)
            assert ALONE not in ports.netlink.addresses
