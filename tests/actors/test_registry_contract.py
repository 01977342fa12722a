"""What every back end of the registry promises about entries, transactions and watches."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from registry_back_ends import BACK_ENDS, BOUNDED, NAMES, BackEnd, BoundedBackEnd, gather, refused

from holloway.actors.registry import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Absent,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseId,
    Limits,
    ModRevisionIs,
    Put,
    RegistryPort,
    Transaction,
    ValueIs,
    Watch,
)
from holloway.actors.registry.limits import BATCH_CHANGES, ENTRY_OVERHEAD_BYTES, TRANSACTION_OPERATIONS_MAX
from holloway.protocols.errors import RegistryError


@pytest.fixture(params=NAMES)
def back_end(request: pytest.FixtureRequest, tmp_path: Path) -> BackEnd:
    return BACK_ENDS[request.param](tmp_path)


@pytest.fixture
def clock(back_end: BackEnd) -> trio.abc.Clock:
    """Found by pytest-trio, which runs the test by it."""
    return back_end.clock


async def test_new_store_is_empty_at_a_positive_revision(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        snapshot = await registry.snapshot(b"")
        assert snapshot.revision >= 1
        assert snapshot.entries == {}


async def test_entry_tells_its_creation_its_newest_put_and_their_number(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        first = (await registry.put(b"k", b"1")).revision
        second = (await registry.put(b"k", b"2")).revision
        assert (await registry.snapshot(b"k")).entries[b"k"] == Entry(b"2", first, second, 2, None)
        await registry.delete(b"k")
        third = (await registry.put(b"k", b"3")).revision
        assert (await registry.snapshot(b"k")).entries[b"k"] == Entry(b"3", third, third, 1, None)


async def test_each_change_moves_the_revision_by_one_and_nothing_else_does(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        assert (await registry.put(b"a", b"")).revision == start + 1
        assert (await registry.put(b"a", b"")).revision == start + 2
        assert (await registry.transact((), {b"b": b"", b"c": b""}, [b"a"])).revision == start + 3
        assert await registry.delete(b"a") == Transaction(True, start + 3)
        assert (await registry.create(b"b", b"")).revision == start + 3
        assert (await registry.transact()).revision == start + 3
        lease = await registry.grant(5.0)
        await registry.keep_alive(lease.id)
        await registry.revoke(lease.id)
        assert (await registry.snapshot(b"")).revision == start + 3


async def test_prefix_takes_the_keys_that_start_with_it_in_byte_order(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    keys = [
        b"\x00",
        b"a",
        b"a\x00",
        b"a/1",
        b"a\xff",
        b"a\xff\xff",
        b"b",
        b"\xff",
        b"\xff\xff",
        b"\xff" * KEY_BYTES_MAX,
    ]
    prefixes = [b"", b"a", b"a/", b"a\xff", b"b", b"\xff", b"\xff\xff", b"\xff" * KEY_BYTES_MAX, b"absent"]
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        for key in reversed(keys):
            last = (await registry.put(key, b"v")).revision
        for prefix in prefixes:
            expected = [key for key in keys if key.startswith(prefix)]
            assert list((await registry.snapshot(prefix)).entries) == expected
            if expected:
                async with registry.watch(prefix, start) as watch:
                    newest = start + len(keys) - keys.index(expected[0])
                    assert newest <= last
                    assert [change.key for change in await gather(watch, newest)] == expected[::-1]


async def test_compares_hold_as_their_names_say(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        revision = (await registry.put(b"k", b"")).revision
        holding: list[Compare] = [
            Absent(b"no"),
            ModRevisionIs(b"no", 0),
            ModRevisionIs(b"k", revision),
            ValueIs(b"k", b""),
        ]
        failing: list[Compare] = [
            Absent(b"k"),
            ModRevisionIs(b"k", 0),
            ModRevisionIs(b"k", revision + 1),
            ModRevisionIs(b"no", revision),
            ValueIs(b"k", b"x"),
            ValueIs(b"no", b""),
        ]
        assert (await registry.transact(holding)).succeeded
        for compare in failing:
            done = await registry.transact([*holding, compare], {b"new": b""}, [b"k"])
            assert not done.succeeded
            assert done.found == {b"k": Entry(b"", revision, revision, 1, None)}
        assert list((await registry.snapshot(b"")).entries) == [b"k"]


async def test_small_operations_are_the_transactions_they_name(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        made = await registry.create(b"k", b"1")
        assert made.succeeded
        assert not (await registry.create(b"k", b"2")).succeeded
        assert not (await registry.compare_and_put(b"k", made.revision - 1, b"2")).succeeded
        moved = await registry.compare_and_put(b"k", made.revision, b"2")
        assert moved.succeeded
        assert not (await registry.delete(b"k", mod_revision=made.revision)).succeeded
        assert (await registry.snapshot(b"")).entries[b"k"].value == b"2"
        assert (await registry.delete(b"k", mod_revision=moved.revision)).succeeded
        assert (await registry.compare_and_put(b"k", 0, b"3")).succeeded


async def test_of_many_that_create_one_key_exactly_one_wins_and_the_others_learn_who(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    rounds, racers = 200, 4
    async with back_end.handle() as one, back_end.handle() as two:
        for number in range(rounds):
            key, outcomes = b"claim/%d" % number, dict[bytes, Transaction]()

            async def claim(
                registry: RegistryPort, name: bytes, key: bytes = key, outcomes: dict[bytes, Transaction] = outcomes
            ) -> None:
                outcomes[name] = await registry.create(key, name)

            async with trio.open_nursery() as nursery:
                for racer in range(racers):
                    nursery.start_soon(claim, (one, two)[racer % 2], b"%d" % racer)
            winners = [name for name, done in outcomes.items() if done.succeeded]
            assert len(winners) == 1
            assert {done.found[key].value for done in outcomes.values() if not done.succeeded} == set(winners)


# Watches.


async def test_batch_holds_whole_transactions_puts_before_deletes(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        start = (await registry.transact((), {b"z": b"", b"y": b""})).revision
        last = (await registry.transact((), {b"c": b"", b"a": b""}, [b"z", b"y"])).revision
        async with registry.watch(b"", start) as watch:
            new = Entry(b"", last, last, 1, None)
            assert await watch.receive() == (Put(b"c", new), Put(b"a", new), Delete(b"z", last), Delete(b"y", last))


async def test_long_history_comes_in_bounded_batches_that_do_not_split_a_revision(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        for number in range(10):
            last = (await registry.transact((), {b"%d/%d" % (number, i): b"" for i in range(100)})).revision
        async with registry.watch(b"", start) as watch:
            first = await watch.receive()
            assert len(first) < 3 * BATCH_CHANGES
            rest = await gather(watch, last)
            keys = [change.key for change in (*first, *rest)]
            assert keys == [b"%d/%d" % (number, i) for number in range(10) for i in range(100)]


async def test_watch_waits_for_what_comes_and_ignores_what_is_elsewhere(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry, trio.open_nursery() as nursery:
        got: list[Change] = []

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            async with registry.watch(b"in/", (await registry.snapshot(b"in/")).revision) as watch:
                task_status.started()
                async for batch in watch:
                    got.extend(batch)
                    if batch[-1].key == b"in/end":
                        return

        with trio.fail_after(20):
            await nursery.start(follow)
            for key in (b"out/1", b"in/1", b"out/2", b"in/2", b"in/end"):
                await trio.testing.wait_all_tasks_blocked()
                await registry.put(key, b"")
    assert [change.key for change in got] == [b"in/1", b"in/2", b"in/end"]


async def test_handles_see_each_others_changes(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as one, back_end.handle() as two:
        start = (await two.snapshot(b"")).revision
        async with two.watch(b"", start) as watch, trio.open_nursery() as nursery:
            got: list[Change] = []

            async def follow() -> None:
                got.extend(await watch.receive())

            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            revision = (await one.put(b"k", b"v")).revision
            assert (await two.snapshot(b"")).revision == revision
        assert got == [Put(b"k", Entry(b"v", revision, revision, 1, None))]


async def test_closing_one_handle_leaves_the_others(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as one:
        async with back_end.handle() as two:
            await two.put(b"k", b"v")
        assert list((await one.snapshot(b"")).entries) == [b"k"]


async def test_cancelled_receive_ends_at_once_and_loses_nothing(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        async with registry.watch(b"", start) as watch:
            for number in range(5):
                before = time.perf_counter()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch.receive)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                assert time.perf_counter() - before < 0.5
                await registry.put(b"%d" % number, b"")
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await watch.receive()
                assert scope.cancelled_caught
                assert [change.key for change in await watch.receive()] == [b"%d" % number]


async def test_watch_serves_one_reader_at_a_time(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        async with registry.watch(b"", start) as watch, trio.open_nursery() as nursery:
            nursery.start_soon(watch.receive)
            await trio.testing.wait_all_tasks_blocked()
            with refused("denied"):
                await watch.receive()
            nursery.cancel_scope.cancel()


async def test_compacted_history_is_refused_and_a_new_snapshot_mends_it(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        start = (await registry.put(b"k", b"1")).revision
        await registry.put(b"k", b"2")
        await registry.put(b"k", b"3")
        await back_end.compact()
        with refused("compacted"):
            async with registry.watch(b"", start) as watch:
                await watch.receive()
        snapshot = await registry.snapshot(b"k")
        assert snapshot.entries[b"k"].value == b"3"
        async with registry.watch(b"k", snapshot.revision) as watch:
            last = (await registry.put(b"k", b"4")).revision
            assert [change.revision for change in await gather(watch, last)] == [last]


async def test_watch_that_was_not_read_while_history_went_gives_all_of_it_or_says_so(
    back_end: BackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.handle() as registry:
        start = (await registry.snapshot(b"")).revision
        async with registry.watch(b"k", start) as watch:
            for number in range(20):
                last = (await registry.put(b"k%d" % number, b"")).revision
            await back_end.compact()
            got: int | str
            try:
                got = len(await gather(watch, last))
            except RegistryError as error:
                got = error.kind
            assert got in (20, "compacted")


@pytest.mark.parametrize("limits", [Limits(history_changes=8), Limits(history_bytes=8 * 300)])
@pytest.mark.parametrize("back_end", BOUNDED, indirect=True)
async def test_watch_that_is_read_too_slowly_is_told_and_bounded_history_is_all_there(
    back_end: BoundedBackEnd, clock: trio.abc.Clock, limits: Limits
) -> None:
    async with back_end.small_handle(limits) as registry:
        start = (await registry.snapshot(b"")).revision
        async with registry.watch(b"", start) as slow, registry.watch(b"", start) as quick:
            for number in range(40):
                last = (await registry.put(b"%02d" % number, b"")).revision
                assert [change.revision for change in await quick.receive()] == [last]
            with refused("compacted"):
                await slow.receive()
        kept = 8 if limits.history_changes == 8 else 8 * 300 // (ENTRY_OVERHEAD_BYTES + 2)
        async with registry.watch(b"", last - kept) as recent:
            assert len(await gather(recent, last)) == kept
        with refused("compacted"):
            async with registry.watch(b"", last - kept - 1) as old:
                await old.receive()


@pytest.mark.parametrize("back_end", BOUNDED, indirect=True)
async def test_newest_revision_stays_in_the_history_whatever_its_size(
    back_end: BoundedBackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.small_handle(Limits(history_changes=2)) as registry:
        start = (await registry.put(b"a", b"")).revision
        last = (await registry.transact((), {b"%d" % i: b"" for i in range(50)})).revision
        async with registry.watch(b"", start) as watch:
            assert len(await gather(watch, last)) == 50


async def test_watch_from_a_revision_of_another_store_is_refused(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        ahead = (await registry.snapshot(b"")).revision + 1
        with refused("compacted"):
            async with registry.watch(b"", ahead) as watch:
                await watch.receive()


@pytest.mark.parametrize(
    "misuse",
    [
        pytest.param(lambda r: r.put(b"", b""), id="empty key"),
        pytest.param(lambda r: r.put(b"k" * (KEY_BYTES_MAX + 1), b""), id="long key"),
        pytest.param(lambda r: r.put("k", b""), id="text as key"),
        pytest.param(lambda r: r.put(b"k", b"v" * (VALUE_BYTES_MAX + 1)), id="long value"),
        pytest.param(lambda r: r.put(b"k", "v"), id="text as value"),
        pytest.param(lambda r: r.transact([Absent(b"")]), id="empty compared key"),
        pytest.param(lambda r: r.transact((), {b"a": b"", b"k": b""}, [b"k"]), id="put and deleted"),
        pytest.param(lambda r: r.transact((), {b"a": b""}, [b"k", b"k"]), id="deleted twice"),
        pytest.param(
            lambda r: r.transact((), {b"%d" % i: b"" for i in range(TRANSACTION_OPERATIONS_MAX + 1)}), id="many puts"
        ),
        pytest.param(lambda r: r.transact([Absent(b"k")] * (TRANSACTION_OPERATIONS_MAX + 1)), id="many compares"),
        pytest.param(
            lambda r: r.transact((), {b"%d" % i: b"v" * VALUE_BYTES_MAX for i in range(17)}), id="big transaction"
        ),
        pytest.param(lambda r: r.snapshot(b"k" * (KEY_BYTES_MAX + 1)), id="long prefix"),
        pytest.param(lambda r: r.watch(b"", -1).__aenter__(), id="negative revision"),
        pytest.param(lambda r: r.watch(b"", 2**63).__aenter__(), id="huge revision"),
        pytest.param(lambda r: r.grant(0.0), id="no time"),
        pytest.param(lambda r: r.grant(float("nan")), id="not a time"),
        pytest.param(lambda r: r.grant(float("inf")), id="for ever"),
    ],
)
async def test_misuse_is_denied_and_changes_nothing(
    back_end: BackEnd, clock: trio.abc.Clock, misuse: Callable[[RegistryPort], Awaitable[object]]
) -> None:
    async with back_end.handle() as registry:
        before = await registry.snapshot(b"")
        with refused("denied"):
            await misuse(registry)
        assert await registry.snapshot(b"") == before


async def test_largest_key_value_and_transaction_are_taken(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        key, value = b"k" * KEY_BYTES_MAX, b"\xff" * VALUE_BYTES_MAX
        await registry.put(key, value)
        assert (await registry.snapshot(key)).entries[key].value == value
        await registry.transact((), {b"%d" % i: b"" for i in range(TRANSACTION_OPERATIONS_MAX)})
        assert len((await registry.snapshot(b"")).entries) == TRANSACTION_OPERATIONS_MAX + 1


@pytest.mark.parametrize("back_end", BOUNDED, indirect=True)
async def test_full_store_refuses_whole_transactions_until_there_is_room(
    back_end: BoundedBackEnd, clock: trio.abc.Clock
) -> None:
    async with back_end.small_handle(Limits(store_bytes=100_000)) as registry:
        await registry.put(b"a", bytes(60_000))
        before = await registry.snapshot(b"")
        with refused("unavailable"):
            await registry.transact((), {b"tiny": b"", b"b": bytes(60_000)}, [])
        assert await registry.snapshot(b"") == before
        assert (await registry.transact((), {b"b": bytes(60_000)}, [b"a"])).succeeded
        with refused("unavailable"):
            await registry.put(b"a", bytes(60_000))
        await registry.put(b"c", bytes(38_000))
        with refused("unavailable"):
            for number in range(10_000):  # empty values fill a store too
                await registry.put(b"%d" % number, b"")
        await registry.delete(b"b")
        await registry.put(b"a", bytes(60_000))


async def test_closed_handle_refuses_and_wakes_its_watches(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry, back_end.handle() as other, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with registry.watch(b"", (await registry.snapshot(b"")).revision) as watch:
                with refused("unavailable"):
                    await watch.receive()
            with refused("unavailable"):
                await watch.receive()

        for _ in range(3):
            nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.1)
        with trio.fail_after(20):
            await registry.close()
            await registry.close()
        for call in (
            lambda: registry.snapshot(b""),
            lambda: registry.put(b"k", b""),
            lambda: registry.grant(5.0),
            lambda: registry.keep_alive(LeaseId(1)),
            lambda: registry.revoke(LeaseId(1)),
            lambda: registry.watch(b"", 1).__aenter__(),
        ):
            with refused("unavailable"):
                await call()
        assert (await other.snapshot(b"")).entries == {}


async def test_watch_that_was_left_wakes_its_reader(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry, trio.open_nursery() as nursery:

        async def read(watch: Watch) -> None:
            with refused("unavailable"):
                await watch.receive()

        with trio.fail_after(20):
            async with registry.watch(b"", (await registry.snapshot(b"")).revision) as watch:
                nursery.start_soon(read, watch)
                await trio.testing.wait_all_tasks_blocked()


async def test_cancelled_transaction_is_done_or_not_and_says_which(back_end: BackEnd, clock: trio.abc.Clock) -> None:
    async with back_end.handle() as registry:
        for number in range(30):
            done: list[Transaction] = []

            async def put(key: bytes = b"%d" % number, done: list[Transaction] = done) -> None:
                done.append(await registry.transact((), {key: b"", key + b"'": b""}))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(put)
                for _ in range(number % 6):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            present = [key for key in (await registry.snapshot(b"")).entries if key.startswith(b"%d" % number)]
            assert (len(present) == 2) == bool(done)
            await registry.transact((), {}, present)
