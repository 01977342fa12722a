"""The registry in etcd, beyond the contract: a real server holds what others wrote, forgets, and stops answering."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from etcd_back_end import InEtcd, until_done
from etcd_servers import EtcdServer, etcd_server, fresh_prefix, needs_etcd, shared_server
from registry_back_ends import gather, refused

from holloway.actors.registry import (
    VALUE_BYTES_MAX,
    Delete,
    LeaseLostError,
    Put,
    RegistryPort,
    Transaction,
    open_registry,
)
from holloway.actors.registry.etcd import PAGE_ENTRIES, open_etcd
from holloway.actors.registry.etcd_client import MESSAGE_BYTES_MAX, EtcdTiming
from holloway.actors.registry.etcd_url import parse_etcd_url
from holloway.protocols.errors import RegistryError

pytestmark = needs_etcd

HURRIED = EtcdTiming(call_s=2.0, connect_s=1.0, ping_every_s=0.5, ping_timeout_s=0.5)


@pytest.fixture
def server() -> EtcdServer:
    return shared_server()


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


@asynccontextmanager
async def registry_at(server: EtcdServer, prefix: str) -> AsyncIterator[RegistryPort]:
    async with open_registry(server.url(prefix), wall_ns=time.time_ns) as registry:
        yield registry


# What others wrote.


async def test_prefix_of_the_url_stands_before_every_key_and_is_not_seen(server: EtcdServer, prefix: str) -> None:
    async with registry_at(server, prefix) as registry, registry_at(server, "/") as everything:
        start = (await everything.snapshot(b"")).revision
        await registry.put(b"k", b"v")
        await everything.put(prefix.encode()[:-1] + b"0next", b"")  # the first key behind the prefix
        assert list((await registry.snapshot(b"")).entries) == [b"k"]
        async with everything.watch(prefix.encode(), start) as watch:
            assert [change.key for change in await watch.receive()] == [prefix.encode() + b"k"]
        assert (await registry.create(b"k", b"")).found[b"k"].value == b"v"


async def test_hostile_keys_and_values_are_handed_over_as_they_are(server: EtcdServer, prefix: str) -> None:
    """No text, and larger than we would write ourselves: of such a value no more is kept than shows that."""
    big = {b"\xff\xfe/\x80": b"\x00" * 1_000_000, b"k" * 5_000: b"\xff" * 1_000_000, b"": b"empty", b"\n{": b"}"}
    kept = {key: value[: VALUE_BYTES_MAX + 1] for key, value in big.items()}
    async with registry_at(server, prefix) as registry:
        start = (await registry.snapshot(b"")).revision
        last = [server.put(prefix.encode() + key, value) for key, value in big.items()][-1]
        entries = (await registry.snapshot(b"")).entries
        assert {key: entry.value for key, entry in entries.items()} == kept
        async with registry.watch(b"", start) as watch:
            changes = await gather(watch, last)
        assert {change.key: change.entry.value for change in changes if isinstance(change, Put)} == kept
        assert (await registry.create(b"\n{", b"")).found[b"\n{"].value == b"}"


async def test_many_keys_come_in_one_snapshot_of_one_revision(
    server: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with registry_at(server, prefix) as registry, registry_at(server, prefix) as other:
        for start in range(0, 10_000, 128):
            keys = range(start, min(start + 128, 10_000))
            revision = (await registry.transact((), {b"%05d" % number: b"v" for number in keys})).revision
        snapshots = []
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                snapshots.append(await registry.snapshot(b""))

            async def disturb() -> None:
                for number in range(50):
                    await other.delete(b"%05d" % (9_999 - number))

            nursery.start_soon(look)
            nursery.start_soon(disturb)
        (snapshot,) = snapshots
        missing = snapshot.revision - revision
        assert 0 <= missing <= 50
        assert list(snapshot.entries) == [b"%05d" % number for number in range(10_000 - missing)]
        assert 2 * PAGE_ENTRIES < 10_000


async def test_snapshot_larger_than_one_message_comes_all_the_same(server: EtcdServer, prefix: str) -> None:
    values = {b"%03d" % number: b"%d" % (number % 10) * VALUE_BYTES_MAX for number in range(272)}
    assert sum(map(len, values.values())) > MESSAGE_BYTES_MAX
    async with registry_at(server, prefix) as registry:
        start = (await registry.snapshot(b"")).revision
        for first in range(0, len(values), 8):
            await registry.transact((), {key: values[key] for key in sorted(values)[first : first + 8]})
        entries = (await registry.snapshot(b"")).entries
        assert {key: entry.value for key, entry in entries.items()} == values
        # A watch that is so far behind is told to take one.
        with refused("compacted"):
            async with registry.watch(b"", start) as watch:
                await watch.receive()


# Watches.


async def test_watch_that_is_not_read_holds_up_nothing_else_and_loses_nothing(server: EtcdServer, prefix: str) -> None:
    async with registry_at(server, prefix) as registry:
        start = (await registry.snapshot(b"")).revision
        async with registry.watch(b"", start) as unread:
            await registry.put(b"first", b"")
            assert [change.key for change in await unread.receive()] == [b"first"]
            for number in range(160):
                last = (await registry.put(b"%d" % (number % 10), bytes(60_000))).revision
            assert len((await registry.snapshot(b"")).entries) == 11
            assert len(await gather(unread, last)) == 160


async def test_deletion_at_the_compacted_revision_is_never_lost_in_silence(server: EtcdServer, prefix: str) -> None:
    """etcd forgets the deletion, but would serve a watch from its revision on."""
    async with registry_at(server, prefix) as registry:
        start = (await registry.put(b"k", b"v")).revision
        assert (await registry.delete(b"k")).revision == start + 1
        await trio.to_thread.run_sync(server.compact)
        await registry.put(b"other", b"")
        with refused("compacted"):
            async with registry.watch(b"", start) as watch:
                await watch.receive()


async def test_watch_that_failed_fails_again(server: EtcdServer, prefix: str) -> None:
    async with registry_at(server, prefix) as registry:
        ahead = (await registry.snapshot(b"")).revision + 1_000
        async with registry.watch(b"", ahead) as watch:
            for _ in range(2):
                with refused("compacted"):
                    await watch.receive()


# Handles and tasks.


async def test_eight_tasks_on_handles_of_their_own_claim_fifty_keys_and_each_has_one_owner() -> None:
    back_end, owners = InEtcd(None), dict[bytes, set[bytes]]()  # type: ignore[arg-type]
    wins: list[tuple[bytes, bytes]] = []

    async def claim(name: bytes) -> None:
        async with back_end.handle() as registry:
            for number in range(50):
                key = b"claim/%02d" % ((number + 7 * int(name)) % 50)
                done: Transaction = await registry.create(key, name)
                wins.extend([(key, name)] * done.succeeded)
                owners.setdefault(key, set()).add(name if done.succeeded else done.found[key].value)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(claim, b"%d" % number)
    assert len(wins) == len(owners) == 50
    assert {key: {name} for key, name in wins} == owners


async def test_handle_serves_tasks_that_are_not_its_openers_children(server: EtcdServer, prefix: str) -> None:
    async with trio.open_nursery() as outer:
        send, handles = trio.open_memory_channel[RegistryPort](0)

        async def use() -> None:
            registry = await handles.receive()
            start = (await registry.put(b"k", b"v")).revision
            async with registry.watch(b"", start - 1) as watch:
                await watch.receive()
            done.set()

        done = trio.Event()
        outer.start_soon(use)
        async with registry_at(server, prefix) as registry:
            await send.send(registry)
            await done.wait()


async def test_error_in_the_body_comes_out_as_it_is(server: EtcdServer, prefix: str) -> None:
    with pytest.raises(KeyError):
        async with registry_at(server, prefix):
            raise KeyError


async def test_handles_that_come_and_go_at_once_leave_no_task_behind(server: EtcdServer, prefix: str) -> None:
    before = trio.lowlevel.current_statistics().tasks_living

    async def visit(number: int) -> None:
        for _ in range(3):
            with trio.move_on_after(0.002 * number):
                async with registry_at(server, prefix) as registry:
                    start = (await registry.put(b"%d" % number, b"")).revision
                    async with registry.watch(b"", start) as watch:
                        while True:
                            await watch.receive()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(visit, number)
    assert trio.lowlevel.current_statistics().tasks_living == before


# Leases.


async def test_lease_that_somebody_else_revokes_is_lost_at_the_next_beat(server: EtcdServer, prefix: str) -> None:
    async with registry_at(server, prefix) as registry:
        lease = await registry.grant(5.0)
        start = (await registry.put(b"k", b"", lease=lease.id)).revision
        await registry.keep_alive(lease.id)
        await trio.to_thread.run_sync(server.ask, "/v3/kv/lease/revoke", {"ID": str(lease.id)})
        with refused("unavailable", LeaseLostError):
            await registry.keep_alive(lease.id)
        with refused("unavailable", LeaseLostError):
            await registry.put(b"k", b"", lease=lease.id)
        async with registry.watch(b"", start) as watch:
            assert await watch.receive() == (Delete(b"k", start + 1),)


async def test_lease_of_a_part_of_a_second_is_rounded_up(server: EtcdServer, prefix: str) -> None:
    async with registry_at(server, prefix) as registry:
        lease = await registry.grant(2.1)
        assert lease.ttl_s == 3.0
        await registry.revoke(lease.id)


# A server that stops answering.


async def test_cancellation_is_prompt_though_the_server_says_nothing(server: EtcdServer, prefix: str) -> None:
    """Every call, on a connection that was made before and on one that is being made."""
    address = parse_etcd_url(server.url(prefix))
    async with open_etcd(address) as old, open_etcd(address) as new:
        lease = await old.grant(60.0)

        async def watch(registry: RegistryPort) -> None:
            async with registry.watch(b"", 1) as watch:
                while True:
                    await watch.receive()

        with server.frozen():
            for registry in (old, new):
                for call in (
                    lambda r: r.put(b"k", b""),
                    lambda r: r.snapshot(b""),
                    lambda r: r.keep_alive(lease.id),
                    watch,
                ):
                    with trio.move_on_after(0.05) as scope:
                        await call(registry)
                    late_s = trio.current_time() - scope.deadline
                    assert scope.cancelled_caught
                    assert late_s < 0.4  # of which 0.05 s are left to an answer that is under way
            with trio.move_on_after(0.05) as scope:
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(old.put, b"%d" % number, b"")
            assert trio.current_time() - scope.deadline < 1.0
        await old.revoke(lease.id)


async def test_closing_does_not_wait_for_a_server_that_says_nothing(server: EtcdServer, prefix: str) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery, open_etcd(parse_etcd_url(server.url(prefix))) as registry:
            start = (await registry.snapshot(b"")).revision

            async def stay() -> None:
                with refused("unavailable"):
                    await registry.put(b"k", b"")

            async def follow() -> None:
                async with registry.watch(b"", start) as watch:
                    with refused("unavailable"):
                        await watch.receive()

            nursery.start_soon(follow)
            await trio.sleep(0.2)
            with server.frozen():
                nursery.start_soon(stay)
                await trio.sleep(0.05)
                began = trio.current_time()
                await registry.close()
                assert trio.current_time() - began < 0.5


async def test_server_that_stops_answering_is_noticed_and_a_new_watch_loses_nothing(
    server: EtcdServer, prefix: str
) -> None:
    assert EtcdTiming().ping_every_s + EtcdTiming().ping_timeout_s <= 10.0
    async with open_etcd(parse_etcd_url(server.url(prefix)), HURRIED) as registry:
        start = (await registry.put(b"1", b"")).revision
        async with registry.watch(b"", start) as watch:
            await registry.put(b"2", b"")
            assert [change.key for change in await watch.receive()] == [b"2"]
            with server.frozen():
                began = trio.current_time()
                with trio.fail_after(10), refused("unavailable"):
                    await watch.receive()
                assert trio.current_time() - began < HURRIED.ping_every_s + HURRIED.ping_timeout_s + 2.0
                with pytest.raises(RegistryError, match=r"does not answer|stopped answering|no answer"):
                    await registry.put(b"lost", b"")
        with trio.fail_after(10):
            last = await until_done(registry, b"3")
            async with registry.watch(b"", start) as watch:
                keys = [change.key for change in await gather(watch, last)]
        assert [key for key in keys if key != b"lost"] == [b"2", b"3"]  # what had no answer may have been done


async def test_call_to_where_nobody_listens_says_so_at_once() -> None:
    address = parse_etcd_url("etcd://127.0.0.1:9,localhost:9")
    async with open_etcd(address) as registry:
        with trio.fail_after(2), pytest.raises(RegistryError, match="connection refused") as caught:
            await registry.snapshot(b"")
        assert "127.0.0.1:9" in caught.value.what
        assert caught.value.kind == "unavailable"


async def test_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(RegistryError, match=r"nowhere\.invalid") as caught:
        async with open_etcd(parse_etcd_url("etcd://nowhere.invalid")):
            pytest.fail("it opened")
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"])
async def test_hosts_may_be_names_or_addresses_of_both_families(server: EtcdServer, prefix: str, host: str) -> None:
    async with open_etcd(parse_etcd_url(f"etcd://{host}:{server.port},127.0.0.2:9{prefix}")) as registry:
        assert (await registry.put(b"k", b"")).succeeded


# A server that goes away.


async def test_restart_is_told_promptly_and_a_watch_from_the_last_revision_loses_nothing() -> None:
    with etcd_server() as server:
        async with registry_at(server, "/p/") as registry, registry_at(server, "/p/") as other:
            lease = await registry.grant(60.0)
            start = last = (await registry.put(b"0", b"", lease=lease.id)).revision
            seen: list[bytes] = []
            async with registry.watch(b"", start) as watch:
                last = (await registry.put(b"1", b"")).revision
                seen += [change.key for change in await gather(watch, last)]
                await trio.to_thread.run_sync(server.kill)
                with trio.fail_after(2), pytest.raises(RegistryError, match=r"connection broke|hung up|refused"):
                    await watch.receive()
            with refused("unavailable"):
                await registry.put(b"away", b"")
            await trio.to_thread.run_sync(server.start)
            await until_done(other, b"2")
            newest = await until_done(registry, b"3")
            async with registry.watch(b"", last) as watch:
                seen += [change.key for change in await gather(watch, newest)]
            assert seen == [b"1", b"2", b"3"]
            await registry.keep_alive(lease.id)  # the lease outlived the server
