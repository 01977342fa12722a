"""The registry in a file between processes: news, crashes, locks, and clocks that jump."""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from registry_back_ends import gather, refused

from holloway.actors.registry import Changes, Delete, Limits, Put, RegistryPort
from holloway.actors.registry.sqlite import BUSY_S, SqliteRegistry, open_sqlite


def open_now(path: Path, limits: Limits = Limits()) -> AbstractAsyncContextManager[SqliteRegistry]:  # noqa: B008
    return open_sqlite(path, wall_ns=time.time_ns, limits=limits)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.db"


PRELUDE = """
import sys, time, trio
from pathlib import Path
from holloway.actors.registry.sqlite import open_sqlite
def opened(): return open_sqlite(Path(sys.argv[1]), wall_ns=time.time_ns)
"""


@asynccontextmanager
async def child(code: str, path: Path) -> AsyncIterator[trio.Process]:
    """Another process that runs `code`; killed with SIGKILL at the end, if not before. It says when it is ready."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", code, os.fspath(path)], stdin=-1, stdout=-1, stderr=None
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(20):
            assert (await process.stdout.receive_some()).startswith(b"ready")
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.aclose()
        await process.stdout.aclose()


# Other processes.


async def test_change_of_another_process_is_noticed_within_a_third_of_a_second(path: Path) -> None:
    echo = (
        PRELUDE
        + """
async def main():
    async with opened() as registry:
        async with registry.watch(b"there/", (await registry.snapshot(b"")).revision) as watch:
            print("ready", flush=True)
            async for batch in watch:
                await registry.put(b"back/", b"%s %d" % (batch[-1].entry.value, time.monotonic_ns()))
trio.run(main)
"""
    )
    async with open_now(path) as registry, child(echo, path):
        delays_s: list[float] = []
        async with registry.watch(b"back/", (await registry.snapshot(b"")).revision) as watch:
            for number in range(3):
                await trio.sleep(0.7)  # long enough for the other to look as seldom as it ever does
                written_ns = time.monotonic_ns()
                await registry.put(b"there/", b"%d" % number)
                with trio.fail_after(20):
                    (change,) = await watch.receive()
                assert isinstance(change, Put)
                name, seen_ns = change.entry.value.split()
                assert name == b"%d" % number
                delays_s.append((int(seen_ns) - written_ns) / 1e9)
    assert statistics.median(delays_s) < 0.3


async def test_keys_of_a_killed_process_go_with_its_lease(path: Path) -> None:
    holder = (
        PRELUDE
        + """
async def main():
    async with opened() as registry:
        lease = await registry.grant(0.8)
        await registry.put(b"mine", b"", lease=lease.id)
        print("ready", flush=True)
        while True:
            await trio.sleep(0.1)
            await registry.keep_alive(lease.id)
trio.run(main)
"""
    )
    async with open_now(path) as registry, child(holder, path) as process:
        revision = (await registry.snapshot(b"")).revision
        async with registry.watch(b"", revision) as watch:
            with trio.move_on_after(1.2):
                await watch.receive()
                pytest.fail("a lease that was kept alive ended")
            process.kill()
            killed_at = trio.current_time()
            with trio.fail_after(20):
                assert await watch.receive() == (Delete(b"mine", revision + 1),)
            assert trio.current_time() - killed_at < 2.0


async def test_writer_killed_in_a_transaction_leaves_nothing_of_it_and_no_lock(path: Path) -> None:
    writer = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 4")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE state SET revision = revision + 1000")
for n in range(100):
    db.execute("INSERT INTO entries VALUES (?, ?, 1, 1, 1, NULL)", (b"half%d" % n, bytes(30000)))
print("ready", flush=True)
sys.stdin.read()
"""
    async with open_now(path) as registry:
        before = await registry.put(b"k", b"1")
        async with child(writer, path) as process:
            assert os.stat(f"{path}-wal").st_size > 1_000_000, "nothing of the half transaction was on disk"
            assert (await registry.snapshot(b"")).revision == before.revision
            with trio.move_on_after(0.3) as scope:
                await registry.put(b"k", b"blocked")
            assert scope.cancelled_caught
            process.kill()
            await process.wait()
            with trio.fail_after(20):
                assert (await registry.put(b"k", b"2")).revision == before.revision + 1
    async with open_now(path) as registry:
        assert list((await registry.snapshot(b"")).entries) == [b"k"]


async def test_processes_killed_at_any_moment_leave_only_whole_transactions(path: Path) -> None:
    writer = (
        PRELUDE
        + """
async def main():
    async with opened() as registry:
        print("ready", flush=True)
        name = b"%d" % time.time_ns()
        for n in range(1_000_000):
            value = b"%d" % n * 1000
            await registry.transact((), {b"left/" + name: value, b"right/" + name: value})
trio.run(main)
"""
    )
    async with open_now(path) as registry:
        start = (await registry.snapshot(b"")).revision
        async with child(writer, path) as one, child(writer, path) as two, child(writer, path) as three:
            for process in (one, two, three):
                await trio.sleep(0.07)
                process.kill()
        left, right = await registry.snapshot(b"left/"), await registry.snapshot(b"right/")
        values = [entry.value for entry in left.entries.values()]
        assert values == [entry.value for entry in right.entries.values()]
        assert left.revision - start == sum(entry.version for entry in left.entries.values()) > 3
        async with registry.watch(b"", left.revision - 3) as watch:
            changes = await gather(watch, left.revision)
            assert [change.revision - left.revision for change in changes] == [-2, -2, -1, -1, 0, 0]


async def test_idle_watches_leave_the_processor_alone(path: Path) -> None:
    async with open_now(path) as registry, trio.open_nursery() as nursery:
        start = (await registry.snapshot(b"")).revision

        async def follow() -> None:
            async with registry.watch(b"", start) as watch:
                await watch.receive()

        for _ in range(20):
            nursery.start_soon(follow)
        await trio.sleep(0.4)
        before = time.process_time()
        await trio.sleep(1.0)
        spent = time.process_time() - before
        nursery.cancel_scope.cancel()
    assert spent < 0.03


async def test_when_the_reader_that_asks_for_all_gives_up_another_takes_over(path: Path) -> None:
    async with open_now(path) as registry, open_now(path) as other, trio.open_nursery() as nursery:
        start = (await registry.snapshot(b"")).revision
        got: list[str] = []
        all_got = trio.Event()

        async def follow(name: str, scope: trio.CancelScope) -> None:
            async with registry.watch(b"", start) as watch:
                with scope:
                    await watch.receive()
                    got.append(name)
                if len(got) == 2:
                    all_got.set()
                await all_got.wait()

        scopes = [trio.CancelScope() for _ in range(3)]
        for number, scope in enumerate(scopes):
            nursery.start_soon(follow, "abc"[number], scope)
            await trio.sleep(0.05)
        scopes[0].cancel()
        await trio.sleep(0.05)
        with trio.fail_after(20):
            await other.put(b"k", b"")
            await all_got.wait()
        assert sorted(got) == ["b", "c"]


@pytest.mark.timeout(30)
async def test_own_changes_and_closing_reach_a_watch_without_any_time_passing(
    path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with open_now(path) as registry, trio.open_nursery() as nursery:
        lease = await registry.grant(60.0)
        start = (await registry.snapshot(b"")).revision
        heard: list[Changes] = []
        news = trio.Event()

        async def follow() -> None:
            nonlocal news
            async with registry.watch(b"", start) as watch:
                with refused("unavailable"):
                    async for batch in watch:
                        heard.append(batch)
                        news.set()
                        news = trio.Event()

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked(cushion=0.05)  # real time: a thread may be at work
        for act in (lambda: registry.put(b"k", b"", lease=lease.id), lambda: registry.revoke(lease.id)):
            waiting = news
            await act()
            await waiting.wait()
            await trio.testing.wait_all_tasks_blocked(cushion=0.05)  # real time: a thread may be at work
        await registry.close()
    assert [type(change) for batch in heard for change in batch] == [Put, Delete]
    assert mock_clock.current_time() == 0.0


# Locks and opening.


async def test_cancelled_close_closes_the_file(path: Path) -> None:
    async with open_now(path) as registry:
        await registry.put(b"k", b"")
        assert os.path.exists(f"{path}-wal")  # noqa: ASYNC240
        with trio.CancelScope() as scope:
            scope.cancel()
            await registry.close()
        assert not os.path.exists(f"{path}-wal")  # noqa: ASYNC240


async def test_many_may_open_a_new_file_at_once(path: Path) -> None:
    count = 8

    async def use(name: bytes) -> None:
        async with open_now(path) as registry:
            await registry.put(name, b"")

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(use, b"%d" % number)
    async with open_now(path) as registry:
        snapshot = await registry.snapshot(b"")
        assert sorted(entry.mod_revision for entry in snapshot.entries.values()) == list(range(2, count + 2))


async def test_lock_that_stays_makes_the_registry_unavailable_but_readable(path: Path) -> None:
    clock = trio.testing.MockClock(rate=1.0)

    async def main() -> None:
        async with open_sqlite(path, wall_ns=lambda: int(trio.current_time() * 1e9)) as registry:
            await registry.put(b"k", b"v", lease=(await registry.grant(2.0)).id)
            blocker = sqlite3.connect(path, isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put_in_vain, registry)
                nursery.start_soon(open_in_vain)
                await trio.sleep(0.2)
                clock.jump(3.0)
                with trio.fail_after(1.0):
                    # The lease is over, but nobody can end it now: that is no reason to see nothing.
                    assert list((await registry.snapshot(b"")).entries) == [b"k"]
                clock.jump(BUSY_S)
            blocker.execute("ROLLBACK")
            blocker.close()
            await registry.put(b"l", b"w")
            assert list((await registry.snapshot(b"")).entries) == [b"l"]

    async def put_in_vain(registry: RegistryPort) -> None:
        with refused("unavailable"):
            await registry.put(b"k", b"x")

    async def open_in_vain() -> None:
        with refused("unavailable"):
            await open_now(path).__aenter__()

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


# Clocks. The monotonic clock is the test's; the wall clock is that plus `offset_s`, which may jump.


class Clocks:
    def __init__(self) -> None:
        self.monotonic = trio.testing.MockClock(rate=1.0)
        self.offset_s = 1_000_000.0

    def wall_ns(self) -> int:
        return int((trio.current_time() + self.offset_s) * 1e9)

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        trio.run(main, clock=self.monotonic)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 4.0, -4.0])
def test_jump_of_the_wall_clock_gives_every_lease_its_time_again(path: Path, clocks: Clocks, jump_s: float) -> None:
    async def main() -> None:
        async with open_sqlite(path, wall_ns=clocks.wall_ns) as one, open_sqlite(path, wall_ns=clocks.wall_ns) as two:
            lease = await one.grant(3.0)
            await one.put(b"k", b"", lease=lease.id)
            clocks.monotonic.jump(2.0)
            clocks.offset_s += jump_s
            assert list((await two.snapshot(b"")).entries) == [b"k"]
            await one.keep_alive(lease.id)
            clocks.monotonic.jump(2.9)
            assert list((await two.snapshot(b"")).entries) == [b"k"]
            clocks.monotonic.jump(0.5)
            assert (await two.snapshot(b"")).entries == {}

    clocks.run(main)


def test_jump_seen_by_many_processes_lengthens_a_dead_lease_once(path: Path, clocks: Clocks) -> None:
    async def main() -> None:
        async with open_sqlite(path, wall_ns=clocks.wall_ns) as one, open_sqlite(path, wall_ns=clocks.wall_ns) as two:
            await one.put(b"k", b"", lease=(await one.grant(3.0)).id)
            clocks.monotonic.jump(2.0)
            clocks.offset_s += 7.0
            assert list((await one.snapshot(b"")).entries) == [b"k"]
            assert list((await two.snapshot(b"")).entries) == [b"k"]
            clocks.monotonic.jump(3.3)
            assert (await two.snapshot(b"")).entries == {}

    clocks.run(main)


def test_process_that_starts_right_after_a_jump_ends_no_lease(path: Path, clocks: Clocks) -> None:
    async def main() -> None:
        async with open_sqlite(path, wall_ns=clocks.wall_ns) as old:
            lease = await old.grant(5.0)
            await old.put(b"k", b"", lease=lease.id)
            clocks.offset_s += 3600.0
            async with open_sqlite(path, wall_ns=clocks.wall_ns) as new:
                assert list((await new.snapshot(b"")).entries) == [b"k"]
                clocks.monotonic.jump(0.5)
                assert list((await new.snapshot(b"")).entries) == [b"k"]
                await old.snapshot(b"")  # the old one looks, as one with a watch does several times a second
                clocks.monotonic.jump(4.0)
                assert list((await new.snapshot(b"")).entries) == [b"k"]
                clocks.monotonic.jump(1.5)
                assert (await new.snapshot(b"")).entries == {}

    clocks.run(main)


def test_clock_set_back_while_nobody_looked_does_not_keep_a_dead_lease_alive(path: Path, clocks: Clocks) -> None:
    async def main() -> None:
        async with open_sqlite(path, wall_ns=clocks.wall_ns) as registry:
            await registry.put(b"k", b"", lease=(await registry.grant(5.0)).id)
        clocks.offset_s -= 3600.0
        async with open_sqlite(path, wall_ns=clocks.wall_ns) as registry:
            assert list((await registry.snapshot(b"")).entries) == [b"k"]
            clocks.monotonic.jump(5.5)
            assert (await registry.snapshot(b"")).entries == {}

    clocks.run(main)


def test_clock_a_little_ahead_ends_no_lease_early(path: Path, clocks: Clocks) -> None:
    async def main() -> None:
        def ahead_ns() -> int:
            return clocks.wall_ns() + 200_000_000

        async with open_sqlite(path, wall_ns=clocks.wall_ns) as one, open_sqlite(path, wall_ns=ahead_ns) as two:
            await one.put(b"k", b"", lease=(await one.grant(5.0)).id)
            clocks.monotonic.jump(4.9)
            assert list((await two.snapshot(b"")).entries) == [b"k"]
            clocks.monotonic.jump(0.4)
            assert (await two.snapshot(b"")).entries == {}

    clocks.run(main)
