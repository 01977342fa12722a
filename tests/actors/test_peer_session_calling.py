"""Where a peer is called: addresses, names that fail, change and come back, and several places in turn."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from node_world import PORT, World, config, crosses, name, outer, packet, peer, the_peer
from trio.testing import MockClock

from holloway.actors import Endpoint
from holloway.actors.calling import LOOK_UP_RETRY_MAX_S, MAX_ADDRESSES, Callbook, numeric
from holloway.actors.wanted import Peer
from holloway.simulations.network import Link


@dataclass
class Resolver(trio.abc.HostnameResolver):
    """Answers as the test wants: `table` has addresses, an exception to raise, or something to await."""

    table: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        text = host.decode()
        self.asked.append((trio.current_time(), text))
        await trio.lowlevel.checkpoint()
        answer = self.table.get(text, socket.gaierror(socket.EAI_NONAME, "no such name"))
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = await answer()
        if isinstance(answer, Exception):
            raise answer
        return [entry(address, port) for address in answer]

    async def getnameinfo(self, *args: Any) -> Any:
        raise NotImplementedError


def entry(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_DGRAM, 17, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


BY_NAME = Endpoint("b.example", PORT)


async def test_a_peer_with_a_name_is_called_once_the_name_has_an_address(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = [outer(2)]
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(2, peers=[peer(1, endpoint=None)]), right),
        world.node(config(1, peers=[peer(2, endpoint=BY_NAME)]), left) as a,
    ):
        with trio.fail_after(1):
            await a.connected(name(2))
        assert await crosses(left, right, packet(1, 2, 1))
        await trio.sleep(100)
        assert len(resolver.asked) == 1  # a peer that answers is not looked up again


async def test_a_peer_whose_first_look_ups_fail_is_called_when_one_succeeds(
    autojump_clock: MockClock, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(2, peers=[peer(1, endpoint=None)]), right),
        world.node(config(1, peers=[peer(2, endpoint=BY_NAME)]), left) as a,
    ):
        await trio.sleep(3600)
        assert the_peer(a, 2)["state"] == "down"
        assert 15 <= len(resolver.asked) <= 30
        assert len([each for each in caplog.records if "cannot look up b.example" in each.getMessage()]) == 1
        resolver.table["b.example"] = [outer(2)]
        with trio.fail_after(LOOK_UP_RETRY_MAX_S + 1):
            await a.connected(name(2))
        await trio.sleep(20)
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_node_starts_while_names_cannot_be_looked_up(autojump_clock: MockClock, resolver: Resolver) -> None:
    """The look-up hangs, and neither the start nor the stop waits for it."""
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = trio.sleep_forever
    world = World()
    async with world.node(config(1, peers=[peer(2, endpoint=BY_NAME)]), world.ports(1)) as a:
        assert the_peer(a, 2)["endpoint"] is None
        await trio.sleep(1)
    assert trio.current_time() == 1


async def test_a_name_that_moves_on_is_followed_when_the_peer_does_not_answer(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    """The peer comes back on another host, and cannot call us: only the name says where it is."""
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = [outer(2)]
    world = World()
    left, elsewhere = world.ports(1), world.ports(7)
    two = config(2, peers=[peer(1, endpoint=None)])
    async with world.node(config(1, peers=[peer(2, endpoint=BY_NAME)]), left) as a:
        async with world.node(two, world.ports(2)):
            with trio.fail_after(10):
                await a.connected(name(2))
        resolver.table["b.example"] = [outer(7)]
        async with world.node(two, elsewhere):
            left.tun.inject([packet(1, 2, 1)])
            await trio.sleep(60)
            assert the_peer(a, 2)["endpoint"] == f"{outer(7)}:{PORT}"
            assert await crosses(left, elsewhere, packet(1, 2, 2))


async def test_a_name_that_the_record_does_not_have_any_more_is_not_asked_for(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    world = World()
    async with world.node(config(1), world.ports(1)) as a:
        for host in ("one.example", "two.example", "three.example", outer(9), "four.example"):
            known = Peer.from_config(peer(2, endpoint=Endpoint(host, PORT)))
            a.roster.set_found([known])
            await trio.sleep(3)
        resolver.asked.clear()
        await trio.sleep(600)
        assert {text for _, text in resolver.asked} == {"four.example"}


@pytest.mark.parametrize(
    "answer",
    [
        UnicodeError("label empty or too long"),
        OSError("odd"),
        ["2001:db8::1"],
        ["224.0.0.1", "0.0.0.0"],
        [],
    ],
    ids=["no name", "an error", "another family", "no host", "nothing"],
)
async def test_a_look_up_that_comes_to_nothing_hurts_nobody(
    answer: Any, autojump_clock: MockClock, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = answer
    world = World()
    left, right = world.ports(1), world.ports(3)
    peers = [peer(2, endpoint=BY_NAME), peer(3)]
    async with world.node(config(1, peers=peers), left) as a, world.node(config(3, peers=[peer(1)]), right):
        with trio.fail_after(10):
            await a.connected(name(3))
        session = a.roster.running[name(2)]
        await trio.sleep(100)
        assert a.roster.running[name(2)] is session
        assert len([each for each in caplog.records if "cannot look up" in each.getMessage()]) == 1


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "fe80::1%nowhere"])
async def test_a_name_that_cannot_even_be_asked_for_hurts_nobody(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the resolver of the system, which raises other errors for them than for a name that is not there."""
    book = Callbook([Endpoint(host, PORT)], lambda address: True)  # type: ignore[arg-type, return-value]
    assert book.names
    assert await book.look_up(book.names[0])
    assert book.addresses == []


async def test_every_place_is_tried_in_turn(autojump_clock: MockClock, resolver: Resolver) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = [outer(8), outer(9), outer(2)]
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(2, peers=[peer(1, endpoint=None)]), right),
        world.node(config(1, peers=[peer(2, endpoint=BY_NAME)]), left) as a,
    ):
        with trio.fail_after(12):
            await a.connected(name(2))
        assert the_peer(a, 2)["endpoint"] == f"{outer(2)}:{PORT}"
        await trio.sleep(300)
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_peer_without_an_endpoint_waits_to_be_called(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with world.node(config(1, peers=[peer(2, endpoint=None)]), left) as a:
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(50)
        assert world.wire == []
        async with world.node(config(2, peers=[peer(1)]), right):
            with trio.fail_after(1):
                await a.connected(name(2))
                assert await right.tun.collect() == [packet(1, 2, 1)]


async def test_an_endpoint_of_a_family_that_we_lack_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.node(config(1, peers=[peer(2, endpoint=Endpoint("2001:db8::2", PORT))]), world.ports(1)) as a:
        await trio.sleep(100)
        assert the_peer(a, 2)["endpoint"] is None
        assert a.status()["drops"] == {}
        told = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert ["no socket of the family" in each.getMessage() for each in told] == [True]


async def test_an_initiation_goes_to_the_next_place_only_after_one_was_not_answered(autojump_clock: MockClock) -> None:
    """A link that loses the first one of a rekey does not send data elsewhere while the peer still answers."""
    world = World()
    async with world.pair() as (a, _, left, right):
        session = a.roster.running[name(2)]
        session.callbook.replace([Endpoint(outer(8), PORT), Endpoint(outer(9), PORT)])
        for number in range(40):
            assert await crosses(left, right, packet(1, 2, number))
            await trio.sleep(11)  # the peer's keepalive takes 10 s, and counts as an answer
        assert {target for _, source, target, _ in world.wire if source[0] == outer(1)} == {(outer(2), PORT)}
        world.network.shape(outer(1), outer(2), Link(loss=1))
        left.tun.inject([packet(1, 2, 99)])
        await trio.sleep(40)
        assert {target[0] for _, source, target, _ in world.wire if source[0] == outer(1)} == {
            outer(2),
            outer(8),
            outer(9),
        }


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", ("192.0.2.7", 5)),
        ("2001:DB8:0:0::1", ("2001:db8::1", 5, 0, 0)),
        ("::ffff:192.0.2.7", ("192.0.2.7", 5)),
        ("127.0.0.1", ("127.0.0.1", 5)),
        ("fe80::1%eth0", None),
        ("224.0.0.1", None),
        ("::ffff:224.0.0.1", None),
        ("ff02::1", None),
        ("0.0.0.0", None),
        ("::", None),
        ("example.org", None),
        ("1.2.3", None),
    ],
)
def test_a_numeric_endpoint_is_an_address_as_the_kernel_spells_it(host: str, address: Any) -> None:
    assert numeric(Endpoint(host, 5)) == address


async def test_a_name_with_many_addresses_gives_so_many_and_no_more(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    trio.socket.set_custom_hostname_resolver(resolver)
    resolver.table["b.example"] = [f"10.0.{number}.1" for number in range(200)]
    book = Callbook([BY_NAME], lambda address: True)  # type: ignore[arg-type, return-value]
    assert await book.look_up(BY_NAME) is None
    assert len(book.addresses) == MAX_ADDRESSES
    book.replace([Endpoint("192.0.2.1", 1), BY_NAME])
    assert len(book.addresses) == MAX_ADDRESSES + 1  # what was known of a name that stays is kept
    book.replace([Endpoint("192.0.2.1", 1)])
    assert await book.look_up(BY_NAME) is None  # an answer that comes too late
    assert book.addresses == [("192.0.2.1", 1)]


def test_places_are_tried_from_where_the_peer_was_last_heard() -> None:
    book = Callbook([Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 1)], lambda address: True)  # type: ignore[arg-type, return-value]
    one, two, heard = ("192.0.2.1", 1), ("192.0.2.2", 1), ("198.51.100.1", 9)
    assert [book.at(attempt) for attempt in range(1, 5)] == [one, two, one, two]
    book.proven = heard
    assert [book.at(attempt) for attempt in range(1, 5)] == [heard, one, two, heard]
    book.proven = two
    assert [book.at(attempt) for attempt in range(1, 4)] == [two, one, two]
    book.replace([])
    assert book.at(7) == two
    book.proven = None
    assert book.at(1) is None
