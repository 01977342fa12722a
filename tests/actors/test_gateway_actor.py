"""The actor behind the gateway: when the host is told what, whose default route counts, and what becomes of packets meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
from enrolled_world import NETWORK, NOW, EnrolledWorld, until
from node_world import (
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
    validate,
)
from trio.testing import MockClock

from holloway.actors import Endpoint, GatewayConfig, Node
from holloway.actors.gateway import NAMES_S, RECHECK_S
from holloway.cli.up import cause_of
from holloway.protocols.envelopes import seal_text
from holloway.protocols.errors import PortError
from holloway.protocols.gateway import GatewayPlan, Pin, closed, gateway_table, plan_gateway
from holloway.protocols.membership import encode_record, node_key
from holloway.protocols.signed_records import LABEL
from holloway.supervisor import ChildStartError, IntensityExceeded

EVERYTHING = ip_network("0.0.0.0/0")
TO_PEER = GatewayConfig(through=name(2))
PLAN = plan_gateway("hw0", own={4}, offered={4}, pins=())


def to_the_world(number: int, *, target: str = "203.0.113.5") -> bytes:
    return packet(1, 2, number)[:16] + ip_address(target).packed + packet(1, 2, number)[20:]


def from_the_world(number: int) -> bytes:
    return packet(2, 1, number)[:12] + ip_address("203.0.113.5").packed + packet(2, 1, number)[16:]


def state(node: Node) -> Any:
    status: Any = node.status()
    validate("status", status)
    return status["node"]["gateway"] and status["node"]["gateway"]["state"]


def routes(node: Node) -> dict[tuple[str, str | None], tuple[str, str]]:
    """Of the answer to `routes`: kind and what the kernel has, by prefix and peer."""
    answer: Any = node.routes()
    validate("routes", answer)
    return {(each["prefix"], each["via"]): (each["kind"], each["kernel"]) for each in answer["routes"]}


@contextmanager
def telling(ports: FragilePorts, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GatewayPlan | None]]:
    """What the host is told, in order."""
    told: list[GatewayPlan | None] = []
    original = ports.netlink.set_gateway

    async def set_gateway(interface: str, plan: GatewayPlan | None) -> None:
        told.append(plan)
        await original(interface, plan)

    monkeypatch.setattr(ports.netlink, "set_gateway", set_gateway)
    yield told


async def test_the_host_is_told_while_the_node_runs_and_not_longer(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    marks: list[int] = []
    opened = left.open_datagrams
    monkeypatch.setattr(
        left,
        "open_datagrams",
        lambda address, port, *, mark: (marks.append(mark), opened(address, port, mark=mark))[1],
    )
    exit_peer = peer(2, allowed=(host(2), EVERYTHING))
    async with world.node(config(2, peers=[peer(1)], prefixes=["0.0.0.0/0"]), right):
        async with world.node(config(1, peers=[exit_peer], gateway=TO_PEER), left) as a:
            assert left.netlink.gateway == PLAN
            assert marks == [gateway_table("hw0")]
            assert EVERYTHING not in left.netlink.routes
            assert await eventually_crosses(left, right, to_the_world(1), within_s=5)
            assert await eventually_crosses(right, left, from_the_world(2), within_s=5)
            assert state(a) == "ok"
            assert routes(a)["0.0.0.0/0", name(2)] == ("gateway", "installed")
            assert routes(a)["::/0", name(2)] == ("gateway", "unreachable")
            assert "no kernel route" not in caplog.text
        assert left.netlink.gateway is None


@pytest.mark.parametrize("crash", ["crash_netlink", "crash_udp", "crash_tun"])
async def test_a_restart_of_the_data_plane_takes_nothing_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    exit_peer = peer(2, allowed=(host(2), EVERYTHING))
    with telling(left, monkeypatch) as told:
        async with (
            world.node(config(2, peers=[peer(1)], prefixes=["0.0.0.0/0"]), right),
            world.node(config(1, peers=[exit_peer], gateway=TO_PEER), left),
        ):
            assert await eventually_crosses(left, right, to_the_world(1), within_s=5)
            getattr(left, crash)()
            await trio.sleep(RECHECK_S)
            assert await eventually_crosses(left, right, to_the_world(2), within_s=10)
            # While there is no device there is no way out at all.
            assert told[:3] == [PLAN, closed(PLAN), PLAN]
            assert set(told[3:]) <= {PLAN}
        assert told[-1] is None


@pytest.mark.parametrize("crash", ["crash_udp", "crash_tun", "crash_netlink"])
async def test_an_end_in_the_middle_of_a_restart_takes_back_all(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    world = World()
    left = world.ports(1)
    exit_peer = peer(2, allowed=(host(2), EVERYTHING))
    with telling(left, monkeypatch) as told:
        async with world.node(config(1, peers=[exit_peer], gateway=TO_PEER), left):
            await trio.sleep(1)
            getattr(left, crash)()
            await until(lambda: left.netlink.gateway == closed(PLAN), within_s=1)
        assert told[-1] is None
    assert left.netlink.gateway is None


@pytest.mark.parametrize("trouble", ["refusal", "delay"])
async def test_masquerading_goes_whatever_becomes_of_the_rules(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    world = World()
    left = world.ports(1)

    async def fail(interface: str, plan: GatewayPlan | None) -> None:
        if trouble == "delay":
            await trio.sleep_forever()
        raise PortError("cannot give back the default route", "EBUSY: no", "wait")

    made = config(
        1,
        peers=[peer(2, allowed=(EVERYTHING,))],
        prefixes=["10.7.0.0/16"],
        gateway=replace(TO_PEER, masquerade=True),
    )
    async with world.node(made, left):
        assert left.netlink.masquerade == {4}
        monkeypatch.setattr(left.netlink, "set_gateway", fail)
    assert left.netlink.masquerade == frozenset()
    assert {"refusal": "EBUSY", "delay": "has not done within 5 s"}[trouble] in caplog.text


@pytest.mark.parametrize("masquerades", [True, False])
async def test_masquerading_that_is_refused_to_go_is_told_of_by_who_set_it_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, masquerades: bool
) -> None:
    world = World()
    left = world.ports(1)

    async def refuse(interface: str, versions: Collection[int]) -> None:
        if not versions:
            raise PortError("masquerading cannot be taken back", "nft: it is busy", "nft delete table")

    monkeypatch.setattr(left.netlink, "set_masquerade", refuse)
    made = config(1, peers=[peer(2)], prefixes=["10.7.0.0/16"], gateway=GatewayConfig(masquerade=masquerades))
    with caplog.at_level("INFO"):
        async with world.node(made, left):
            await trio.sleep(1)
            assert "nft" not in caplog.text
    assert ("nft: it is busy" in caplog.text) == masquerades


async def test_a_node_that_gives_up_takes_back_all(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    left = world.ports(1)
    made = config(1, peers=[peer(2, allowed=(EVERYTHING,))], gateway=TO_PEER)

    async def fail_again_and_again() -> None:
        async with world.node(made, left):
            while True:
                assert left.netlink.gateway is not None
                left.crash_udp()
                await trio.sleep(0.5)

    with pytest.raises(IntensityExceeded):
        await fail_again_and_again()
    assert left.netlink.gateway is None


async def test_what_a_killed_node_left_is_out_of_the_way_before_names_are_looked_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left = world.ports(1)
    named = peer(2, allowed=(EVERYTHING,), endpoint=Endpoint("exit.example", 1099))

    async def unknown(*question: object, **options: object) -> Any:
        raise OSError("no such name")

    monkeypatch.setattr(trio.socket, "getaddrinfo", unknown)
    with telling(left, monkeypatch) as told:
        began = trio.current_time()
        async with world.node(config(1, peers=[named], gateway=TO_PEER), left):
            assert trio.current_time() - began == pytest.approx(NAMES_S, abs=0.5)
            assert told == [None, PLAN]


async def test_an_exit_that_is_known_by_a_name_need_not_answer_before_the_way_is_closed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, takes_s = World(), 0.2
    left = world.ports(1)
    named = peer(2, allowed=(EVERYTHING,), endpoint=Endpoint("exit.example", 1099))

    async def known(*question: object, **options: object) -> Any:
        await trio.sleep(takes_s)
        return [(2, 2, 17, "", ("192.0.2.2", 1099))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", known)
    with caplog.at_level("INFO"), telling(left, monkeypatch) as told:
        for takes_s in (0.2, 3.0):
            began = trio.current_time()
            async with world.node(config(1, peers=[named], gateway=TO_PEER), left):
                assert trio.current_time() - began == pytest.approx(takes_s, abs=0.1)
                assert told == [None, PLAN]
            told.clear()
            assert ("waiting for a name server" in caplog.text) == (takes_s > 1)
    assert "there is no way out" not in caplog.text


async def test_what_others_have_changed_is_told_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left = world.ports(1)
    with telling(left, monkeypatch) as told:
        async with world.node(config(1, peers=[peer(2, allowed=(EVERYTHING,))], gateway=TO_PEER), left):
            await trio.sleep(1)
            told.clear()
            left.netlink.change("hw0")
            await trio.sleep(1)
            assert told == [PLAN]
            await trio.sleep(RECHECK_S)
            assert told == [PLAN, PLAN]


async def test_the_named_peer_of_the_registry_is_the_gateway_and_no_other(autojump_clock: MockClock) -> None:
    world = World()
    left, exit_, other = world.ports(1), world.ports(2), world.ports(3)
    async with world.node(config(1, registry=True, gateway=TO_PEER), left) as a:
        await trio.sleep(1)
        # Before there is one nothing leaves in another way: what is for it is dropped, and counted.
        assert left.netlink.gateway == plan_gateway("hw0", own={4}, offered=None, pins=())
        assert state(a) == "absent"
        left.tun.inject([to_the_world(1)])
        await trio.sleep(1)
        assert drops(a)["no_route"] == 1
        async with world.node(config(3, registry=True, prefixes=["0.0.0.0/0"]), other):
            with trio.fail_after(60):
                await a.connected(name(3))
            left.tun.inject([to_the_world(2)])
            await trio.sleep(1)
            assert drops(a)["no_route"] == 2
            assert routes(a)["0.0.0.0/0", name(3)] == ("peer", "unused")
            async with world.node(config(2, registry=True, prefixes=["0.0.0.0/0"]), exit_) as b:
                with trio.fail_after(60):
                    await a.connected(name(2))
                assert await crosses(left, exit_, to_the_world(3))
                assert state(a) == "ok"
                # Who offers a default route has peers as well; and accepts nothing in the name of the world.
                assert await eventually_crosses(exit_, other, packet(2, 3, 4), within_s=5)
                assert await crosses(exit_, left, from_the_world(5))
                other.tun.inject([from_the_world(6)])
                await trio.sleep(1)
                assert state(b) is None
        assert drops(a)["source_not_allowed"] == 1


async def test_a_peer_that_offers_no_default_route_is_no_gateway(autojump_clock: MockClock) -> None:
    world = World()
    left, right = world.ports(1), world.ports(2)
    async with (
        world.node(config(1, registry=True, gateway=TO_PEER), left) as a,
        world.node(config(2, registry=True), right),
    ):
        with trio.fail_after(60):
            await a.connected(name(2))
        assert state(a) == "unwilling"
        left.tun.inject([to_the_world(1)])
        await trio.sleep(1)
        assert drops(a)["no_route"] == 1
        assert left.netlink.gateway == PLAN


async def test_a_host_that_refuses_at_the_start_ends_it_and_keeps_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left = world.ports(1)
    told: list[object] = []

    async def refuse(interface: str, plan: GatewayPlan | None) -> None:
        told.append(plan)
        if plan is not None:
            raise PortError("cannot send the default route into hw0", "EPERM: not allowed", "run as root")

    monkeypatch.setattr(left.netlink, "set_gateway", refuse)
    with pytest.raises(ChildStartError) as caught:
        async with world.node(config(1, peers=[peer(2, allowed=(EVERYTHING,))], gateway=TO_PEER), left):
            pass
    assert "EPERM" in str(cause_of(caught.value))
    assert told == [PLAN, None]


async def test_a_host_that_refuses_later_is_told_of_in_status(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left = world.ports(1)
    async with world.node(config(1, peers=[peer(2, allowed=(EVERYTHING,))], gateway=TO_PEER), left) as a:

        async def refuse(interface: str, plan: GatewayPlan | None) -> None:
            raise PortError("cannot send the default route into hw0", "EBUSY: no", "wait")

        with monkeypatch.context() as refusing:
            refusing.setattr(left.netlink, "set_gateway", refuse)
            left.netlink.change("hw0")
            await trio.sleep(1)
            status: Any = a.status()
            assert "EBUSY" in status["node"]["gateway"]["problem"]
            assert status["drops"]["gateway_refused"] == 1
            assert routes(a)["0.0.0.0/0", name(2)] == ("gateway", "refused")
        left.netlink.change("hw0")
        await trio.sleep(1)
        status = a.status()
        assert status["node"]["gateway"]["problem"] is None


async def test_a_host_that_refuses_after_a_restart_does_not_end_the_node(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    left = world.ports(1)
    made = config(1, peers=[peer(2)], prefixes=["0.0.0.0/0"], gateway=GatewayConfig(masquerade=True))
    async with world.node(made, left) as a:

        async def refuse(interface: str, versions: object) -> None:
            raise PortError("masquerading cannot be set up", "this host does not forward IPv4 packets", "sysctl")

        with monkeypatch.context() as refusing:
            refusing.setattr(left.netlink, "set_masquerade", refuse)
            left.crash_udp()
            await trio.sleep(RECHECK_S)
            status: Any = a.status()
            assert "does not forward" in status["node"]["gateway"]["problem"]
        await trio.sleep(RECHECK_S)
        assert left.netlink.masquerade == {4}
        status = a.status()
        assert status["node"]["gateway"]["problem"] is None


async def test_the_store_is_pinned(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    from holloway.actors import gateway

    monkeypatch.setattr(gateway, "store_endpoints", lambda config: (("203.0.113.9", 2379), ("2001:db8::9", 2380)))
    world = World()
    left = world.ports(1)
    async with world.node(config(1, registry=True, gateway=TO_PEER), left):
        await trio.sleep(1)
        pins = [Pin(ip_address("203.0.113.9"), 2379), Pin(ip_address("2001:db8::9"), 2380)]
        assert left.netlink.gateway == plan_gateway("hw0", own={4}, offered=None, pins=pins)


async def test_masquerading_is_for_the_families_behind_the_node(autojump_clock: MockClock) -> None:
    world = World()
    left = world.ports(1)
    made = config(1, peers=[peer(2)], prefixes=["0.0.0.0/0", "10.7.0.0/16"], gateway=GatewayConfig(masquerade=True))
    async with world.node(made, left) as a:
        assert left.netlink.masquerade == {4}
        status: Any = a.status()
        assert status["node"]["gateway"] == {"through": None, "state": None, "problem": None, "masquerade": True}
        assert routes(a)["10.7.0.0/16", None] == ("announced", "none")
    assert left.netlink.masquerade == frozenset()


async def test_who_is_not_certified_for_a_default_route_cannot_draw_traffic(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Node 2 is a member whose program was altered: its record claims what its certificate does not say."""
    world = EnrolledWorld(tmp_path)
    world.enrol(1)
    granted = world.enrol(2)
    async with world.node(2) as rogue:
        assert rogue.enrolled is not None
        await until(lambda: node_key(NETWORK, name(2)) in world.memory.snapshot(b"").entries)
        read = rogue.enrolled.records.verify(name(2), world.value(node_key(NETWORK, name(2))), 1_767_225_700)
        assert hasattr(read, "record")
        identity, certificate = rogue.enrolled.identity, granted.certificate
        claim = replace(read.record, prefixes=(EVERYTHING,), serial=read.record.serial + 1)
    forged = seal_text(LABEL, encode_record(claim).decode(), identity, certificate)
    await world.put({node_key(NETWORK, name(2)): forged})
    made = replace(world.config(1), gateway=TO_PEER)
    async with world.node(1, config=made) as a:
        await until(lambda: bool(refused(a)))
        assert refused(a) == {name(2): "record_prefix_not_certified"}
        assert state(a) == "absent"
    # The owner of the network lets it, and then it says so by itself: from its next start on.
    await world.delete(node_key(NETWORK, name(2)))
    async with world.node(2) as b:
        await world.put(world.authority.certify(name(2), (EVERYTHING,), NOW))
        await until(lambda: b.enrolled is not None and EVERYTHING in b.enrolled.certificate.prefixes)
    announcing = world.config(2)
    announcing = replace(announcing, node=replace(announcing.node, prefixes=(EVERYTHING,)))
    async with world.node(2, config=announcing), world.node(1, config=made) as a:
        with trio.fail_after(60):
            await a.connected(name(2))
        assert state(a) == "ok"


def refused(node: Node) -> Any:
    status: Any = node.status()
    return status["node"]["registry"]["refused"]
