"""The cursor of a watch and the looks at the file, at the moments that are hard to hit from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from registry_back_ends import refused

from holloway.actors.registry import Changes, Delete, Limits, Watch
from holloway.actors.registry.sqlite import POLL_MIN_S, open_sqlite
from holloway.actors.registry.sqlite_file import GLANCES_MAX, Moment, RegistryFile
from holloway.actors.registry.watching import LogWatch


class ScriptedLog:
    """Gives what it is told to, and leaves the watch in the middle of a read if told that."""

    def __init__(self, *answers: tuple[Changes, int]) -> None:
        self.answers = list(answers)
        self.asked_after: list[int] = []
        self.waited_beyond: list[int] = []
        self.leave: LogWatch | None = None

    async def read(self, prefix: bytes, after: int) -> tuple[Changes, int]:
        self.asked_after.append(after)
        if self.leave:
            self.leave.close()
        return self.answers.pop(0)

    async def wait_beyond(self, revision: int) -> None:
        self.waited_beyond.append(revision)


async def test_cursor_goes_on_from_what_was_looked_at_and_not_from_what_was_found() -> None:
    log = ScriptedLog(((), 7), ((Delete(b"k", 9),), 12), ((Delete(b"k", 13),), 13))
    watch = LogWatch(log, b"", 3)
    assert await watch.receive() == (Delete(b"k", 9),)
    assert await watch.receive() == (Delete(b"k", 13),)
    assert log.asked_after == [3, 7, 12]
    assert log.waited_beyond == [7]


async def test_watch_left_while_its_reader_looks_does_not_wait_for_news() -> None:
    log = ScriptedLog(((), 7))
    log.leave = watch = LogWatch(log, b"", 3)
    with refused("unavailable"):
        await watch.receive()
    assert log.waited_beyond == []


async def test_watch_left_while_it_asks_the_file_wakes_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asking, may_answer = threading.Event(), threading.Event()

    async with open_sqlite(tmp_path / "net.db", wall_ns=time.time_ns) as registry, trio.open_nursery() as nursery:
        start = (await registry.snapshot(b"")).revision

        def poll(moment: Moment) -> int:
            is_asking.set()
            may_answer.wait(5)
            return start

        async def read(watch: Watch) -> None:
            with refused("unavailable"):
                await watch.receive()

        monkeypatch.setattr(registry._file, "poll", poll)
        with trio.fail_after(20):
            async with registry.watch(b"", start) as watch:
                nursery.start_soon(read, watch)
                await trio.to_thread.run_sync(is_asking.wait)
            may_answer.set()


def moment(wall_s: float = 1000.0, steps: int = 0) -> Moment:
    return Moment(int(wall_s * 1e9), steps, may_expire=True)


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[RegistryFile, RegistryFile]]:
    one = RegistryFile(tmp_path / "net.db", Limits(), moment())
    two = RegistryFile(tmp_path / "net.db", Limits(), moment())
    yield one, two
    one.close()
    two.close()


def make_quiet(file: RegistryFile) -> None:
    """The times of files are coarse: the second poll is the one that confirms, and must come later."""
    file.poll(moment())
    time.sleep(POLL_MIN_S)
    file.poll(moment())
    assert file.is_quiet(moment())


def test_file_is_quiet_only_after_two_polls_saw_the_same(two_files: tuple[RegistryFile, RegistryFile]) -> None:
    one, two = two_files
    assert not one.is_quiet(moment())
    make_quiet(one)
    two.transact(moment(), (), {b"k": b""}, (), None)
    assert not one.is_quiet(moment())
    assert one.poll(moment()) == 2
    assert not one.is_quiet(moment())
    make_quiet(one)
    assert one.poll(moment()) == 2


def test_file_with_a_lease_that_is_due_or_a_clock_that_jumped_is_not_quiet(
    two_files: tuple[RegistryFile, RegistryFile],
) -> None:
    one, two = two_files
    lease = two.grant(moment(), 5.0)
    two.transact(moment(), (), {b"k": b""}, (), lease.id)
    make_quiet(one)
    assert one.is_quiet(moment(1005.0))
    assert not one.is_quiet(moment(1005.3))
    assert not one.is_quiet(moment(steps=1))
    make_quiet(one)
    assert one.poll(moment(1005.3)) == 3


def test_file_system_without_useful_times_delays_news_by_a_few_looks(
    two_files: tuple[RegistryFile, RegistryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_files
    monkeypatch.setattr(one, "_appearance", lambda: (None, None))
    make_quiet(one)
    two.transact(moment(), (), {b"k": b""}, (), None)
    looks = next(number for number in range(100) if not one.is_quiet(moment()))
    assert looks < GLANCES_MAX
    assert one.poll(moment()) == 2


def test_reader_sees_one_revision_though_another_process_writes_between_its_queries(
    two_files: tuple[RegistryFile, RegistryFile],
) -> None:
    one, two = two_files
    two.transact(moment(), (), {b"a": b""}, (), None)

    def interfere(statement: str) -> None:
        if " FROM entries" in statement or " FROM history" in statement:
            two.transact(moment(), (), {b"%d" % time.monotonic_ns(): b""}, (), None)

    one._db.set_trace_callback(interfere)
    snapshot = one.snapshot(moment(), b"")
    assert (snapshot.revision, list(snapshot.entries)) == (2, [b"a"])
    changes, last = one.changes(moment(), b"", 1)
    assert (len(changes), last) == (2, 3)
    assert one.snapshot(moment(), b"").revision > 4
