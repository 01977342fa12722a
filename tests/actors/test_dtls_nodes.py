"""Nodes over DTLS: they meet, carry, heal, roam, refuse for a reason, and are not disturbed by strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from dtls_certificates import Leaf
from dtls_world import DtlsWorld, authority, good
from node_world import (
    PORT,
    Daemon,
    config,
    crosses,
    drops,
    eventually_crosses,
    name,
    outer,
    packet,
    peer,
    serial,
    the_peer,
    validate,
)
from trio.testing import MockClock

from holloway.actors import Endpoint, Node
from holloway.actors.dtls_calls import LOOK_UP_AGAIN_MAX_S
from holloway.simulations.network import Link

HEALED_S = 5.0


def node_uri(number: int) -> tuple[str, ...]:
    return (f"holloway://holloway/{name(number)}",)


def path(node: Node, number: int) -> str:
    found: str = the_peer(node, number)["endpoint"]
    return found


async def test_both_dial_at_once_and_settle_on_one_association(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, b, left, right):
        await trio.sleep(1)
        for turn in range(3):
            assert await crosses(left, right, packet(1, 2, turn))
            assert await crosses(right, left, packet(2, 1, turn))
        currents = {node.roster.running[name(n)].link.current for node, n in ((a, 2), (b, 1))}  # type: ignore[attr-defined]
        assert len(currents) == 1
        connection = a.roster.running[name(2)].channel._connection  # type: ignore[attr-defined]
        assert connection.get_protocol_version_name() == "DTLSv1.2"
        assert connection.get_cipher_name() == "ECDHE-ECDSA-AES256-GCM-SHA384"
        for node in (a, b):
            validate("status", node.status())
            validate("peers", node.peers())
        status: Any = a.status()
        assert status["node"]["backend"] == "dtls"
        assert status["node"]["dtls"] == {"verified": True, "associations": 2}
        assert status["node"]["mtu"] == 1400
        assert the_peer(a, 2) | {"state": "ok", "suite": "dtls", "problem": None} == the_peer(a, 2)
        assert drops(a) == {}
        # Nothing of what was sent can be read on the way.
        assert not any(b"\xa5" * 8 in data for *_, data in world.wire)


async def test_keys_change_without_losing_a_packet(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _b, left, right):
        sent, received = 0, []
        while trio.current_time() < 300.0:
            left.tun.inject([packet(1, 2, sent)])
            sent += 1
            await trio.sleep(0.25)
            received += [serial(each) for each in await right.tun.collect()]
        assert received == list(range(sent))
        assert the_peer(a, 2)["epoch"] >= 3
        assert a.status()["node"]["dtls"]["associations"] <= 4  # type: ignore[index]


@pytest.mark.parametrize("knows_where", [True, False])
async def test_a_peer_that_died_and_came_back_is_reached_again(
    knows_where: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with trio.open_nursery() as nursery, world.node(world.config(1, peer(2)), left) as a:
        mortal = Daemon(world, nursery, world.config(2, peer(1, endpoint=knows_where)), right)
        await mortal.start()
        with trio.fail_after(5):
            await a.connected(name(2))
        world.network.shape(outer(1), outer(2), Link(loss=1.0))  # nobody hears it die
        await mortal.stop()
        await trio.sleep(1)
        world.network.shape(outer(1), outer(2), Link(latency_s=0.01))
        await mortal.start()
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=HEALED_S)
        assert await eventually_crosses(right, left, packet(2, 1, 1), within_s=1.0)
        await mortal.stop()


async def test_a_peer_that_stops_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with trio.open_nursery() as nursery, world.node(world.config(1, peer(2)), left) as a:
        mortal = Daemon(world, nursery, world.config(2, peer(1)), right)
        await mortal.start()
        await a.connected(name(2))
        await trio.sleep(0.5)
        await mortal.stop()
        await trio.sleep(0.1)
        assert the_peer(a, 2)["state"] != "ok"


async def test_a_path_that_was_cut_for_a_while_works_again_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        world.network.shape(outer(1), outer(2), Link(loss=1.0))
        assert not await eventually_crosses(left, right, packet(1, 2, 1), within_s=30.0)
        assert the_peer(a, 2)["state"] == "stale"
        world.network.shape(outer(1), outer(2), Link(latency_s=0.01))
        assert await crosses(left, right, packet(1, 2, 2), within_s=0.1)


async def test_a_peer_that_moves_is_followed(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        world.network.rebind((outer(2), PORT), ("203.0.113.9", 4000))
        assert await crosses(right, left, packet(2, 1, 1))
        assert path(a, 2) == "203.0.113.9:4000"
        assert await crosses(left, right, packet(1, 2, 1))


async def test_a_copy_from_elsewhere_moves_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        await trio.sleep(1)
        thief = world.network.bind("203.0.113.9", 4000)
        begin = len(world.wire)
        assert await crosses(right, left, packet(2, 1, 1))
        copies = [data for _, source, _, data in world.wire[begin:] if source[0] == outer(2)]
        thief.send(copies, (outer(1), PORT))
        await trio.sleep(0.1)
        assert path(a, 2) == f"{outer(2)}:{PORT}"
        assert drops(a)["not_authentic"] >= len(copies)
        with trio.move_on_after(0.1):
            assert not await left.tun.collect()


CASES = {
    "none": "dtls_unanswered",
    "foreign": "dtls_certificate_foreign_authority",
    "expired": "dtls_certificate_expired",
    "early": "dtls_certificate_not_yet_valid",
    "name": "dtls_unknown_node",
    "network": "dtls_certificate_wrong_network",
    "nameless": "dtls_certificate_no_names",
    "address": "dtls_unknown_node",
}


def bad(kind: str) -> Leaf:
    """A certificate that host 2 should not have."""
    known = authority()
    match kind:
        case "foreign":
            return authority("foreign").issue(name(2), uris=node_uri(2))
        case "expired":
            return known.issue(name(2), uris=node_uri(2), days=(-30, -1))
        case "early":
            return known.issue(name(2), uris=node_uri(2), days=(1, 30))
        case "name":
            return known.issue(name(2), uris=node_uri(3))
        case "network":
            return known.issue(name(2), uris=("holloway://elsewhere/node-2",))
        case "nameless":
            return known.issue(name(2))
        case _:
            return known.issue(name(2), addresses=("10.99.0.77",))


@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "none"])
async def test_a_bad_certificate_is_refused_and_the_reason_is_named(
    kind: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2, endpoint=False)), left) as a,
        world.node(world.config(2, peer(1), leaf=bad(kind)), right) as b,
    ):
        await trio.sleep(HEALED_S)
        assert not a.roster.running[name(2)].is_connected
        assert drops(a)[CASES[kind]] >= 1
        assert f"a handshake from {outer(2)}:{PORT} is refused: {CASES[kind]}" in caplog.text
        # The other side is told that it was refused, and waits before it tries again.
        assert the_peer(b, 1)["problem"].startswith("dtls_refused_by_peer")
        assert drops(b)["dtls_refused_by_peer"] <= 2


@pytest.mark.parametrize("kind", ["foreign", "expired", "name"])
async def test_who_is_dialled_has_to_be_who_was_meant(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2)), left) as a,
        world.node(world.config(2, peer(1, endpoint=False), leaf=bad(kind)), right),
    ):
        await trio.sleep(1)
        wanted = {"name": "dtls_certificate_wrong_name"}.get(kind, CASES[kind])
        assert the_peer(a, 2)["problem"] == wanted
        assert the_peer(a, 2)["state"] == "down"


async def test_addresses_name_a_node_as_well(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    by_address = [authority().issue("whatever", addresses=(f"10.99.0.{n}",), with_rsa=True) for n in (1, 2)]
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2), leaf=by_address[0]), left) as a,
        world.node(world.config(2, peer(1), leaf=by_address[1]), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        assert await crosses(left, right, packet(1, 2, 1))
        # Its certificate does not speak for another address that it gets.
        running = a.roster.running[name(2)]
        running.update(replace(running.peer, allowed=(*running.peer.allowed, *peer(3).allowed)))
        assert the_peer(a, 2)["problem"] == "dtls_certificate_wrong_address"
        assert not await crosses(left, right, packet(1, 2, 2))


async def test_without_verification_names_alone_count_and_status_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2), skip_verify=True), left) as a,
        world.node(world.config(2, peer(1), leaf=bad("foreign")), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))
        assert a.status()["node"]["dtls"]["verified"] is False  # type: ignore[index]


async def test_a_session_is_nothing_to_a_node_that_speaks_dtls(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with world.node(world.config(1, peer(2)), left) as a, world.node(config(2, peers=[peer(1)]), right) as b:
        await trio.sleep(10)
        assert the_peer(a, 2)["state"] == "down"
        assert not b.roster.running[name(1)].is_connected
        assert drops(a)["unknown_peer"] >= 1
        assert drops(b)["unknown_type"] >= 1
        assert drops(a)["dtls_unanswered"] >= 1


async def test_packets_that_come_before_the_association_wait_for_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with world.node(world.config(1, peer(2)), left) as a:
        left.tun.inject([packet(1, 2, number) for number in range(200)])
        await trio.sleep(3)
        async with world.node(world.config(2, peer(1, endpoint=False)), right):
            with trio.fail_after(10):
                await a.connected(name(2))
            await trio.sleep(0.1)
            found = await right.tun.collect()
            assert [serial(each) for each in found] == list(range(200 - len(found), 200))
            assert drops(a)["staging_full"] == 200 - len(found) > 0


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(world.config(1, peer(2, endpoint=False)), left) as a,
        world.node(world.config(2, peer(1)), right),
    ):
        with trio.fail_after(5):
            await a.connected(name(2))  # it was dialled, and the other side does not know yet that it was
        assert await crosses(left, right, packet(1, 2, 1), within_s=0.1)


async def test_an_inner_source_that_is_not_the_peers_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, b, left, right):
        b.roster.running[name(1)].offer_packets([packet(3, 1, 1)])
        await trio.sleep(0.1)
        assert drops(a)["source_not_allowed"] == 1
        assert await crosses(right, left, packet(2, 1, 2))


async def test_a_crash_of_the_handshaker_takes_the_peers_along_and_all_are_back(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holloway.actors.dtls_handshaker import DtlsHandshaker

    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (_, _, left, right):

        def crash(handshaker: DtlsHandshaker) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(DtlsHandshaker, "_present_context", crash)
            await trio.sleep(61)
        assert await eventually_crosses(left, right, packet(1, 2, 1), within_s=60)


async def test_a_turn_that_crashes_ends_the_peer_and_nobody_else(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, _, left, right):
        running: Any = a.roster.running[name(2)]

        def crash(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(running.link, "sent", crash)
        left.tun.inject([packet(1, 2, 1)])
        await trio.sleep(0.05)
        assert a.roster.running.get(name(2)) is not running
        assert await eventually_crosses(left, right, packet(1, 2, 2), within_s=5)


def test_the_certificates_of_these_tests_differ() -> None:
    assert len({bad(kind).der for kind in CASES if kind != "none"} | {good(2).der}) == len(CASES)


async def test_a_certificate_that_is_renewed_is_shown_from_then_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = DtlsWorld(tmp_path)
    async with world.dtls_pair() as (a, b, _, _):
        await trio.sleep(5)
        credentials: Any = a._credentials
        credentials._shown = authority().issue(name(1), uris=node_uri(3)).shown  # one that the other side refuses
        a.roster.running[name(2)].rekey()
        await trio.sleep(1)
        assert drops(b)["dtls_unknown_node"] == 1
        await trio.sleep(60)
        b.roster.running[name(1)].rekey()
        await trio.sleep(1)
        assert the_peer(b, 1)["problem"] == "dtls_certificate_wrong_name"


@pytest.mark.parametrize("unknown_s", [10.0, 400.0])
async def test_a_peer_with_a_name_is_dialled_where_the_name_leads(
    unknown_s: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Also long after it was given up."""

    class Resolver(trio.abc.HostnameResolver):
        answers: tuple[str, ...] = ()

        async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:
            await trio.lowlevel.checkpoint()
            if not self.answers:
                raise OSError("nobody knows that name")
            return [(2, 2, 17, "", (each, port)) for each in self.answers]

        async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
            raise NotImplementedError

    resolver = Resolver()
    trio.socket.set_custom_hostname_resolver(resolver)
    world = DtlsWorld(tmp_path)
    left, right = world.ports(1), world.ports(2)
    by_name = peer(2, endpoint=Endpoint("b.example", PORT))
    async with (
        world.node(world.config(2, peer(1, endpoint=False)), right),
        world.node(world.config(1, by_name), left) as a,
    ):
        await trio.sleep(unknown_s)
        assert the_peer(a, 2)["state"] == "down"
        resolver.answers = (outer(2),)
        with trio.fail_after(HEALED_S if unknown_s < 90 else LOOK_UP_AGAIN_MAX_S):
            await a.connected(name(2))
        assert await crosses(left, right, packet(1, 2, 1))
