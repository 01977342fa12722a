"""Who may have a thread for a plugin's command, for how long, and what is said of those that get none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from holloway.actors.control_plane.broker_commands import PLUGIN_THREADS as LIMITS
from holloway.actors.control_plane.plugin_threads import PluginThreads
from holloway.protocols.errors import LocalError


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class Asked:
    """Calls that were made, and what came of each."""

    def __init__(self, nursery: trio.Nursery, release: threading.Event) -> None:
        self.threads = PluginThreads(LIMITS)
        self.told: list[str] = []
        self.has_come = trio.Event()
        self.gave_up_hanging = threading.Event()
        self._nursery, self._release = nursery, release

    async def stuck(self, command: str, person: str) -> None:
        self._nursery.start_soon(self._call, command, person)
        await wait_all_tasks_blocked()

    async def _call(self, command: str, person: str) -> None:
        try:
            await self.threads.run(self._hang, command, person)
        except LocalError as error:
            self.told.append(str(error))

    def _hang(self) -> None:
        if not self._release.wait(10):
            self.gave_up_hanging.set()

    async def later(self, command: str, person: str) -> None:
        assert await self.quick(command, person) == 7
        self.has_come.set()

    async def quick(self, command: str, person: str) -> int:
        return await self.threads.run(lambda: 7, command, person)


async def test_whoever_has_a_plugin_hang_keeps_nobody_from_another_one(
    mock_clock: MockClock, release: threading.Event
) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, release)
        for _ in range(4):
            await asked.stuck("foo.stuck", "ann")
        assert await asked.quick("bar.quick", "bob") == 7
        mock_clock.jump(LIMITS.wait_s)
        await wait_all_tasks_blocked()
        no_thread = "foo.stuck has not begun: no thread is free"
        assert asked.told == [f"{no_thread}: 2 commands that ann gave have not come back"] * 2
        asked.told.clear()
        mock_clock.jump(LIMITS.run_s - LIMITS.wait_s)
        await wait_all_tasks_blocked()
        assert asked.told == ["foo.stuck took more than 10 s: nobody waits any longer for it"] * 2
        asked.told.clear()

        # What was given up counts for its plugin and for who called it, and for nobody else.
        await asked.stuck("foo.stuck", "carl")
        await asked.stuck("foo.quick", "dave")
        await asked.stuck("bar.quick", "ann")
        mock_clock.jump(LIMITS.wait_s)
        await wait_all_tasks_blocked()
        assert sorted(asked.told) == [
            "bar.quick has not begun: no thread is free: 2 commands that ann gave have not come back",
            "foo.quick has not begun: no thread is free: 3 commands of foo have not come back",
        ]
        assert await asked.quick("bar.quick", "dave") == 7

        # What comes back counts no more.
        release.set()
        assert await asked.quick("foo.quick", "ann") == 7


async def test_who_waits_gets_the_thread_of_one_that_was_given_up(
    mock_clock: MockClock, release: threading.Event
) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, release)
        for command, person in (("foo.x", "ann"), ("foo.x", "bob"), ("bar.x", "ann"), ("bar.x", "bob")):
            await asked.stuck(command, person)
        mock_clock.jump(LIMITS.run_s - LIMITS.wait_s / 2)
        nursery.start_soon(asked.later, "baz.quick", "carl")
        await wait_all_tasks_blocked()
        assert not asked.has_come.is_set()
        mock_clock.jump(LIMITS.wait_s / 2)
        await asked.has_come.wait()
        assert not asked.gave_up_hanging.is_set(), "it has waited for one that hangs"
        assert len(asked.told) == 4
        release.set()


async def test_a_call_that_is_cancelled_while_it_waits_takes_no_thread(
    mock_clock: MockClock, release: threading.Event
) -> None:
    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, release)
        for _ in range(2):
            await asked.stuck("foo.x", "ann")
        with trio.CancelScope() as at_once:
            at_once.cancel()
            await asked.quick("bar.x", "bob")
        async with trio.open_nursery() as waiting:
            waiting.start_soon(asked.quick, "foo.x", "ann")
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        assert at_once.cancelled_caught
        release.set()
        for _ in range(LIMITS.at_once + 1):
            assert await asked.quick("foo.x", "ann") == 7


async def test_when_the_system_has_no_thread_that_is_told_and_counts_for_nobody(
    monkeypatch: pytest.MonkeyPatch, release: threading.Event
) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with trio.open_nursery() as nursery:
        asked = Asked(nursery, release)
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", no_thread)
            for _ in range(LIMITS.each_plugin + 1):
                with pytest.raises(LocalError, match="the system gives us no thread"):
                    await asked.quick("foo.x", "ann")
        assert await asked.quick("foo.x", "ann") == 7
