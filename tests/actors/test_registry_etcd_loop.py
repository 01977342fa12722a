"""Asyncio work for Trio tasks: how it ends, what cancellation leaves of it, and the one loop of a Trio run."""

from __future__ import annotations

import asyncio

import pytest
import trio
import trio.testing
from registry_back_ends import refused

pytest.importorskip("trio_asyncio")

from holloway.actors.registry.etcd_loop import Errand, Errands, shared_loop


async def answer(after_s: float = 0.0) -> int:
    await asyncio.sleep(after_s)
    return 42


async def fail() -> int:
    raise KeyError("a")


async def test_errand_returns_or_raises_what_its_work_does_and_is_forgotten() -> None:
    async with shared_loop() as loop:
        errands = Errands(loop)
        assert await errands.run(answer(), 0.0) == 42
        with pytest.raises(KeyError):
            await errands.run(fail(), 0.0)
        with trio.move_on_after(0.01):
            await errands.run(answer(60.0), 0.0)
        assert errands.under_way == set()


async def test_cancelled_errand_has_a_last_word_and_no_more() -> None:
    async with shared_loop() as loop:
        errands = Errands(loop)
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await errands.run(answer(0.01), 10.0) == 42
            # The result is worth more than the cancellation, which comes with the next checkpoint.
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        began = trio.current_time()
        with trio.move_on_after(0) as scope:
            await errands.run(answer(60.0), 0.05)
        assert scope.cancelled_caught
        assert 0.05 <= trio.current_time() - began < 5.0


async def test_to_stop_waiting_stops_nothing() -> None:
    async with shared_loop() as loop:
        errand = Errand(loop, answer(0.05))
        with trio.move_on_after(0.001):
            await errand.wait()
        assert not errand.is_done
        await errand.wait()
        assert errand.result() == 42


async def test_end_cancels_what_is_under_way_and_lets_nothing_begin() -> None:
    async with shared_loop() as loop, trio.open_nursery() as nursery:
        errands = Errands(loop)

        async def wait_in_vain() -> None:
            with refused("unavailable"):
                await errands.run(answer(60.0), 0.0)

        nursery.start_soon(wait_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        await errands.end()
        assert errands.under_way == set()
        with refused("unavailable"):
            errands.start(answer())


async def test_all_users_of_a_run_share_one_loop_which_ends_with_the_last() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with shared_loop() as one:
        async with shared_loop() as two:
            assert one is two
        assert await Errands(one).run(answer(), 0.0) == 42
    assert trio.lowlevel.current_statistics().tasks_living == before
    async with shared_loop() as three:
        assert three is not one
        assert await Errands(three).run(answer(), 0.0) == 42


async def test_mishap_in_a_callback_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with shared_loop() as loop:
        loop.call_soon(lambda: 1 // 0)
        assert await Errands(loop).run(answer(), 0.0) == 42
    assert "ZeroDivisionError" in caplog.text
