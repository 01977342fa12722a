"""What pairs of nodes agree on: by their configurations and records, and whatever somebody does to the records meanwhile."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from node_world import FragilePorts, World, config, crosses, drops, name, packet, peer, record, the_peer, validate
from trio.testing import MockClock

from holloway.actors import Config, MemoryRegistry, Node, SecurityConfig, open_node
from holloway.actors.config import ConfigProblems, verify_config
from holloway.actors.membership import TELL_INTERVAL_S
from holloway.actors.pair_terms import codec_of, policy_of, refuse_contradictions
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import encode_record, node_key
from holloway.protocols.offers import Security, agreed_security

TEXT = b"\xa5" * 60
"""Stands in every packet of these tests."""
BULK = 1300


def asking(number: int, require: str = "session", compression: str = "none", **changes: Any) -> Config:
    made = config(number, compression=compression, **changes)
    return replace(made, security=SecurityConfig(require=require))


@asynccontextmanager
async def met(first: Config, second: Config) -> AsyncIterator[tuple[World, Node, Node, FragilePorts, FragilePorts]]:
    """Two nodes with a session."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(first, left) as a, world.node(second, right) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        await trio.sleep(2 * TELL_INTERVAL_S)  # each knows the other's record
        yield world, a, b, left, right


async def is_legible(world: World, left: FragilePorts, right: FragilePorts, serial: int) -> bool:
    """Whether packets between the two can be read on the wire, both ways alike. They have to come through."""
    world.wire.clear()
    assert await crosses(left, right, packet(1, 2, serial))
    there = any(TEXT in datagram for _, _, _, datagram in world.wire)
    world.wire.clear()
    assert await crosses(right, left, packet(2, 1, serial))
    assert there == any(TEXT in datagram for _, _, _, datagram in world.wire)
    return there


def agreed(a: Node, b: Node) -> tuple[Any, Any]:
    """Security and compression, in which both have to agree."""
    ours, theirs = the_peer(a, 2), the_peer(b, 1)
    assert (ours["security"], ours["compression"]) == (theirs["security"], theirs["compression"])
    for node in (a, b):
        validate("status", node.status())
        validate("peers", node.peers())
    return ours["security"], ours["compression"]


# Table C, row 29: only when both sides have it.


@pytest.mark.parametrize("has_registry", [True, False], ids=["found", "configured"])
@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ("none none", "none none", "none none"),
        ("none none", "session none", "session none"),
        ("session none", "none none", "session none"),
        ("session lz4", "session lz4", "session lz4"),
        ("session lz4", "session none", "session none"),
        ("none lz4", "none lz4", "none lz4"),
        ("none lz4", "session lz4", "session lz4"),
    ],
)
async def test_a_pair_has_what_both_ask_for_and_says_so(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    has_registry: bool,
    ours: str,
    theirs: str,
    outcome: str,
) -> None:
    pytest.importorskip("lz4.block", reason="pip install 'holloway[compression]'")
    first = asking(1, *ours.split(), registry=has_registry, peers=[] if has_registry else [peer(2)])
    second = asking(2, *theirs.split(), registry=has_registry, peers=[] if has_registry else [peer(1)])
    with caplog.at_level(logging.WARNING):
        async with met(first, second) as (world, a, b, left, right):
            if has_registry:  # whoever saw the other's record last asks for another key
                await trio.sleep(10)
            assert agreed(a, b) == tuple(outcome.split())
            is_clear = outcome.startswith("none")
            assert await is_legible(world, left, right, 1) == is_clear
            assert drops(a) == drops(b) == {}
            security: Any = a.status()["node"]
            assert security["security"]["require"] == ours.split()[0]
    warned = [line for line in caplog.messages if line.startswith("peer") and "NOT ENCRYPTED" in line]
    assert bool(warned) == is_clear


async def test_a_wireguard_peer_is_never_affected(autojump_clock: MockClock) -> None:
    pytest.importorskip("lz4.block", reason="pip install 'holloway[compression]'")
    first = asking(1, "none", "lz4", peers=[peer(2, suite="wireguard")])
    second = asking(2, "none", "lz4", peers=[peer(1, suite="wireguard")])
    async with met(first, second) as (world, a, b, left, right):
        assert agreed(a, b) == ("session", "none")
        assert not await is_legible(world, left, right, 1)


# Table C, row 30.


async def test_compression_counts_what_it_came_to(autojump_clock: MockClock) -> None:
    pytest.importorskip("lz4.block", reason="pip install 'holloway[compression]'")
    noise = random.Random(1)
    async with met(asking(1, compression="lz4", peers=[peer(2)]), asking(2, compression="lz4", peers=[peer(1)])) as (
        _,
        a,
        b,
        left,
        right,
    ):
        for serial in range(20):
            assert await crosses(left, right, packet(1, 2, serial, size=BULK))
            assert await crosses(right, left, packet(2, 1, serial)[:28] + noise.randbytes(72))  # too short to be tried
        sent, received = the_peer(a, 2)["compressed"]["tx"], the_peer(b, 1)["compressed"]["rx"]
        assert sent["plain_bytes"] == received["plain_bytes"] == 20 * BULK
        assert sent["packed_bytes"] == received["packed_bytes"] < 20 * BULK / 8
        assert the_peer(b, 1)["compressed"]["tx"] == {"plain_bytes": 0, "packed_bytes": 0, "skipped_bytes": 0}
        for serial in range(100, 120):
            incompressible = packet(1, 2, serial, size=BULK)[:28] + noise.randbytes(BULK - 28)
            assert await crosses(left, right, incompressible)
        assert the_peer(a, 2)["compressed"]["tx"] == sent | {"skipped_bytes": 20 * BULK}


async def test_without_the_library_the_error_says_what_to_install(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    with pytest.raises(ConfigProblems) as caught:
        async with World().node(asking(1, compression="lz4"), World().ports(1)):
            pass
    assert "session.compression: lz4 needs a library" in str(caught.value)
    assert "pip install 'holloway[compression]'" in str(caught.value.fix)
    assert codec_of(config(1)) is None, "whoever does not ask for it does not need it"


# Table C, row 35: what somebody who owns the store can do.


class Stores:
    """Each node has a store of its own, in which somebody else writes the record of the other."""

    def __init__(self) -> None:
        self.stores = {1: MemoryRegistry(), 2: MemoryRegistry()}

    def show(self, to: int, security: tuple[str, ...], compression: tuple[str, ...] = ()) -> None:
        other = 3 - to
        value = encode_record(record(other, security=security, compression=compression))
        self.stores[to].transact((), {node_key("holloway", name(other)): value}, (), None)

    @asynccontextmanager
    async def met(
        self, first: Config, second: Config
    ) -> AsyncIterator[tuple[World, Node, Node, FragilePorts, FragilePorts]]:
        world = World()
        left, right = world.ports(1), world.ports(2)
        async with (
            open_node(first, ports=left, memory=self.stores[1]) as a,
            open_node(second, ports=right, memory=self.stores[2]) as b,
        ):
            with trio.fail_after(5):
                await a.connected(name(2))
                await b.connected(name(1))
            await trio.sleep(10)
            yield world, a, b, left, right


async def test_stripped_offers_give_a_sealed_session_and_the_session_goes_on(autojump_clock: MockClock) -> None:
    stores = Stores()
    stores.show(1, ("session", "none"))
    stores.show(2, ("session", "none"))
    async with stores.met(asking(1, "none", registry=True), asking(2, "none", registry=True)) as (
        world,
        a,
        b,
        left,
        right,
    ):
        assert agreed(a, b) == ("none", "none")
        actor, handshakes = a.roster.running[name(2)], the_peer(a, 2)["handshakes"]
        for stripped in (("session",), (), ("dtls", "session")):
            stores.show(1, stripped)
            await trio.sleep(10)
            assert agreed(a, b) == ("session", "none")
            assert not await is_legible(world, left, right, 1)
            stores.show(1, ("session", "none"))
            await trio.sleep(10)
            assert agreed(a, b) == ("none", "none")
        assert a.roster.running[name(2)] is actor
        assert the_peer(a, 2)["handshakes"] == handshakes + 6
        assert drops(a) == drops(b) == {}


async def test_forged_offers_bring_nobody_below_his_policy(autojump_clock: MockClock) -> None:
    stores = Stores()
    stores.show(1, ("none",), ("lz4",))
    stores.show(2, ("session", "none"), ("lz4",))
    async with stores.met(asking(1, "none", registry=True), asking(2, registry=True)) as (world, a, b, left, right):
        assert agreed(a, b) == ("session", "none")
        assert not await is_legible(world, left, right, 1)


async def test_who_has_offered_what_we_allow_and_does_not_any_more_is_refused(autojump_clock: MockClock) -> None:
    stores = Stores()
    stores.show(1, ("session",))
    stores.show(2, ("session",))
    async with stores.met(asking(1, registry=True), asking(2, registry=True)) as (world, a, b, left, right):
        stores.show(1, ("none",))
        await trio.sleep(10)
        answer: Any = a.status()
        assert answer["node"]["registry"]["refused"] == {name(2): "record_no_common_security"}
        assert drops(a) == {"record_no_common_security": 1}
        assert agreed(a, b) == ("session", "none"), "a record that turns bad cuts no session at once"
        assert not await is_legible(world, left, right, 1)


async def test_a_record_below_the_policy_is_refused_by_name_and_counted(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(config(1, registry=True), world.ports(1)) as a:
        for number, security in ((2, ("none",)), (3, ("dtls",)), (4, ())):
            key = StaticKey(bytes([number]) * 32).public
            value = encode_record(record(number, public_key=key, security=security))
            world.memory.transact((), {node_key("holloway", name(number)): value}, (), None)
        await trio.sleep(5)
        answer: Any = a.status()
        assert answer["node"]["registry"]["refused"] == dict.fromkeys((name(2), name(3)), "record_no_common_security")
        assert [each["name"] for each in answer["peers"]] == [name(4)], "who does not say offers a session"
        assert drops(a)["record_no_common_security"] == 2


@pytest.mark.parametrize("backend", ["session", None])
async def test_a_node_without_dtls_does_not_start_when_it_is_required(
    autojump_clock: MockClock, backend: str | None
) -> None:
    """By name in the configuration, or because nothing else says what the network speaks."""
    made = asking(1, "dtls")
    made = replace(made, node=replace(made.node, backend=backend))
    with pytest.raises(ConfigProblems, match=r"security\.require: this node speaks session"):
        async with World().node(made, World().ports(1)):
            pass


def test_dtls_compresses_nothing_and_says_so() -> None:
    made = asking(1, "session", "lz4")
    made = replace(made, node=replace(made.node, backend="dtls"))
    with pytest.raises(ConfigProblems, match=r"over dtls nothing is compressed"):
        refuse_contradictions(made)
    with pytest.raises(ConfigProblems) as caught:
        verify_config(made)
    assert ("session.compression", "over dtls nothing is compressed") in [
        (problem.key, problem.what) for problem in caught.value.problems
    ]


@pytest.mark.parametrize("require", ["session", "dtls", "none"])
def test_a_dtls_node_offers_dtls_alone_and_takes_nobody_else(require: str) -> None:
    made = asking(1, require)
    policy = policy_of(replace(made, node=replace(made.node, backend="dtls")))
    assert policy.offers.security == ("dtls",)
    assert agreed_security(policy, ("dtls",)) is Security.DTLS
    assert agreed_security(policy, ("session", "none")) is None
