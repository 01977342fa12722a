"""Nodes of a network whose store is believed: its settings, their addresses, and what they keep of both."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import trio
from member_site import CONFIG, FIRST, PREFIX, Site, address_of, claim_of, race, until
from node_world import name, public_key, validate
from trio.testing import MockClock

from holloway.actors import Node, open_registry
from holloway.actors.config import ConfigProblems
from holloway.actors.config.model import FloatingConfig
from holloway.actors.registry import RegistryPort
from holloway.actors.store_member import settled_node
from holloway.protocols.address_claims import Holder, decode_claim
from holloway.protocols.errors import RegistryError
from holloway.protocols.network_settings import NetworkSettings, decode_settings, encode_settings


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def node_status(node: Node) -> Any:
    answer: Any = node.status()
    return answer["node"]


# Addresses.


async def test_two_nodes_that_were_given_nothing_meet_over_ipv4_and_ipv6(site: Site, autojump_clock: MockClock) -> None:
    async with site.node(1) as a, site.node(2) as b:
        with trio.fail_after(5):
            await a.connected(name(2))
            await b.connected(name(1))
        assert (address_of(a), address_of(b)) == ("10.99.4.1", "10.99.4.2")
        settings = decode_settings(site.value(CONFIG) or b"")
        assert isinstance(settings, NetworkSettings)
        assert settings.network6 is not None
        addresses = [str(each) for each in b.config.interface.addresses]
        assert addresses == ["10.99.4.2/16", f"{settings.address6(IPv4Address('10.99.4.2'))}/64"]
        assert [str(each) for each in a.roster.plan.peers[name(2)].allowed] == [
            "10.99.4.2/32",
            f"{settings.address6(IPv4Address('10.99.4.2'))}/128",
        ]
        status = a.status()
        validate("status", status)
        assert node_status(a)["settings"]["waiting"] == []
        assert node_status(a)["settings"]["lease_s"] == 172_800


async def test_twelve_nodes_at_once_have_twelve_addresses_and_know_each_other(
    site: Site, autojump_clock: MockClock
) -> None:
    nodes: list[Node] = []
    async with trio.open_nursery() as nursery:

        async def live(number: int) -> None:
            async with site.node(number) as node:
                nodes.append(node)
                await trio.sleep_forever()

        for number in range(1, 13):
            nursery.start_soon(live, number)
        await until(lambda: len(nodes) == 12)
        assert len({address_of(each) for each in nodes}) == 12
        await until(lambda: all(len(each.roster.plan.peers) == 11 for each in nodes))
        nursery.cancel_scope.cancel()


async def test_a_machine_keeps_its_address_over_restarts_and_while_it_is_away(
    site: Site, autojump_clock: MockClock
) -> None:
    await site.put(CONFIG, encode_settings(NetworkSettings(lease_s=600)))
    async with site.node(1):
        pass
    async with site.node(2) as b:
        assert address_of(b) == "10.99.4.2", "that of the one that was stopped is held for it"
        await trio.sleep(590)
        async with site.node(1) as a:
            assert address_of(a) == "10.99.4.1"
    await trio.sleep(602)
    assert site.value(FIRST) is None
    async with site.node(3) as c, site.node(1) as a:
        assert address_of(c) == "10.99.4.1", "the lease is over"
        assert address_of(a) == "10.99.4.2", "and the machine that was away for too long has the next one"


async def test_the_leases_of_earlier_lives_do_not_pile_up(site: Site, autojump_clock: MockClock) -> None:
    leases = set()
    for _ in range(3):
        async with site.node(1):
            await trio.sleep(1)
            entry = site.memory.snapshot(FIRST).entries[FIRST]
            assert entry.lease is not None
            leases.add(entry.lease)
    handle = site.memory.handle()
    for lease in leases - {site.memory.snapshot(FIRST).entries[FIRST].lease}:
        with pytest.raises(RegistryError):
            await handle.keep_alive(lease)
    await handle.close()


async def test_an_address_that_another_machine_has_is_refused_by_name(site: Site, autojump_clock: MockClock) -> None:
    async with site.node(1, "10.99.0.7/16") as a:
        assert address_of(a) == "10.99.0.7"
        with pytest.raises(RegistryError) as refused:
            async with site.node(2, "10.99.0.7/16"):
                pass
    assert "10.99.0.7" in refused.value.what
    assert name(1) in refused.value.why
    assert "holloway release" in refused.value.fix


async def test_an_address_that_no_longer_fits_is_given_back_and_rests(site: Site, autojump_clock: MockClock) -> None:
    async with site.node(1):
        pass
    async with site.node(1, "10.99.0.9/16") as a:
        assert address_of(a) == "10.99.0.9"
        rests = decode_claim(site.value(FIRST) or b"")
        assert isinstance(rests, Holder)
        assert rests.free_from is not None
        async with site.node(2) as b:
            assert address_of(b) == "10.99.4.2", "the first rests"
        await trio.sleep(3600 + 5)
        async with site.node(3) as c:
            assert address_of(c) == "10.99.4.1"


async def test_a_claim_that_somebody_removes_is_put_back(site: Site, autojump_clock: MockClock) -> None:
    async with site.node(1):
        await trio.sleep(1)
        await site.delete(FIRST)
        await until(lambda: site.value(FIRST) == claim_of(1), within_s=5)
        await site.put(FIRST, b"rubbish")
        await until(lambda: site.value(FIRST) == claim_of(1), within_s=5)


async def test_an_address_that_another_machine_has_got_is_not_claimed_on(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.node(1) as a:
        await trio.sleep(1)
        await site.put(FIRST, claim_of(9))
        await until(lambda: a.member is not None and a.member.problem is not None, within_s=5)
        assert f"node {name(9)} holds it" in caplog.text
        validate("status", a.status())
        assert f"node {name(9)} holds it" in node_status(a)["settings"]["problem"]
        assert site.value(FIRST) == claim_of(9)
        record = PREFIX + b"nodes/" + name(1).encode()
        await until(lambda: site.value(record) is None, within_s=60)
        await site.delete(FIRST)
        await until(lambda: site.value(record) is not None, within_s=30)
        assert site.value(FIRST) == claim_of(1)


async def test_a_start_without_the_store_goes_on_with_what_was_known(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.node(1):
        pass

    is_away = True

    @asynccontextmanager
    async def away(*words: Any, **options: Any) -> AsyncIterator[RegistryPort]:
        if is_away:
            raise RegistryError("the store is away", "somebody pulled the plug")
        async with open_registry(*words, **options) as registry:
            yield registry

    monkeypatch.setattr("holloway.actors.node.open_registry", away)
    with pytest.raises(RegistryError, match="the store is away"):
        async with site.node(2):
            pass
    async with site.node(1) as node:
        assert address_of(node) == "10.99.4.1"
        assert "going on with 10.99.4.1" in caplog.text
        await trio.sleep(60)
        assert node_status(node)["registry"]["in_touch"] is False
        is_away = False
        await until(lambda: node_status(node)["registry"]["in_touch"], within_s=10)
        assert site.value(FIRST) == claim_of(1)


@pytest.mark.parametrize("range_", ["network", "floating_range"])
async def test_a_start_without_the_store_does_not_go_on_with_an_address_that_is_none_any_more(
    range_: str, site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    moved = NetworkSettings(number=2, network=IPv4Network("10.98.0.0/16"), static_range=None, floating_range=None)
    taken = NetworkSettings(number=2, floating_range=IPv4Network("10.99.4.0/24"))
    async with site.node(1) as a:
        await site.put(CONFIG, encode_settings(moved if range_ == "network" else taken))
        await until(lambda: a.member is not None and a.member.newest.number == 2)

    @asynccontextmanager
    async def away() -> AsyncIterator[RegistryPort]:
        raise RegistryError("the store is away", "somebody pulled the plug")
        yield

    for addresses in ((), ("10.99.4.1/16",)):
        with pytest.raises(RegistryError, match="the store is away"):
            await settled_node(site.config(1, *addresses), site.world.ports(1), public_key(1), away)
    assert "going on" not in caplog.text
    async with site.node(1) as a:
        assert address_of(a) == ("10.98.0.1" if range_ == "network" else "10.99.2.1")


async def test_an_address_that_no_node_may_have_is_told_and_not_claimed(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.node(1) as a:
        assert a.member is not None
        a.member.address = IPv4Address("10.98.0.1")
        await site.delete(FIRST)  # so that it claims anew
        await until(lambda: a.member is not None and a.member.problem is not None, within_s=5)
        assert "no address of a node in 10.99.0.0/16" in node_status(a)["settings"]["problem"]
        await trio.sleep(60)
        assert "crashed" not in caplog.text
        assert site.value(FIRST) is None


# Settings.


async def test_later_nodes_obey_the_settings_of_the_first_and_say_so(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = NetworkSettings(
        network=IPv4Network("10.5.0.0/16"),
        static_range=None,
        floating_range=IPv4Network("10.5.9.0/24"),
        lease_s=60,
    )
    await site.put(CONFIG, encode_settings(theirs))
    async with site.node(1) as a, site.node(2, "10.5.0.77/24") as b:
        assert [str(each) for each in a.config.interface.addresses] == ["10.5.0.1/16"]
        assert [str(each) for each in b.config.interface.addresses] == ["10.5.0.77/16"]
        assert "10.5.0.77/24: its network is 10.5.0.0/16, says the registry" in caplog.text
        await trio.sleep(600)
        assert site.value(PREFIX + b"addresses/10.5.0.1") == claim_of(1), "the lease is kept alive"
    await trio.sleep(62)
    assert site.value(PREFIX + b"addresses/10.5.0.1") is None
    with pytest.raises(ConfigProblems, match=r"10\.99\.2\.1"):
        async with site.node(3, floating=(FloatingConfig(address=IPv4Address("10.99.2.1")),)):
            pass


async def test_settings_that_change_take_effect_where_they_can_and_wait_where_not(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holloway")
    async with site.node(1) as a:
        await trio.sleep(1)
        before = site.memory.snapshot(FIRST).entries[FIRST].lease
        settings = decode_settings(site.value(CONFIG) or b"")
        assert isinstance(settings, NetworkSettings)
        await site.put(CONFIG, encode_settings(replace(settings, number=2, network6=None, lease_s=30)))
        await until(lambda: site.memory.snapshot(FIRST).entries[FIRST].lease != before)
        assert node_status(a)["settings"]["waiting"] == ["network6"]
        assert "network6 (takes effect at the next start), lease_s" in caplog.text
        await site.put(CONFIG, b"rubbish")
        await until(lambda: a.problems["settings_not_json"] == 1)
        await site.delete(CONFIG)
        await until(lambda: site.value(CONFIG) is not None)
        assert json.loads(site.value(CONFIG) or b"")["lease_s"] == 30
    await trio.sleep(32)
    assert site.value(FIRST) is None, "the new lease time counts"
    async with site.node(1) as a:
        assert [str(each) for each in a.config.interface.addresses] == ["10.99.4.1/16"]
        assert node_status(a)["settings"]["waiting"] == []


async def test_settings_that_nobody_can_read_are_told(site: Site, autojump_clock: MockClock) -> None:
    await site.put(CONFIG, b"{}")
    with pytest.raises(RegistryError) as refused:
        async with site.node(1):
            pass
    assert "settings_wrong_version" in refused.value.why


async def test_settings_that_nobody_can_read_do_not_keep_those_out_who_know_them(
    site: Site, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.node(1):
        pass
    await site.put(CONFIG, b"{}")
    async with site.node(1) as a:
        assert address_of(a) == "10.99.4.1"
        assert "going on with those that this node had before" in caplog.text


# Races, on a store that several processes could share.


async def test_of_two_that_want_one_address_one_has_it(tmp_path: Path) -> None:
    await race(f"sqlite://{tmp_path / 'races.db'}", rounds=10)
