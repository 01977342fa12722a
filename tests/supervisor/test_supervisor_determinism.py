"""Same seed, same events: in one process, in another, under another hash seed, in whatever order Trio runs a tick."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from contextlib import suppress

import pytest
import trio
import trio._core._run as trio_run
import trio.testing

from holloway.supervisor import (
    Backoff,
    Child,
    ChildStartError,
    Intensity,
    SpecError,
    Strategy,
    Supervisor,
    dynamic,
    open_tree,
)


def run_shuffled(main, seed):
    """Run `main`, the order of the tasks in a tick a function of `seed` (and leave Trio's random stream as it was)."""
    before = trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # importing Hypothesis sets this too
    trio_run._r.seed(seed)
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._r.setstate(before)


def forest():
    """Supervisors of each kind and a pool, of actors that live and die by their own random streams."""
    often = Intensity(restarts=10_000, period=10)
    backoff = Backoff(initial=0.5, maximum=2, jitter=0.5)
    known = set()

    async def flaky(ctx, *, task_status):
        if ctx.path in known and ctx.rng.random() < 0.2:
            raise OSError(ctx.path)
        known.add(ctx.path)
        task_status.started(ctx.path)
        await trio.sleep(ctx.rng.randrange(20) / 2)  # a coarse grid: many ends fall together
        if ctx.rng.random() < 0.7:
            raise ValueError(ctx.path)

    def child(name):
        return Child(name=name, run=flaky, backoff=backoff, start_timeout=1)

    pool = dynamic(child, name="pool", limit=20, intensity=often)

    async def feeder(ctx, *, task_status):
        task_status.started()
        for round_ in itertools.count():
            await trio.sleep(0.5)
            await pool.stop(f"k{round_ % 7}")
            for key in range(10):
                with suppress(SpecError, ChildStartError):  # it is there; it is in a bad mood
                    await pool.start(f"k{key}")

    groups = [
        Supervisor([child(f"c{n}") for n in range(4)], name=strategy.value, strategy=strategy, intensity=often)
        for strategy in Strategy
    ]
    return Supervisor(
        [*[group.as_child() for group in groups], pool.as_child(), Child(name="feeder", run=feeder)],
        name="root",
        intensity=often,
    )


def history(seed, scheduler_seed=0):
    """The events of one run as text."""
    events = []

    async def main():
        async with open_tree(forest(), on_event=events.append, rng=random.Random(seed)):
            await trio.sleep(30)

    run_shuffled(main, scheduler_seed)
    return [repr(event) for event in events]


def test_the_same_seed_gives_the_identical_event_list():
    first = history(7)
    assert len(first) > 300
    assert history(7) == first
    assert history(8) != first


def test_the_same_seed_gives_the_identical_event_list_in_another_process_under_another_hash_seed():
    script = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('forest', {__file__!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "import logging; logging.disable()\n"
        "print('\\n'.join(module.history(7)))\n"
    )
    lines = []
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60
        )
        lines.append(done.stdout.splitlines())
    assert lines[0] == lines[1] == history(7)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_events_of_one_supervisor_do_not_depend_on_the_order_in_which_trio_runs_a_tick(strategy):
    def run(scheduler_seed):
        events = []

        async def crashing(ctx, *, task_status):
            task_status.started()
            await trio.sleep(1 + ctx.rng.randrange(3))
            raise ValueError(ctx.path)

        children = [Child(name=f"c{n}", run=crashing, backoff=Backoff(initial=1, jitter=0.5)) for n in range(6)]
        supervisor = Supervisor(children, name="root", strategy=strategy, intensity=Intensity(restarts=1000, period=1))

        async def main():
            async with open_tree(supervisor, on_event=events.append, rng=random.Random(3)):
                await trio.sleep(20)

        run_shuffled(main, scheduler_seed)
        return [repr(event) for event in events]

    first = run(0)
    assert len(first) > 50
    assert all(run(scheduler_seed) == first for scheduler_seed in range(1, 12))


async def test_the_random_stream_of_one_actor_is_not_moved_by_another(stage, autojump_clock):
    async def draws(names):
        async with open_tree(stage.supervisor(names), rng=random.Random(1)):
            stage["a"].crash()
            await stage.settle(2)
            return stage["a"].ctx.rng.random()

    assert await draws("ab") == await draws("a")


async def test_each_incarnation_has_a_stream_of_its_own(stage, autojump_clock):
    async with stage.tree("a") as tree:
        first = stage["a"].ctx.rng.random()
        await tree.root.restart("a")
        assert stage["a"].ctx.rng.random() != first
