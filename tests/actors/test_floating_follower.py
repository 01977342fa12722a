"""What the registry says of floating addresses, and what becomes of it on a node that only sends to them."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from ipaddress import IPv4Address, ip_network

import pytest
from node_world import host, name, public_key
from trio.testing import MockClock

from holloway.actors.bounded_log import BoundedLog
from holloway.actors.floating_belief import StoreFloating
from holloway.actors.floating_follower import TELL_BURST, TELL_INTERVAL_S, FloatingFollower
from holloway.actors.registry import Delete, Entry, LeaseId, Put, Snapshot
from holloway.actors.roster import Roster
from holloway.actors.wanted import Peer
from holloway.protocols.floating_claims import FloatingClaim, encode_floating, floating_prefix
from holloway.protocols.floating_table import MAX_FLOATING_ADDRESSES, FloatingTable

ADDRESS = IPv4Address("10.99.0.200")
PREFIX = ip_network("10.99.0.200/32")
KEY = floating_prefix("holloway") + b"10.99.0.200"


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


class World:
    """Host 1, which knows hosts 2 and 3, in a network that believes its store."""

    def __init__(self) -> None:
        self.problems: Counter[str] = Counter()
        self.roster = Roster((), own_key=public_key(1), own_prefixes=(host(1),), problems=self.problems)
        self.roster.set_found([Peer(name=name(n), public_key=public_key(n), allowed=(host(n),)) for n in (2, 3)])
        self.table = FloatingTable()
        log = BoundedLog(logging.getLogger("test"))
        belief = StoreFloating(name(1), public_key(1))
        self.follower = FloatingFollower("holloway", belief, self.table, self.roster, log, None)
        self.now = 0.0

    def tell(self) -> float:
        self.now += 1.0
        return self.follower.tell(self.now)

    @property
    def goes_to(self) -> list[str]:
        return [peer.name for peer in self.roster.plan.peers.values() if PREFIX in peer.allowed]


def claim(number: int, revision: int, value: bytes | None = None) -> Entry:
    key = hashlib.sha256(public_key(number)).hexdigest()
    made = encode_floating(FloatingClaim("whatever", key, "00" * 8, 0, 800)) if value is None else value
    return Entry(made, revision, revision, 1, LeaseId(1))


async def test_packets_go_to_the_holder_and_move_with_it(autojump_clock: MockClock) -> None:
    world = World()
    await world.follower.replace(Snapshot(5, {KEY: claim(2, 4), b"/holloway/holloway/nodes/x": claim(3, 5)}))
    world.tell()
    assert world.goes_to == [name(2)]
    world.follower.note(Put(b"/holloway/holloway/nodes/10.99.0.200", claim(3, 6)))
    world.follower.note(Delete(KEY, 6))
    world.follower.note(Put(KEY, claim(3, 7)))
    world.tell()
    assert world.goes_to == [name(3)]
    world.follower.note(Put(KEY, claim(1, 8)))
    world.tell()
    assert world.goes_to == []  # it is ours
    assert world.table.holder(ADDRESS) is not None
    await world.follower.replace(Snapshot(9, {}))
    assert world.table.holder(ADDRESS) is None


async def test_what_is_not_believed_holds_nothing_and_is_counted(autojump_clock: MockClock) -> None:
    world = World()
    await world.follower.replace(Snapshot(5, {KEY: claim(2, 4)}))
    for revision, (key, value, why) in enumerate(
        (
            (KEY, b"junk", "floating_not_json"),
            (KEY, bytes(2000), "floating_too_big"),
            (floating_prefix("holloway") + b"10.99.0.200 ", None, "floating_not_in_range"),
            (floating_prefix("holloway") + b"\xff\x00", None, "floating_not_in_range"),
        ),
        6,
    ):
        before = world.problems[why]
        world.follower.note(Put(key, claim(3, revision, value)))
        assert world.problems[why] == before + 1
    world.tell()
    assert world.goes_to == []
    assert world.follower.refused["10.99.0.200"] == "floating_too_big"
    world.follower.note(Put(KEY, claim(3, 20)))
    world.tell()
    assert world.goes_to == [name(3)]
    assert "10.99.0.200" not in world.follower.refused


async def test_a_full_store_fills_nothing_here(autojump_clock: MockClock) -> None:
    world = World()
    prefix = floating_prefix("holloway")
    entries = {prefix + f"10.{n >> 8}.{n & 255}.1".encode(): claim(2, 4) for n in range(MAX_FLOATING_ADDRESSES + 50)}
    entries |= {prefix + f"x{n}".encode(): claim(2, 4) for n in range(MAX_FLOATING_ADDRESSES + 50)}
    await world.follower.replace(Snapshot(5, entries))
    assert len(world.table.holders()) == MAX_FLOATING_ADDRESSES
    assert world.problems["floating_too_many"] == 50
    assert len(world.follower.refused) == MAX_FLOATING_ADDRESSES


async def test_a_store_that_begins_again_is_believed_again(autojump_clock: MockClock) -> None:
    world = World()
    await world.follower.replace(Snapshot(500, {KEY: claim(2, 500)}))
    await world.follower.replace(Snapshot(5, {KEY: claim(3, 4)}))
    world.tell()
    assert world.goes_to == [name(3)]


async def test_a_writer_in_a_hurry_costs_little(autojump_clock: MockClock) -> None:
    world = World()
    made = []
    world.roster.set_floating = lambda floating: made.append(floating)  # type: ignore[method-assign]
    assert world.follower.tell(0.0) == math.inf
    for revision in range(1, 1001):
        world.follower.note(Put(KEY, claim(2 + revision % 2, revision)))
        world.follower.tell(revision / 100)
    assert len(made) <= TELL_BURST + 10 / TELL_INTERVAL_S
    again_at = world.follower.tell(10.0)
    assert world.follower.tell(max(again_at, 10.0) if again_at < math.inf else 11.0) == math.inf
    assert made[-1].holders[PREFIX].key == hashlib.sha256(public_key(2)).digest()
