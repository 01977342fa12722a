"""What stale watches, compaction, lost leases and a full disk do in the simulated registry, and what it tells."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest
import trio
from registry_back_ends import refused
from store_site import LEASE, NEVER_S, Site, at, fault, keys_of, lease_in, revision_of, taken
from trio.testing import MockClock

from holloway.actors.registry import LeaseId, LeaseLostError
from holloway.protocols.errors import RegistryError
from holloway.protocols.membership import NodeRecord, address_key, encode_record, network_prefix, node_key
from holloway.simulations.oracles import addresses_have_one_holder
from holloway.simulations.store_line import TOLD_LINES

# stale_watch, store_compaction.


async def test_stale_watch_gives_nothing_and_afterwards_everything_in_order(autojump_clock: MockClock) -> None:
    site = Site()
    registry, other = site.handle("a"), site.handle("b")
    start = await revision_of(registry)
    stale = fault("stale_watch", "a")
    async with registry.watch(b"", start) as watch, other.watch(b"", start) as current:
        site.store.begin(stale)
        assert await taken(watch, 1.0) == []
        assert site.reached == []
        for number in range(3):
            await registry.transact((), {b"%d" % number: b"", b"%d'" % number: b""})
        expected = [b"0", b"0'", b"1", b"1'", b"2", b"2'"]
        assert await taken(watch, 1.0) == []
        assert await taken(watch, 1.0) == []
        assert await taken(current) == expected
        assert site.reached == ["watch_was_stale"]
        site.store.end(stale)
        assert await taken(watch) == expected


async def test_stale_watch_that_reads_across_the_end_is_woken(autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    registry = site.handle()
    async with registry.watch(b"", await revision_of(registry)) as watch, trio.open_nursery() as nursery:
        site.store.begin(fault("stale_watch"))
        await registry.put(b"k", b"")
        nursery.start_soon(at, 50.0, lambda: site.store.end(fault("stale_watch")))
        assert [change.key for change in await watch.receive()] == [b"k"]
        assert trio.current_time() == 50.0


async def test_compaction_hits_the_watch_that_lags_and_no_other(autojump_clock: MockClock) -> None:
    site = Site()
    registry, other = site.handle("a"), site.handle("b")
    start = await revision_of(registry)
    async with registry.watch(b"", start) as watch, other.watch(b"", start) as current:
        site.store.begin(fault("stale_watch", "a"))
        await registry.put(b"k", b"1")
        assert await taken(watch) == []
        assert await taken(current) == [b"k"]
        site.store.begin(fault("store_compaction"))
        assert await taken(watch, 1.0) == []
        site.store.end(fault("stale_watch", "a"))
        for _ in range(2):
            with refused("compacted"):
                await watch.receive()
        assert "history_compacted" in site.reached
        await other.put(b"k", b"2")
        assert await taken(current) == [b"k"]
    snapshot = await registry.snapshot(b"")
    async with registry.watch(b"", snapshot.revision) as watch:
        await registry.put(b"k", b"3")
        assert await taken(watch) == [b"k"]


async def test_compaction_hits_a_watch_whose_news_is_on_the_way(autojump_clock: MockClock) -> None:
    site = Site(call_s=0.2)
    registry = site.handle()
    async with registry.watch(b"", await revision_of(registry)) as watch, trio.open_nursery() as nursery:
        await site.store.memory.handle().put(b"k", b"")
        nursery.start_soon(at, trio.current_time() + 0.05, lambda: site.store.begin(fault("store_compaction")))
        with refused("compacted"):
            await watch.receive()


async def test_compaction_that_befalls_one_node_leaves_the_history_to_the_others(autojump_clock: MockClock) -> None:
    site = Site()
    one, two = site.handle("a"), site.handle("b")
    start = await revision_of(one)
    await one.put(b"k", b"")
    site.store.begin(fault("store_compaction", "a"))
    with refused("compacted"):
        async with one.watch(b"", start) as watch:
            await watch.receive()
    async with two.watch(b"", start) as watch:
        assert await taken(watch) == [b"k"]
    async with one.watch(b"", await revision_of(one)) as watch:
        await one.put(b"l", b"")
        assert await taken(watch) == [b"l"]


# lease_loss.


async def test_lost_leases_take_their_keys_at_once_and_a_new_one_is_a_retaken_one(autojump_clock: MockClock) -> None:
    site = Site()
    one, two = site.handle("a"), site.handle("b")
    for registry, key in ((one, b"a"), (two, b"b")):
        lease = await registry.grant(NEVER_S)
        await registry.put(key, b"", lease=lease.id)
    start = await revision_of(one)
    async with one.watch(b"", start) as watch:
        site.store.begin(fault("lease_loss", "a"))
        assert await taken(watch) == [b"a"]
    assert await keys_of(site.store) == [b"b"]
    with refused("unavailable", LeaseLostError):
        await one.keep_alive(LeaseId(1))
    with refused("unavailable", LeaseLostError):
        await one.put(b"a", b"", lease=LeaseId(1))
    await two.keep_alive(LeaseId(2))
    assert site.told == [
        ("a", "lease 1 granted"),
        ("b", "lease 2 granted"),
        ("a", "lease 1 lost"),
        ("a", "refused keep_alive: lease 1 is lost"),
        ("a", "refused transact: lease 1 is lost"),
    ]
    await two.grant(5.0)
    await site.handle("a").grant(5.0)  # another life, which has lost nothing
    assert site.reached == []
    await one.grant(5.0)
    assert site.reached == ["lease_retaken"]
    await one.grant(5.0)
    assert site.reached == ["lease_retaken"]


@pytest.mark.parametrize("how", ["expired", "revoked by another", "revoked"])
async def test_lease_is_lost_by_expiry_and_to_others_but_not_by_its_owner(how: str, autojump_clock: MockClock) -> None:
    site = Site()
    one, two = site.handle("a"), site.handle("b")
    lease = await one.grant(5.0)
    if how == "expired":
        await trio.sleep(3.0)
        await one.keep_alive(lease.id)
        await trio.sleep(4.0)
        await one.snapshot(b"")
        assert ("a", "lease 1 expired") not in site.told
        await trio.sleep(1.0)
    else:
        await (two if "another" in how else one).revoke(lease.id)
    await one.grant(5.0)
    assert site.reached == ["lease_retaken"] * (how != "revoked")
    assert ("a", f"lease 1 {how}") in site.told


async def test_leases_vanish_for_every_node_when_none_is_named(autojump_clock: MockClock) -> None:
    site = Site()
    for node in ("a", "b"):
        lease = await site.handle(node).grant(NEVER_S)
        await site.handle(node).put(node.encode(), b"", lease=lease.id)
    site.store.begin(fault("lease_loss"))
    assert await keys_of(site.store) == []


# disk_full.


async def test_full_disk_refuses_puts_and_leases_and_nothing_else(autojump_clock: MockClock) -> None:
    site = Site()
    await lease_in(site.store)
    registry = site.handle()
    await registry.put(b"old", b"")
    start = await revision_of(registry)
    site.store.begin(fault("disk_full"))
    refusals = (
        registry.put(b"new", b""),
        registry.transact((), {b"new": b""}, [b"old"]),
        registry.create(b"old", b""),  # it would not even have been put
        registry.grant(5.0),
    )
    for refusal in refusals:
        with pytest.raises(RegistryError, match="disk of the store is full") as caught:
            await refusal
        assert caught.value.kind == "unavailable"
    assert site.reached == ["store_full"] * 4
    assert await keys_of(site.store) == [b"leased", b"old"]
    async with registry.watch(b"", start) as watch:
        await registry.keep_alive(LEASE)
        await registry.delete(b"old")
        await registry.revoke(LEASE)
        assert await taken(watch) == [b"old", b"leased"]
    site.store.end(fault("disk_full"))
    await registry.put(b"new", b"")
    assert site.reached == ["store_full"] * 4


# What it tells.


async def test_what_is_told_of_one_node_is_bounded(autojump_clock: MockClock) -> None:
    site = Site()
    site.store.begin(fault("store_down"))
    for _ in range(TOLD_LINES + 10):
        with refused("unavailable"):
            await site.handle().snapshot(b"")
    with refused("unavailable"):
        await site.handle("b").snapshot(b"")
    assert len(site.told) == TOLD_LINES + 1
    assert site.told[TOLD_LINES - 1 :] == [
        ("a", "no more is told of this node and the store"),
        ("b", "refused snapshot: unreachable"),
    ]


def record(name: str, address: str) -> NodeRecord:
    return NodeRecord(name=name, public_key=bytes([9] + [0] * 31), addresses=(IPv4Interface(address),))


async def test_truth_is_read_by_name_and_address_and_shows_what_is_torn(autojump_clock: MockClock) -> None:
    site = Site()
    registry = site.handle()
    node = record("a", "10.1.0.1/24")
    value = encode_record(node)

    async def judged() -> str | None:
        return addresses_have_one_holder(site.store.members("net"), site.store.addresses("net"))

    lease = await registry.grant(5.0)
    keys = (node_key("net", "a"), address_key("net", node.addresses[0]))
    await registry.transact((), dict.fromkeys(keys, value), lease=lease.id)
    await registry.put(network_prefix("other") + b"nodes/b", b"")
    assert site.store.members("net") == {"a": value}
    assert site.store.addresses("net") == {"10.1.0.1": value}
    assert await judged() is None
    await registry.put(keys[0], encode_record(record("a", "10.1.0.2/24")), lease=lease.id)
    assert "whose record is another or none" in (await judged() or "")
    await registry.transact((), dict.fromkeys(keys, encode_record(record("a", "10.1.0.2/24"))), lease=lease.id)
    assert "does not have it" in (await judged() or "")
    await registry.put(keys[1], b"?", lease=lease.id)
    assert "cannot be read" in (await judged() or "")
    await trio.sleep(5.0)
    assert site.store.members("net") == site.store.addresses("net") == {}
