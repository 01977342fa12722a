"""Nodes that meet in a registry: what they publish, what they keep through its troubles, and whom they refuse."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from node_world import (
    World,
    config,
    crosses,
    drops,
    name,
    packet,
    peer,
    private_key,
    public_key,
    record,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Config, Endpoint, Node, RegistryConfig, RegistryPort, SessionConfig, open_registry
from holloway.actors.membership import AT_ONCE, PATIENT_S
from holloway.actors.records import Records
from holloway.actors.registry.memory import MemoryHandle
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import address_key, decode_record, encode_record, node_key
from holloway.supervisor import ChildStartError, Event

NODES = b"/holloway/holloway/nodes/"


def keys(world: World) -> list[str]:
    return [key.decode().removeprefix("/holloway/holloway/") for key in world.memory.snapshot(b"").entries]


def cause(error: BaseException) -> BaseException:
    while isinstance(error, ChildStartError):
        assert error.__cause__ is not None
        error = error.__cause__
    return error


def registry_of(node: Node) -> Any:
    answer: Any = node.status()
    return answer["node"]["registry"]


@asynccontextmanager
async def met(world: World) -> AsyncIterator[tuple[Node, Node, Any, Any]]:
    """Hosts 1 and 2, which have met through the registry."""
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(1, registry=True), left) as a,
        world.node(config(2, registry=True), right) as b,
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        yield a, b, left, right


class Weather:
    """What befalls every handle on the store: `storm` raises for each call while it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storm: Callable[[str], Exception | None] = lambda method: None
        self.calls: list[tuple[float, str]] = []
        self.hangs: set[str] = set()
        for method in ("snapshot", "transact", "grant", "keep_alive", "revoke", "read"):
            monkeypatch.setattr(MemoryHandle, method, self._wrap(method, getattr(MemoryHandle, method)))

    def _wrap(self, method: str, call: Any) -> Any:
        async def wrapped(*args: Any, **options: Any) -> Any:
            self.calls.append((trio.current_time(), method))
            if method in self.hangs:
                await trio.sleep_forever()
            failure = self.storm(method)
            if failure is not None:
                raise failure
            return await call(*args, **options)

        return wrapped

    def away(self, *methods: str) -> None:
        error = RegistryError("the store is away", "somebody pulled the plug")
        self.storm = lambda method: error if not methods or method in methods else None

    def calm(self) -> None:
        self.storm = lambda method: None


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    return Weather(monkeypatch)


# Ours.


async def test_nodes_meet_and_part_and_leave_nothing_in_the_store(autojump_clock: MockClock) -> None:
    world = World()
    async with met(world) as (a, b, left, right):
        assert keys(world) == ["addresses/10.99.0.1", "addresses/10.99.0.2", "nodes/node-1", "nodes/node-2"]
        entries = world.memory.snapshot(b"").entries
        assert decode_record(name(1), entries[NODES + b"node-1"].value) == record(1)
        assert entries[NODES + b"node-1"].lease == entries[b"/holloway/holloway/addresses/10.99.0.1"].lease
        assert await crosses(left, right, packet(1, 2, 1))
        assert registry_of(a) == {"trust": "store", "in_touch": True, "nodes": 1, "refused": {}}
        assert drops(a) == drops(b) == {}
    assert keys(world) == []


async def test_with_pinned_keys_the_registry_tells_where_peers_are_and_makes_no_others(
    autojump_clock: MockClock,
) -> None:
    world = World()

    def pinned(number: int, *others: int) -> Config:
        peers = [peer(other, endpoint=False) for other in others]
        registry = RegistryConfig(url="memory:", trust="pinned")
        return replace(config(number, registry=True, peers=peers), registry=registry)

    async with (
        world.node(pinned(1, 2), world.ports(1)) as a,
        world.node(pinned(2, 1), world.ports(2)) as b,
        world.node(config(3, registry=True), world.ports(3)),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        assert list(a.roster.plan.peers) == [name(2)]
        assert registry_of(a)["refused"] == {name(3): "record_not_pinned"}


@pytest.mark.parametrize("is_silent", [False, True])
async def test_with_pinned_keys_nodes_meet_while_the_registry_is_away(
    is_silent: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, is_away = World(), True

    @asynccontextmanager
    async def away(*words: Any, **options: Any) -> AsyncIterator[RegistryPort]:
        while is_away:
            if not is_silent:
                raise RegistryError("the store is away", "somebody pulled the plug")
            await trio.sleep(1)
        async with open_registry(*words, **options) as registry:
            yield registry

    def pinned(number: int, other: int) -> Config:
        registry = RegistryConfig(url="memory:", trust="pinned")
        return replace(config(number, peers=[peer(other)]), registry=registry)

    monkeypatch.setattr("holloway.actors.node.open_registry", away)
    began = trio.current_time()
    async with (
        world.node(pinned(1, 2), world.ports(1)) as a,
        world.node(pinned(2, 1), world.ports(2)) as b,
    ):
        assert (trio.current_time() - began > PATIENT_S) == is_silent
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        is_away = False
        await trio.sleep(10)
        assert registry_of(a)["in_touch"] is registry_of(b)["in_touch"] is True


async def test_a_lease_is_kept_alive_for_as_long_as_the_node_lives(autojump_clock: MockClock) -> None:
    world = World()
    async with met(world):
        leases = {entry.lease for entry in world.memory.snapshot(b"").entries.values()}
        await trio.sleep(4 * 3600)
        assert {entry.lease for entry in world.memory.snapshot(b"").entries.values()} == leases
        assert len(leases) == 2


async def test_a_lost_lease_is_taken_again_and_nobody_loses_a_session(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    caplog.set_level(logging.INFO)
    async with met(world) as (a, b, left, right):
        session = b.roster.running[name(1)]
        lease = world.memory.snapshot(b"").entries[NODES + b"node-1"].lease
        assert lease is not None
        world.memory.revoke(lease)
        assert keys(world) == ["addresses/10.99.0.2", "nodes/node-2"]
        await trio.sleep(5)
        assert len(keys(world)) == 4
        assert registry_of(a)["in_touch"]
        assert b.roster.running[name(1)] is session
        assert await crosses(right, left, packet(2, 1, 1))
        told = [each.getMessage() for each in caplog.records if "registry:" in each.getMessage()]
        assert len(told) == 2
        assert "our entry" in told[0] or "lease" in told[0]
        assert told[1] == "registry: in touch again"


@pytest.mark.parametrize("key", ["nodes/node-1", "addresses/10.99.0.1"])
async def test_an_entry_that_somebody_deletes_is_published_again(key: str, autojump_clock: MockClock) -> None:
    world = World()
    ours = ["nodes/node-1", "addresses/10.99.0.1"]
    async with met(world):
        before = world.memory.snapshot(b"").entries
        world.memory.transact((), {}, (b"/holloway/holloway/" + key.encode(),), None)
        await trio.sleep(3)
        assert key in keys(world)
        entries = world.memory.snapshot(b"").entries
        (other,) = (b"/holloway/holloway/" + each.encode() for each in ours if each != key)
        assert entries[other].create_revision == before[other].create_revision  # it was there all the time
        assert len({entry.lease for key, entry in entries.items() if b"node-1" in key or b"0.1" in key}) == 1


async def test_an_entry_that_somebody_replaces_is_not_fought_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Another key holds our name now: we say so, keep what we have, and take the name back once it is free."""
    world = World()
    async with met(world) as (a, _, _, _):
        thief = encode_record(record(1, public_key=public_key(9)))
        world.memory.transact((), {NODES + b"node-1": thief}, (), None)
        await trio.sleep(3600)
        assert world.memory.snapshot(b"").entries[NODES + b"node-1"].value == thief
        assert registry_of(a)["in_touch"] is False
        told = [each.getMessage() for each in caplog.records if "the node name node-1 is taken" in each.getMessage()]
        assert len(told) == 1
        world.memory.transact((), {}, (NODES + b"node-1",), None)
        await trio.sleep(20)
        assert decode_record(name(1), world.memory.snapshot(b"").entries[NODES + b"node-1"].value) == record(1)
        assert registry_of(a)["in_touch"] is True


async def test_our_own_record_of_a_life_that_was_killed_is_taken_over(autojump_clock: MockClock) -> None:
    world = World()
    lease = world.memory.grant(30.0)
    value = encode_record(record(1, endpoints=(("198.51.100.1", 1),)))
    puts = {node_key("holloway", name(1)): value, address_key("holloway", record(1).addresses[0]): value}
    world.memory.transact((), puts, (), lease.id)
    async with world.node(config(1, registry=True), world.ports(1)):
        await trio.sleep(60)  # the old lease has run out, and took nothing along
        assert len(keys(world)) == 2
        assert decode_record(name(1), world.memory.snapshot(b"").entries[NODES + b"node-1"].value) == record(1)
    assert keys(world) == []


async def test_two_nodes_with_one_key_and_name_say_so_and_do_not_race(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A cloned machine. Each takes the name back in turn, more and more seldom, and both tell."""
    world = World()
    async with world.node(config(1, registry=True), world.ports(1)):
        clone = config(1, registry=True)
        async with world.node(clone, world.ports(7)):
            revision = world.memory.snapshot(b"").revision
            await trio.sleep(600)
            assert world.memory.snapshot(b"").revision - revision < 300
            assert any("another node runs with our key" in each.getMessage() for each in caplog.records)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "node-1"}, "the node name node-1 is taken"),
        ({"name": "node-9"}, "the address 10.99.0.1 is taken"),
    ],
)
async def test_a_name_or_an_address_of_another_node_is_refused_by_name(
    changes: Any, what: str, autojump_clock: MockClock
) -> None:
    world = World()
    holder = record(1, public_key=public_key(9), **changes)
    value = encode_record(holder)
    puts = {node_key("holloway", holder.name): value, address_key("holloway", holder.addresses[0]): value}
    world.memory.transact((), puts, (), None)
    if holder.name != name(1):
        puts.pop(node_key("holloway", holder.name))
    before = keys(world)
    with pytest.raises(ChildStartError) as raised:
        async with world.node(config(1, registry=True), world.ports(1)):
            pytest.fail("it started")
    refusal = cause(raised.value)
    assert isinstance(refusal, RegistryError)
    assert (refusal.kind, refusal.what) == ("denied", what)
    assert holder.name in refusal.why
    assert keys(world) == before


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"v":2,"name":"node-1"}', b"x" * 20_000])
async def test_an_entry_at_our_name_that_cannot_be_read_is_not_overwritten(
    garbage: bytes, autojump_clock: MockClock
) -> None:
    """It may be of a newer version that we do not know."""
    world = World()
    world.memory.transact((), {NODES + b"node-1": garbage}, (), None)
    with pytest.raises(ChildStartError) as raised:
        async with world.node(config(1, registry=True), world.ports(1)):
            pytest.fail("it started")
    assert "an entry we cannot read (record_" in str(cause(raised.value))
    assert world.memory.snapshot(b"").entries[NODES + b"node-1"].value == garbage


async def test_a_record_that_others_would_refuse_is_refused_before_the_store_is_asked(
    autojump_clock: MockClock, weather: Weather
) -> None:
    world = World()
    with pytest.raises(ChildStartError) as raised:
        async with world.node(config(1, registry=True, prefixes=["127.0.0.0/8"]), world.ports(1)):
            pytest.fail("it started")
    assert "would not be read by the others" in str(cause(raised.value))
    assert weather.calls == []


# The store's troubles.


async def test_a_store_that_is_away_at_the_start_is_an_error_that_says_so(
    autojump_clock: MockClock, weather: Weather
) -> None:
    weather.away()
    with pytest.raises(ChildStartError) as raised:
        async with World().node(config(1, registry=True), World().ports(1)):
            pytest.fail("it started")
    assert str(cause(raised.value)) == "the store is away: somebody pulled the plug"


async def test_with_the_store_away_everything_known_stays_and_afterwards_goes_on(
    autojump_clock: MockClock, weather: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with met(world) as (a, b, left, right):
        sessions = a.roster.running[name(2)], b.roster.running[name(1)]
        caplog.set_level(logging.INFO)
        caplog.clear()
        weather.away()
        await trio.sleep(3600)
        assert keys(world) == []  # the leases have run out
        assert registry_of(a) == {"trust": "store", "in_touch": False, "nodes": 1, "refused": {}}
        validate("status", a.status())
        assert await crosses(left, right, packet(1, 2, 1))
        tries = [at for at, method in weather.calls if method == "grant" and at > 60]
        assert all(later - earlier < 16 for earlier, later in zip(tries[::2], tries[2::2], strict=False))
        told = [each.getMessage() for each in caplog.records if "registry:" in each.getMessage()]
        assert told == ["registry: the store is away: somebody pulled the plug; trying again until it works"] * 2
        weather.calm()
        await trio.sleep(20)
        assert len(keys(world)) == 4
        assert registry_of(a)["in_touch"]
        await trio.sleep(300)
        assert (a.roster.running[name(2)], b.roster.running[name(1)]) == sessions


async def test_a_store_that_does_not_answer_is_noticed_before_the_lease_runs_out(
    autojump_clock: MockClock, weather: Weather
) -> None:
    world = World()
    async with met(world) as (a, _, _, _):
        weather.hangs = {"keep_alive"}
        await trio.sleep(20.5)
        weather.hangs = set()
        assert registry_of(a)["in_touch"] is False
        await trio.sleep(2)
        assert registry_of(a)["in_touch"] is True
        await trio.sleep(60)
        assert len(keys(world)) == 4


async def test_a_stop_is_not_held_up_by_a_store_that_hangs(autojump_clock: MockClock, weather: Weather) -> None:
    world = World()
    async with met(world):
        weather.hangs = {"revoke"}
        began = trio.current_time()
    assert trio.current_time() - began <= 2.0


async def test_a_compacted_history_is_read_again_from_a_snapshot(autojump_clock: MockClock, weather: Weather) -> None:
    world = World()
    async with met(world) as (a, _, left, right):
        session = a.roster.running[name(2)]
        for number in range(20):
            error = RegistryError("the changes are gone", kind="compacted")
            weather.storm = lambda method, error=error: error if method == "read" else None  # type: ignore[misc]
            world.memory.transact((), {NODES + b"node-5": encode_record(record(5))}, (), None)
            await trio.sleep(3)
            weather.calm()
            world.memory.transact((), {}, (NODES + b"node-5",), None)
            await trio.sleep(3)
            assert registry_of(a)["in_touch"], number
        assert a.roster.running[name(2)] is session
        assert sorted(a.roster.running) == [name(2), name(5)]
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_store_that_forgets_at_once_does_not_keep_us_reading(
    autojump_clock: MockClock, weather: Weather
) -> None:
    world = World()
    async with met(world) as (_, _, left, right):
        error = RegistryError("the changes are gone", kind="compacted")
        weather.storm = lambda method: error if method == "read" else None
        weather.calls.clear()
        world.memory.wake()
        await trio.sleep(600)
        assert len([method for _, method in weather.calls if method == "snapshot"]) < 2 * 610
        assert await crosses(left, right, packet(1, 2, 1))


async def test_an_emptied_store_is_filled_again(autojump_clock: MockClock) -> None:
    """Somebody lost it, or put back an old copy: everybody is there again soon, and no session was cut."""
    world = World()
    async with met(world) as (a, b, _, _):
        sessions = a.roster.running[name(2)], b.roster.running[name(1)]
        for _ in range(3):
            world.memory.transact((), {}, tuple(world.memory.snapshot(b"").entries), None)
            await trio.sleep(70)
            assert len(keys(world)) == 4
        assert (a.roster.running[name(2)], b.roster.running[name(1)]) == sessions


# Theirs.


async def test_a_node_renamed_is_met_under_its_new_name_at_once(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(config(1, registry=True), world.ports(1)) as a:
        async with world.node(config(2, registry=True), world.ports(2)) as b:
            with trio.fail_after(5):
                await b.connected(name(1))
        renamed = config(3, registry=True, advertise=())
        renamed = replace_key(renamed, private_key(2))
        async with world.node(renamed, world.ports(3)) as c:
            with trio.fail_after(10):
                await c.connected(name(1))
            assert list(a.roster.running) == [name(3)]
            assert drops(a).keys() <= {"unknown_peer", "unknown_index"}


def replace_key(made: Config, key: bytes) -> Config:
    return replace(made, session=SessionConfig(private_key=key))


async def test_bad_records_hurt_nobody_and_are_counted_and_named_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with met(world) as (a, _, left, right):
        bad = {
            b"bad-json": b"{",
            b"bad-utf8": b"\xff\xfe\xfd",
            b"bad-size": b" " * 20_000,
            b"bad-version": b'{"v":99}',
            b"bad-name": encode_record(record(7)),
            b"bad-field": encode_record(record(8)).replace(b"node-8", b"bad-field").replace(b"1099", b"99999"),
            b"our-key": encode_record(record(1, name="our-key")),
            b"\xff\xff": b"{}",
            b"": b"{}",
            b"../../etc": b"{}",
            b"x" * 300: b"{}",
        }
        for _ in range(3):
            for raw, value in bad.items():
                world.memory.transact((), {NODES + raw: value}, (), None)
            await trio.sleep(1)
        assert list(a.roster.running) == [name(2)]
        counted = drops(a)
        assert {key: count for key, count in counted.items() if key.startswith("record_")} == {
            "record_not_json": 6,
            "record_too_big": 3,
            "record_wrong_version": 15,
            "record_wrong_name": 3,
            "record_bad_field": 3,
            "record_has_our_key": 3,
        }
        named = [each.getMessage() for each in caplog.records if "is refused" in each.getMessage()]
        assert len(named) == 2 * len(bad)  # by each of the two nodes
        assert registry_of(a)["refused"]["our-key"] == "record_has_our_key"
        assert len(registry_of(a)["refused"]) == len(bad)
        validate("status", a.status())
        world.memory.transact((), {NODES + b"node-7": encode_record(record(7))}, (), None)
        await trio.sleep(1)
        assert sorted(a.roster.running) == [name(2), name(7)]
        assert await crosses(left, right, packet(1, 2, 1))


async def test_thieves_get_nothing(autojump_clock: MockClock) -> None:
    """Records that claim our address, our network, a peer's key, and a peer's address, before and after their owners'."""
    world = World()
    thief = record(9, prefixes=(record(2).allowed()[0], record(1).allowed()[0], *record(3).allowed()))
    async with met(world) as (a, _, left, right):
        for made in (thief, record(2, name="aaa"), record(1, name="bbb", public_key=public_key(8))):
            world.memory.transact((), {node_key("holloway", made.name): encode_record(made)}, (), None)
        await trio.sleep(1)
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(right, left, packet(2, 1, 1))
        counted = drops(a)
        assert {key: counted[key] for key in ("peer_key_taken", "prefix_ours", "prefix_taken")} == {
            "peer_key_taken": 1,
            "prefix_ours": 2,
            "prefix_taken": 1,
        }
        assert registry_of(a)["refused"] == {"aaa": "peer_key_taken"}


async def test_many_records_are_read_in_turns_that_others_have_between(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    for number in range(300):
        key = (number + 2).to_bytes(32, "little")
        made = record(9, name=f"n{number}", public_key=key, addresses=(), endpoints=())
        world.memory.transact((), {node_key("holloway", made.name): encode_record(made)}, (), None)
    in_this_turn, largest = 0, 0
    learn = Records.learn

    def count(*args: Any) -> None:
        nonlocal in_this_turn, largest
        in_this_turn += 1
        largest = max(largest, in_this_turn)
        learn(*args)

    class Turns(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal in_this_turn
            in_this_turn = 0

    monkeypatch.setattr(Records, "learn", count)
    trio.lowlevel.add_instrument(Turns())
    async with world.node(config(1, registry=True), world.ports(1)) as a:
        with trio.fail_after(5):
            while len(a.roster.running) < 300:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert registry_of(a)["nodes"] == 300
    assert 1 < largest <= AT_ONCE


async def test_static_peers_and_found_ones_live_side_by_side(autojump_clock: MockClock) -> None:
    world = World()
    events: list[Event] = []
    left, right, third = world.ports(1), world.ports(2), world.ports(3)
    async with (
        world.node(config(1, peers=[peer(2, endpoint=Endpoint("192.0.2.2", 1099))], registry=True), left) as a,
        world.node(config(2, peers=[peer(1)]), right),
        world.node(config(3, registry=True), third, on_event=events.append),
    ):
        with trio.fail_after(10):
            await a.connected(name(2))
            await a.connected(name(3))
        assert await crosses(left, right, packet(1, 2, 1))
        assert await crosses(left, third, packet(1, 3, 1))
        pinned = a.roster.running[name(2)]
        world.memory.transact((), {NODES + b"node-2": encode_record(record(2, endpoints=()))}, (), None)
        await trio.sleep(300)
        assert a.roster.running[name(2)] is pinned
