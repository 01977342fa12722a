"""Pools: many children from one template, side by side."""

from __future__ import annotations

import gc
import sys
import weakref
from contextlib import suppress

import pytest
import trio
import trio.testing

from holloway.supervisor import (
    LINGER_S,
    ActorDown,
    AutoShutdown,
    Backoff,
    Child,
    ChildExited,
    ChildOverranGrace,
    ChildRestarting,
    ChildStarted,
    ChildStartError,
    ChildStartFailed,
    GraceOverrun,
    Intensity,
    IntensityExceeded,
    Pool,
    PoolFull,
    Restart,
    SpecError,
    State,
    Supervisor,
    SupervisorGaveUp,
    dynamic,
    open_tree,
)


def pool_of(stage, *, limit=9, intensity=None, **spec):
    return dynamic(
        lambda key: stage.child(key, **spec), name="pool", limit=limit, intensity=intensity or Intensity(restarts=5)
    )


def states(pool):
    return {info.name: info.state.value for info in pool.children()}


async def test_a_started_child_is_ready_and_found_by_key_by_path_and_in_the_list(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]) as tree:
        assert tree.ref("pool").get() is pool
        stage["a"].start_s = 2
        ref = await pool.start("a")
        assert trio.current_time() == 2
        assert ref.get() is pool.ref("a").get() is tree.ref("pool.a").get() is stage["a"]
        assert pool.keys() == ("a",)
        [info] = pool.children()
        assert (info.name, info.state, info.incarnation, info.restarts, info.error) == ("a", State.RUNNING, 1, 0, None)
        assert repr(pool) == "<Pool pool 1 of 9>"


async def test_starts_go_on_beside_one_another(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                stage[name].start_s = 4
                nursery.start_soon(pool.start, name)
        assert trio.current_time() == 4
        assert set(pool.keys()) == set("abc")


async def test_all_children_stop_at_the_same_time(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        for name in "abc":
            stage[name].drain_s = 3
            await pool.start(name)
    assert trio.current_time() == 3
    assert len(stage.told(ChildExited)) == 4


async def test_a_stopped_key_is_forgotten_and_can_be_started_again(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        stage["a"].drain_s = 1
        how = await pool.stop("a")
        assert how.reason == "stopped"
        assert pool.keys() == pool.children() == ()
        assert await pool.stop("a") is None
        with pytest.raises(SpecError, match="no child for 'a'"):
            pool.ref("a")
        await pool.start("a")
        assert stage.took() == "+a =a -a +a =a"


async def test_a_key_or_a_name_is_there_once(stage, autojump_clock):
    pool = dynamic(lambda key: stage.child(key.lower()), name="pool", limit=9)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        with pytest.raises(SpecError, match="child for 'a' already"):
            await pool.start("a")
        with pytest.raises(SpecError, match="called a already"):
            await pool.start("A")
        assert pool.keys() == ("a",)


async def test_a_full_pool_refuses_until_one_leaves(stage, autojump_clock):
    pool = pool_of(stage, limit=2, restart=Restart.TEMPORARY)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        await pool.start("b")
        with pytest.raises(PoolFull, match="2 children") as caught:
            await pool.start("c")
        assert isinstance(caught.value, ChildStartError)
        stage["a"].finish()
        await stage.settle()
        await pool.start("c")
        assert pool.keys() == ("b", "c")


async def test_a_pool_refuses_what_cannot_hold(stage, autojump_clock):
    with pytest.raises(SpecError, match="holds none"):
        pool_of(stage, limit=0)
    with pytest.raises(SpecError, match="no name"):
        Pool(stage.child, name="", limit=1)
    pool = dynamic(lambda key: stage.child(key, significant=True, restart=Restart.TRANSIENT), name="pool", limit=1)
    async with stage.tree([pool.as_child()], auto_shutdown=AutoShutdown.ANY_SIGNIFICANT):
        with pytest.raises(SpecError, match="NEVER"):
            await pool.start("a")
        assert pool.keys() == ()


async def test_a_failed_start_is_raised_and_leaves_no_trace(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        stage["a"].starts_to_fail = 1
        with pytest.raises(ChildStartError) as caught:
            await pool.start("a")
        assert isinstance(caught.value.__cause__, OSError)
        assert pool.keys() == ()
        await pool.start("a")
    assert [event.path for event in stage.told(ChildStartFailed)] == ["root.pool.a"]


async def test_an_error_of_the_template_reaches_the_caller(stage, autojump_clock):
    def template(key):
        raise LookupError(key)

    pool = dynamic(template, name="pool", limit=1)
    async with stage.tree([pool.as_child()]):
        with pytest.raises(LookupError):
            await pool.start("a")
        assert pool.keys() == ()


async def test_a_crashed_child_comes_back_alone_after_its_backoff(stage, autojump_clock):
    pool = pool_of(stage, backoff=Backoff(initial=1, factor=2, jitter=0))
    async with stage.tree([pool.as_child()]):
        ref = await pool.start("a")
        await pool.start("b")
        stage["a"].crash()
        await stage.settle(0.5)
        assert states(pool) == {"a": "waiting", "b": "running"}
        with pytest.raises(ActorDown):
            ref.get()
        stage["a"].starts_to_fail = 1
        await stage.settle(0.5 + 2)
        assert ref.get() is stage["a"]
        infos = {info.name: info for info in pool.children()}
        assert (infos["a"].incarnation, infos["a"].restarts, infos["b"].incarnation) == (3, 2, 1)
    assert [(event.at, event.delay_s) for event in stage.told(ChildRestarting)] == [(0, 1), (1, 2)]


async def test_many_that_crash_in_one_tick_come_back_side_by_side(stage, autojump_clock):
    pool = pool_of(stage, limit=50, intensity=Intensity(restarts=50))
    names = [f"n{number}" for number in range(20)]
    async with stage.tree([pool.as_child()]):
        for name in names:
            await pool.start(name)
            stage[name].start_s = 3
        for name in reversed(names):
            stage[name].crash()
        await stage.settle(1 + 3)
        assert set(states(pool).values()) == {"running"}
    exits = [event.path.rpartition(".")[2] for event in stage.told(ChildExited) if event.exit.reason == "failed"]
    assert exits == names


@pytest.mark.parametrize("restart", [Restart.TEMPORARY, Restart.TRANSIENT])
async def test_a_child_that_ends_for_good_leaves_the_pool(stage, autojump_clock, restart):
    pool = pool_of(stage, restart=restart)
    async with stage.tree([pool.as_child()]):
        ref = await pool.start("a")
        stage["a"].finish()
        assert (await ref.wait_closed()).reason == "returned"
        await stage.settle()
        assert pool.keys() == ()


async def test_a_stop_while_a_child_waits_for_its_restart_takes_it_back(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        stage["a"].crash()
        await stage.settle(0.5)
        how = await pool.stop("a")
        assert how.reason == "failed"
        assert pool.keys() == ()
        await stage.settle(5)
        assert stage.took() == "+a =a -a"


async def test_a_stop_while_a_child_starts_gives_the_start_up(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]), trio.open_nursery() as nursery:
        stage["a"].start_s = 5

        async def start():
            with pytest.raises(ChildStartError, match="not wanted"):
                await pool.start("a")

        nursery.start_soon(start)
        await stage.settle(1)
        how = await pool.stop("a")
        assert (how.reason, trio.current_time()) == ("stopped", 1)
        assert pool.keys() == ()
    assert not stage.told(ChildStartFailed)


@pytest.mark.parametrize("ticks", range(12))
async def test_a_stop_at_any_tick_of_a_start_ends_with_the_child_gone(stage, autojump_clock, ticks):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]), trio.open_nursery() as nursery:

        async def start():
            with suppress(ChildStartError):
                await pool.start("a")

        nursery.start_soon(start)
        while not pool.keys():
            await trio.lowlevel.checkpoint()
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        await pool.stop("a")
        assert pool.keys() == ()
        await stage.settle()
        assert stage.took() in {"+a =a -a", "+a -a", ""}


async def test_a_child_that_has_itself_stopped_the_moment_it_is_ready_is_stopped(stage, autojump_clock):
    async def leaver(ctx, *, task_status):
        task_status.started()
        await pool.stop("a")  # before the pool knows that it is ready
        pytest.fail("it is cancelled while it waits")

    pool = dynamic(lambda key: Child(name=key, run=leaver), name="pool", limit=1)
    async with stage.tree([pool.as_child()]) as tree:
        ref = await pool.start("a")
        await stage.settle()
        assert pool.keys() == ()
        assert (await ref.wait_closed()).reason == "stopped"
        assert tree.ref("pool").get() is pool


async def test_a_stop_while_a_child_restarts_gives_the_restart_up(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        stage["a"].start_s = 5
        stage["a"].crash()
        await stage.settle(2)
        assert states(pool) == {"a": "starting"}
        how = await pool.stop("a")
        assert (how.reason, how.incarnation) == ("stopped", 2)
        assert pool.keys() == ()


async def test_a_cancelled_start_is_undone(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        stage["a"].start_s = 5
        with trio.move_on_after(1):
            await pool.start("a")
        await stage.settle()
        assert pool.keys() == ()
        assert stage.took() == "+a -a"


async def test_a_cancelled_stop_is_carried_out_all_the_same(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        stage["a"].drain_s = 3
        await pool.start("a")
        with trio.move_on_after(1):
            await pool.stop("a")
        assert states(pool) == {"a": "stopping"}
        assert (await pool.stop("a")).reason == "stopped"
        assert trio.current_time() == 3


@pytest.mark.parametrize("ticks", range(3))
async def test_a_child_that_ends_the_moment_it_is_ready_is_heard(stage, autojump_clock, ticks):
    async def brief(ctx, *, task_status):
        task_status.started()
        raise ValueError("brief")

    pool = dynamic(lambda key: Child(name=key, run=brief, restart=Restart.TEMPORARY), name="pool", limit=100)
    async with stage.tree([pool.as_child()]):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(pool.start, f"n{number}")
                for _ in range(ticks):  # so that the loop is awake at every stage of some start
                    await trio.lowlevel.checkpoint()
        await stage.settle()
        assert pool.keys() == ()
    assert len(stage.told(ChildStarted)) == len(stage.told(ChildExited)) == 51


async def test_a_zombie_keeps_its_place_until_it_ends(stage, autojump_clock):
    pool = pool_of(stage, limit=1)
    async with stage.tree([pool.as_child()]):
        stage["a"].shield_s = 60
        await pool.start("a")
        with pytest.raises(GraceOverrun):
            await pool.stop("a")
        assert trio.current_time() == 5 + LINGER_S
        with pytest.raises(GraceOverrun):
            await pool.stop("a")
        assert states(pool) == {"a": "zombie"}
        with pytest.raises(PoolFull):
            await pool.start("b")
        await stage.settle(60)
        await pool.start("b")
        stage["b"].shield_s = 30
    assert len(stage.told(ChildOverranGrace)) == 2
    assert trio.current_time() == 70 + 30


async def test_a_start_that_overran_keeps_its_place_until_it_ends(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        stage["a"].start_s = stage["a"].shield_s = 20
        with pytest.raises(ChildStartError):
            await pool.start("a")
        assert states(pool) == {"a": "zombie"}
        await stage.settle(20)
        assert pool.keys() == ()


async def test_a_restart_that_overran_is_tried_again_when_its_task_has_ended(stage, autojump_clock):
    pool = pool_of(stage)
    async with stage.tree([pool.as_child()]):
        await pool.start("a")
        stage["a"].start_s, stage["a"].shield_s = 20, 100
        stage["a"].crash()
        await stage.settle(1 + 100 + 10 + 5 + LINGER_S)
        assert states(pool) == {"a": "zombie"}
        stage["a"].start_s = stage["a"].shield_s = 0
        await stage.settle(100)
        assert states(pool) == {"a": "running"}
        assert (await pool.stop("a")).reason == "stopped"


async def test_a_pool_gives_up_once_when_its_budget_is_spent_and_stops_all(stage, autojump_clock):
    pool = pool_of(stage, intensity=Intensity(restarts=1))
    with pytest.raises(IntensityExceeded) as caught:  # noqa: PT012 - the tree fails while its body waits
        async with stage.tree([pool.as_child()], intensity=Intensity(restarts=0)):
            for name in "abc":
                await pool.start(name)
            for name in "abc":
                stage[name].crash()
            await trio.sleep_forever()
    matched, rest = caught.value.causes.split(ValueError)
    assert rest is None
    assert [str(error) for group in matched.exceptions for error in group.exceptions] == ["a", "b"]
    assert [event.path for event in stage.told(SupervisorGaveUp)] == ["root.pool", "root"]
    assert stage.took().count("-") == 3


async def test_failed_restarts_spend_the_budget_of_the_pool(stage, autojump_clock):
    pool = pool_of(stage, intensity=Intensity(restarts=2))
    with pytest.raises(IntensityExceeded):  # noqa: PT012 - the tree fails while its body waits
        async with stage.tree([pool.as_child()], intensity=Intensity(restarts=0)):
            await pool.start("a")
            stage["a"].starts_to_fail = 9
            stage["a"].crash()
            await trio.sleep_forever()
    assert stage["a"].starts_to_fail == 7


async def test_a_pool_that_stops_gives_up_starts_and_waits(stage, autojump_clock):
    pool = pool_of(stage)
    outcomes = []

    async def start(name):
        try:
            await pool.start(name)
        except ActorDown as error:
            outcomes.append(str(error))

    async with stage.tree([pool.as_child()]) as tree, trio.open_nursery() as nursery:
        stage["b"].drain_s = 2
        for name in "abd":
            await pool.start(name)
        stage["c"].start_s = stage["d"].start_s = 5
        stage["d"].crash()
        stage["a"].crash()
        nursery.start_soon(start, "c")
        await stage.settle(1.5)
        stage["a"].crash()
        await stage.settle()
        assert states(pool) == {"a": "waiting", "b": "running", "c": "starting", "d": "starting"}
        nursery.start_soon(tree.stop)
        await stage.settle(1)
        with pytest.raises(ActorDown, match="stopping"):
            await pool.start("e")
    assert outcomes == ["root.pool: it is stopping"]
    assert trio.current_time() == 1.5 + 2


async def test_a_pool_that_is_down_says_so_and_one_that_comes_back_is_empty(stage, autojump_clock):
    pool = pool_of(stage)
    assert pool.keys() == pool.children() == ()
    for call in (pool.start("a"), pool.stop("a")):
        with pytest.raises(ActorDown):
            await call
    with pytest.raises(ActorDown):
        pool.ref("a")
    async with stage.tree([pool.as_child()]) as tree:
        await pool.start("a")
        await tree.root.restart("pool")
        assert pool.keys() == ()


async def test_one_pool_object_stands_in_one_place(stage, autojump_clock):
    pool = pool_of(stage)
    with pytest.raises(ChildStartError) as caught:
        async with stage.tree([Child(name="x", run=pool), Child(name="y", run=pool)]):
            pytest.fail("the tree is not to be entered")
    assert isinstance(caught.value.__cause__, SpecError)


# Ten thousand

MANY = 10_000


class Load:
    """Something an actor holds, to be looked for when the actor is gone."""


async def idle(ctx, *, task_status, loads):
    load = Load()
    loads.append(weakref.ref(load))
    task_status.started(load)
    await trio.sleep_forever()


class Steps(trio.abc.Instrument):
    """Counts task steps, which unlike seconds are the same on every machine."""

    def __init__(self):
        self.total = 0

    def before_task_step(self, task):
        self.total += 1


def cost(count):
    """Task steps and function calls it takes to start, stop one by one, and stop together `count` children."""
    steps, calls = Steps(), 0

    def profile(frame, event, arg):
        nonlocal calls
        calls += event in {"call", "c_call"}

    async def body():
        pool = dynamic(
            lambda key: Child(name=str(key), run=lambda ctx, task_status: run(ctx, task_status)), name="p", limit=count
        )

        async def run(ctx, task_status):
            task_status.started()
            await trio.sleep_forever()

        async with open_tree(Supervisor([pool.as_child()], name="root")):
            sys.setprofile(profile)
            try:
                for key in range(count):
                    await pool.start(key)
                for key in range(0, count, 2):
                    await pool.stop(key)
            finally:
                sys.setprofile(None)

    trio.run(body, instruments=[steps], clock=trio.testing.MockClock())
    return steps.total, calls


def test_starting_and_stopping_costs_the_same_for_each_child_in_a_small_and_a_large_pool():
    cost(10)
    small_steps, small_calls = cost(100)
    large_steps, large_calls = cost(1000)
    assert large_steps / small_steps == pytest.approx(10, rel=0.1)
    assert large_calls / small_calls == pytest.approx(10, rel=0.1)


async def test_ten_thousand_children_come_crash_and_go_and_leave_nothing_in_memory(autojump_clock):
    loads = []
    errors = []

    class Crash(Exception):
        pass

    async def fragile(ctx, *, task_status):
        load = Load()
        loads.append(weakref.ref(load))
        task_status.started(load)
        await crash.wait()
        error = Crash(load)
        errors.append(weakref.ref(error))
        raise error

    def template(key):
        run = fragile if key % 10 == 0 else lambda ctx, task_status: idle(ctx, task_status=task_status, loads=loads)
        return Child(name=str(key), run=run, restart=Restart.TEMPORARY)

    pool = dynamic(template, name="pool", limit=MANY)
    crash = trio.Event()
    async with open_tree(Supervisor([pool.as_child()], name="root")) as tree:
        for key in range(MANY):
            await pool.start(key)
        with pytest.raises(PoolFull):
            await pool.start(MANY)
        assert len(pool.keys()) == len(pool.children()) == MANY
        crash.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(pool.keys()) == MANY * 9 // 10
        for key in range(1, MANY, 2):
            await pool.stop(key)
        left = len(pool.keys())
        await tree.root.restart("pool")  # the rest at once
        assert left == MANY * 4 // 10
        assert pool.keys() == ()
        gc.collect()
        assert sum(ref() is not None for ref in loads) == 0
        assert sum(ref() is not None for ref in errors) == 0
        registry = tree._context.registry
        assert len(registry._cells) == 1  # the pool's own


async def test_the_error_of_a_crash_is_remembered_without_its_traceback(stage, autojump_clock):
    class Secret:
        pass

    secrets = []

    async def leaky(ctx, *, task_status):
        secret = Secret()
        secrets.append(weakref.ref(secret))
        task_status.started()
        await trio.sleep(1)
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("second", [OSError("inner")]) from error

    async with stage.tree([Child(name="leaky", run=leaky, backoff=Backoff(initial=1, jitter=0))]) as tree:
        await stage.settle(1.5)
        assert tree.children()[0].error == "OSError: inner"
        gc.collect()
        assert secrets[0]() is None
        how = await tree.ref("leaky").wait_closed()
        assert how.error.exceptions[0].__traceback__ is how.error.__cause__.__traceback__ is None
