"""What the registry in memory promises beyond the contract: determinism and exact times."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import trio
import trio.testing
from registry_back_ends import gather

from holloway.actors.registry import Change, MemoryRegistry


async def test_every_node_of_a_program_may_have_a_handle_on_one_store() -> None:
    store = MemoryRegistry()
    one, two = store.handle(), store.handle()
    assert (await one.create(b"k", b"one")).succeeded
    assert (await two.create(b"k", b"two")).found[b"k"].value == b"one"
    await one.close()
    assert list((await two.snapshot(b"")).entries) == [b"k"]
    await two.close()


async def test_lease_ends_at_its_time_exactly_and_watches_hear_it_then(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryRegistry()
    registry = store.handle()
    for ttl_s in (3.0, 1.0, 2.0):
        lease = await registry.grant(ttl_s)
        await registry.put(b"%d" % ttl_s, b"", lease=lease.id)
    start = (await registry.snapshot(b"")).revision
    heard: list[tuple[float, bytes]] = []
    async with registry.watch(b"", start) as watch:
        while len(heard) < 3:
            heard += [(trio.current_time(), change.key) for change in await watch.receive()]
    assert heard == [(1.0, b"1"), (2.0, b"2"), (3.0, b"3")]


async def test_leases_that_end_together_end_in_the_order_they_were_granted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    registry = MemoryRegistry().handle()
    for name in (b"z", b"a", b"m"):
        lease = await registry.grant(5.0)
        start = (await registry.put(name, b"", lease=lease.id)).revision
    async with registry.watch(b"", start) as watch:
        gone = await gather(watch, start + 3)
    assert [(change.key, change.revision) for change in gone] == [
        (b"z", start + 1),
        (b"a", start + 2),
        (b"m", start + 3),
    ]


def test_history_of_a_program_does_not_depend_on_the_process_that_runs_it() -> None:
    code = "import test_registry_memory; print(test_registry_memory.busy_hour())"
    here = Path(__file__).parent
    histories = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{here}:{here.parent}"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert histories[0] == histories[1]
    assert histories[0].count(b"Delete(") > 100


def busy_hour() -> list[Change]:
    """Leases over leases, most of which run out under a watch, some with many keys."""
    dice = random.Random(7)

    async def main() -> list[Change]:
        registry = MemoryRegistry().handle()
        start = (await registry.snapshot(b"")).revision
        for number in range(100):
            lease = await registry.grant(dice.uniform(1, 60))
            await registry.transact(
                (), {b"%d/%d" % (number, dice.randrange(99)): b"" for _ in range(5)}, lease=lease.id
            )
            await trio.sleep(dice.uniform(0, 3))
        await trio.sleep(60)
        end = (await registry.put(b"end", b"")).revision
        async with registry.watch(b"", start) as watch:
            return await gather(watch, end)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
