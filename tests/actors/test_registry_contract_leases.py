"""What every back end of the registry promises about leases."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from registry_back_ends import BACK_ENDS, NAMES, BackEnd, refused

from holloway.actors.registry import (
    Change,
    Delete,
    Entry,
    LeaseId,
    LeaseLostError,
    Put,
    Snapshot,
)
from holloway.actors.registry.limits import BATCH_CHANGES


@pytest.fixture(params=NAMES)
def back_end(request: pytest.FixtureRequest, tmp_path: Path) -> BackEnd:
    return BACK_ENDS[request.param](tmp_path)


@pytest.fixture
def clock(back_end: BackEnd) -> trio.abc.Clock:
    """Found by pytest-trio, which runs the test by it."""
    return back_end.clock


async def test_lease_that_is_not_kept_takes_its_keys_with_it_at_one_revision(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        lease = await registry.grant(2.0)
        assert lease.ttl_s >= 2.0
        await registry.transact((), {b"b": b"", b"a": b"", b"c": b""}, lease=lease.id)
        start = (await registry.put(b"stays", b"")).revision
        assert (await registry.snapshot(b"")).entries[b"a"].lease == lease.id
        await back_end.pass_time(1.9)
        assert list((await registry.snapshot(b"")).entries) == [b"a", b"b", b"c", b"stays"]
        await back_end.pass_time(0.2 + back_end.late_s)
        snapshot = await registry.snapshot(b"")
        assert list(snapshot.entries) == [b"stays"]
        assert snapshot.revision == start + 1
        async with registry.watch(b"", start) as watch:
            assert await watch.receive() == tuple(Delete(key, start + 1) for key in (b"a", b"b", b"c"))
        with refused("unavailable", LeaseLostError):
            await registry.keep_alive(lease.id)


@pytest.mark.parametrize("whose", ["its own handle's", "another's"])
async def test_waiting_watch_hears_of_an_expiry_that_nobody_causes(
    back_end: BackEnd, clock: trio.abc.Clock, whose: str
) -> None:
    async with back_end.handle() as two, back_end.handle() as other:
        one = two if whose == "its own handle's" else other
        start = (await two.snapshot(b"")).revision
        async with two.watch(b"", start) as watch, trio.open_nursery() as nursery:
            got: list[tuple[float, tuple[Change, ...]]] = []

            async def follow() -> None:
                while not got or isinstance(got[-1][1][-1], Put):
                    batch = await watch.receive()
                    got.append((trio.current_time(), batch))

            nursery.start_soon(follow)
            await trio.sleep(0.1)
            long = await one.grant(60.0)  # the watch must not sleep until this one ends
            await one.put(b"long", b"", lease=long.id)
            short = await one.grant(2.0)
            granted_at = trio.current_time()
            await one.put(b"short", b"", lease=short.id)
            await back_end.pass_time(2.0)
        at, batch = got[-1]
        assert [change.key for change in batch if isinstance(change, Delete)] == [b"short"]
        assert granted_at + 1.9 <= at <= granted_at + 2.0 + back_end.late_s


async def test_lease_kept_alive_lives_and_ends_its_time_after_the_last_beat(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        lease = await registry.grant(3.0)
        await registry.put(b"k", b"", lease=lease.id)
        for _ in range(2):
            await back_end.pass_time(2.0)
            await registry.keep_alive(lease.id)
        assert list((await registry.snapshot(b"")).entries) == [b"k"]
        await back_end.pass_time(3.1 + back_end.late_s)
        assert (await registry.snapshot(b"")).entries == {}


async def test_revoked_lease_takes_its_keys_with_it_at_one_revision(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry, back_end.handle() as other:
        lease = await registry.grant(60.0)
        start = (await registry.transact((), {b"b": b"", b"a": b""}, lease=lease.id)).revision
        await other.revoke(lease.id)
        async with registry.watch(b"", start) as watch:
            assert await watch.receive() == (Delete(b"a", start + 1), Delete(b"b", start + 1))
        assert (await registry.snapshot(b"")).revision == start + 1
        await registry.revoke(lease.id)
        assert (await registry.snapshot(b"")).revision == start + 1


async def test_lease_with_more_keys_than_a_batch_ends_in_one_batch(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        lease = await registry.grant(60.0)
        for number in range(3):
            puts = {b"%d/%03d" % (number, i): b"" for i in range(100)}
            start = (await registry.transact((), puts, lease=lease.id)).revision
        await registry.revoke(lease.id)
        with trio.fail_after(20):
            async with registry.watch(b"", start) as watch:
                keys = [b"%d/%03d" % (number, i) for number in range(3) for i in range(100)]
                assert len(keys) > BATCH_CHANGES
                assert await watch.receive() == tuple(Delete(key, start + 1) for key in keys)


async def test_nothing_is_put_under_a_lease_that_is_gone(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        lease = await registry.grant(60.0)
        await registry.revoke(lease.id)
        before = await registry.put(b"k", b"1")
        for gone in (lease.id, LeaseId(0), LeaseId(-1), LeaseId(2**63 - 1), LeaseId(2**64)):
            with refused("unavailable", LeaseLostError):
                await registry.transact((), {b"k": b"2"}, [b"l"], lease=gone)
            with refused("unavailable", LeaseLostError):
                await registry.keep_alive(gone)
        assert await registry.snapshot(b"") == Snapshot(
            before.revision, {b"k": Entry(b"1", before.revision, before.revision, 1, None)}
        )


async def test_key_follows_the_lease_of_its_newest_put(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        one, two = await registry.grant(60.0), await registry.grant(60.0)
        assert one.id != two.id
        for key in (b"freed", b"moved", b"remade", b"kept"):
            await registry.put(key, b"", lease=one.id)
        await registry.put(b"freed", b"")
        await registry.put(b"moved", b"", lease=two.id)
        await registry.delete(b"remade")
        await registry.put(b"remade", b"")
        await registry.revoke(one.id)
        assert list((await registry.snapshot(b"")).entries) == [b"freed", b"moved", b"remade"]
        await registry.revoke(two.id)
        assert list((await registry.snapshot(b"")).entries) == [b"freed", b"remade"]


async def test_lease_outlives_the_handle_that_took_it(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as other:
        async with back_end.handle() as registry:
            lease = await registry.grant(60.0)
            await registry.put(b"k", b"", lease=lease.id)
        await other.keep_alive(lease.id)
        assert list((await other.snapshot(b"")).entries) == [b"k"]
