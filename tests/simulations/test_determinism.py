"""The pins of a simulated run hold, and the check that would show a loose one is strong enough to."""

from __future__ import annotations

import os
import random
import secrets

import pytest
import trio

from holloway.simulations import determinism
from holloway.simulations.determinism import PROCESS, Freezer, NoNames, NotDeterministicError, Steps


def steps() -> Steps:
    return Steps(is_hashing=True, stuck=lambda: None)


async def race(order: list[int]) -> None:
    """Tasks that wake in one instant, and tell in which order."""

    async def runner(number: int) -> None:
        for _ in range(5):
            await trio.sleep(1)
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(runner, number)


def raced(seed: int) -> tuple[list[int], str]:
    order: list[int] = []
    taken = steps()
    determinism.run(seed, race, order, steps=taken)
    return order, taken.digest()


def test_one_seed_is_one_order_of_tasks_and_another_is_another() -> None:
    first = raced(1)
    trio.run(trio.sleep, 0)  # whatever ran before in this process moves nothing
    assert raced(1) == first
    other = raced(2)
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_the_hash_of_steps_sees_an_order_that_the_result_does_not_show() -> None:
    async def silent() -> None:
        await race([])

    hashes = set()
    for seed in range(4):
        taken = steps()
        determinism.run(seed, silent, steps=taken)
        hashes.add(taken.digest())
    assert len(hashes) == 4


def test_randomness_comes_from_the_seed_and_is_given_back() -> None:
    async def draw() -> tuple[bytes, bytes, float, int]:
        return os.urandom(8), secrets.token_bytes(8), random.random(), random.SystemRandom().getrandbits(64)

    before, urandom = random.getstate(), os.urandom
    assert determinism.run(5, draw) == determinism.run(5, draw) != determinism.run(6, draw)
    assert random.getstate() == before
    assert os.urandom is urandom


def test_a_thread_is_refused() -> None:
    async def ask() -> None:
        await trio.to_thread.run_sync(os.getpid)

    threads = trio.to_thread.run_sync
    with pytest.raises(NotDeterministicError, match="thread"):
        determinism.run(0, ask)
    assert trio.to_thread.run_sync is threads


def test_a_host_name_is_not_found() -> None:
    async def ask() -> None:
        trio.socket.set_custom_hostname_resolver(NoNames())
        with pytest.raises(OSError, match="no host names"):
            await trio.socket.getaddrinfo("example.org", 1)
        with pytest.raises(OSError, match="no host names"):
            await trio.socket.getnameinfo(("192.0.2.1", 1), 0)

    determinism.run(0, ask)


def test_a_trio_with_other_insides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(determinism.trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING")
    with pytest.raises(NotDeterministicError, match="cannot be made deterministic"):
        determinism.run(0, trio.sleep, 0)


def test_time_jumps() -> None:
    async def wait() -> float:
        await trio.sleep(50_000)
        return trio.current_time()

    assert determinism.run(0, wait) == 50_000


def test_a_frozen_process_takes_no_step_and_then_goes_on_with_what_came_meanwhile() -> None:
    told: list[tuple[str, float]] = []

    async def worker(name: str) -> None:
        PROCESS.set(name)
        async with trio.open_nursery() as nursery:  # its children belong to it, too
            nursery.start_soon(tick, name)

    async def tick(name: str) -> None:
        for _ in range(4):
            await trio.sleep(1)
            told.append((name, trio.current_time()))

    async def main() -> None:
        freezer = Freezer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, "a")
            nursery.start_soon(worker, "b")
            await trio.sleep(1.5)
            freezer.freeze("a")
            freezer.freeze("a")
            await trio.sleep(3)
            freezer.thaw("a")
            freezer.thaw("b")

    determinism.run(0, main)
    assert [at for name, at in told if name == "b"] == [1, 2, 3, 4]
    assert [at for name, at in told if name == "a"] == [1, 4.5, 5.5, 6.5]


def test_steps_without_time_passing_are_noticed() -> None:
    stuck = []

    async def spin() -> None:
        with trio.CancelScope() as scope:
            taken = Steps(is_hashing=False, stuck=lambda: (stuck.append(1), scope.cancel()))
            trio.lowlevel.add_instrument(taken)
            while True:
                await trio.lowlevel.checkpoint()

    determinism.run(0, spin)
    assert stuck
