"""What a cancellation from outside, Ctrl-C and an exit do to a tree: they pass through it and leave nothing behind."""

from __future__ import annotations

import pytest
import trio

from holloway.supervisor import (
    ActorDown,
    AutoShutdown,
    Child,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    Restart,
    Strategy,
    TreeStopped,
    dynamic,
    open_tree,
)


def tasks():
    """How many tasks there are below the running one."""

    def below(task):
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return len(children) + sum(map(below, children))

    return below(trio.lowlevel.current_task())


def assert_nothing_left(stage):
    began = [entry[1:] for entry in stage.journal if entry[0] == "+"]
    ended = [entry[1:] for entry in stage.journal if entry[0] == "-"]
    assert sorted(began) == sorted(ended)
    started = sorted((event.path, event.incarnation) for event in stage.told(ChildStarted))
    exited = sorted((event.path, event.exit.incarnation) for event in stage.told(ChildExited))
    assert started == exited
    assert tasks() == 0


async def _crash_and_wait(stage, tree):
    stage["a"].crash()
    await trio.sleep_forever()


async def _stop(stage, tree):
    await tree.root.stop("a")


async def _leave(stage, tree):
    pass


async def _start(stage, tree):
    stage["late"].start_s = 9
    await tree.root.start(stage.child("late"))


@pytest.mark.parametrize(
    ("body", "at", "state"),
    [
        (_crash_and_wait, 0.5, {"a": "waiting", "b": "running", "c": "stopping"}),  # a strategy half carried out
        (_crash_and_wait, 4.5, {"a": "running", "b": "starting", "c": "waiting"}),  # its restarts half done
        (_stop, 1.5, {"a": "stopping", "b": "running", "c": "running"}),
        (_leave, 1.5, {"a": "running", "b": "running", "c": "stopping"}),
        (_start, 1.5, {"a": "running", "b": "running", "c": "running", "late": "starting"}),
    ],
)
async def test_a_cancellation_from_outside_leaves_no_task_and_is_caught_where_it_was_made(
    stage, autojump_clock, body, at, state
):
    children = [stage.child(name) for name in "abc"]
    stage["a"].drain_s = stage["c"].drain_s = 3
    root = stage.supervisor(children, strategy=Strategy.ONE_FOR_ALL)
    seen = {}
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel():
                await trio.sleep(at)
                seen.update({info.name: info.state.value for info in root.children()})
                scope.cancel()

            nursery.start_soon(cancel)
            async with open_tree(root, on_event=stage.events.append) as tree:
                stage["b"].start_s = 5  # when it is started again
                await body(stage, tree)
    assert scope.cancelled_caught
    assert seen == state
    assert trio.current_time() == at
    assert_nothing_left(stage)
    assert isinstance(stage.events[-1], TreeStopped)


async def test_a_cancellation_during_the_backoff_leaves_nothing(stage, autojump_clock):
    with trio.move_on_after(0.5) as scope:
        async with stage.tree("a"):
            stage["a"].crash()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(stage.told(ChildRestarting)) == 1
    assert_nothing_left(stage)


async def test_a_cancellation_during_the_first_start_leaves_nothing(stage, autojump_clock):
    stage["b"].start_s = 5
    with trio.move_on_after(1) as scope:
        async with stage.tree("abc"):
            pytest.fail("the tree is not to be entered")
    assert scope.cancelled_caught
    assert " ".join(stage.journal) in {"+a =a +b -b -a", "+a =a +b -a -b"}
    assert_nothing_left(stage)


async def _eventful(stage, at_end):
    """A tree of three levels in which something happens at every turn."""
    for name in "abcdk":
        stage[name].drain_s = 0.2
        stage[name].start_s = 0.3
    pool = dynamic(lambda key: stage.child(key), name="pool", limit=3)
    inner = stage.supervisor(["b", pool.as_child(), "c"], name="inner", strategy=Strategy.REST_FOR_ONE)
    last = stage.child("d", restart=Restart.TRANSIENT, significant=True)
    root = stage.supervisor(["a", inner.as_child(), last], auto_shutdown=AutoShutdown.ANY_SIGNIFICANT)
    try:
        async with open_tree(root, on_event=stage.events.append) as tree:
            await pool.start("k")
            await inner.restart("c")
            stage["k"].crash()
            stage["b"].crash()
            await stage.settle(1)
            stage["d"].finish()
            await tree.wait_closed()
    finally:
        at_end.append(trio.current_time())


@pytest.mark.parametrize("tenths", range(1, 50))
async def test_a_cancellation_at_any_time_leaves_nothing(stage, autojump_clock, tenths):
    at_end = []
    with trio.move_on_at(tenths / 10 + 0.01) as scope:
        await _eventful(stage, at_end)
    assert_nothing_left(stage)
    if scope.cancelled_caught:
        assert at_end[0] <= tenths / 10 + 0.01
    else:
        assert tenths >= 32


@pytest.mark.parametrize("ticks", range(60))
async def test_a_cancellation_at_any_tick_leaves_nothing(stage, autojump_clock, ticks):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel():
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            async with stage.tree("abc", strategy=Strategy.ONE_FOR_ALL) as tree:
                stage["b"].crash()
                stage["c"].crash()
                await tree.root.stop("a")
                await tree.root.restart("a")
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert_nothing_left(stage)


async def test_callers_outside_the_cancelled_scope_are_told_that_the_tree_is_down(stage, autojump_clock):
    stage["b"].start_s = 5
    pool = dynamic(lambda key: stage.child(key), name="pool", limit=3)
    root = stage.supervisor([pool.as_child()])
    stage["p"].start_s = stage["b"].start_s = 5
    stage["q"].drain_s = 5
    outcomes = []

    async def ask(async_fn, *args):
        try:
            outcomes.append(await async_fn(*args))
        except ActorDown as error:
            outcomes.append(type(error))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(2):
            async with open_tree(root) as tree:
                await pool.start("q")
                nursery.start_soon(ask, pool.start, "p")
                nursery.start_soon(ask, pool.stop, "q")
                await stage.settle()
                nursery.start_soon(ask, tree.root.start, stage.child("b"))
                await stage.settle()
                nursery.start_soon(ask, tree.root.stop, "pool")
                await trio.sleep_forever()
    assert trio.current_time() == 2
    assert outcomes.count(ActorDown) == 3
    [how] = [outcome for outcome in outcomes if outcome is not ActorDown]
    assert how.reason == "stopped"


async def test_an_error_in_cleanup_during_a_cancellation_is_reported(stage, autojump_clock):
    stage["a"].cleanup_error = OSError("lost")
    with trio.move_on_after(1):
        async with stage.tree("a"):
            await trio.sleep_forever()
    [event] = stage.told(ChildExited)
    assert event.exit.reason == "failed"
    assert event.exit.error is stage["a"].cleanup_error


async def test_an_error_beside_a_cancellation_is_split_off_and_reported(stage, autojump_clock):
    async def careless(ctx, *, task_status):
        async def cleanup():
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("lost")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup)
            task_status.started()
            await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        async with stage.tree([Child(name="careless", run=careless)]):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    [event] = stage.told(ChildExited)
    assert event.exit.reason == "failed"
    assert event.exit.error.split(OSError)[1] is None


async def test_an_error_in_a_start_that_was_cancelled_is_reported(stage, autojump_clock):
    stage["a"].start_s = 5
    stage["a"].cleanup_error = OSError("lost")
    with trio.move_on_after(1):
        async with stage.tree("a"):
            pytest.fail("the tree is not to be entered")
    [event] = stage.told(ChildStartFailed)
    assert event.error.__cause__ is stage["a"].cleanup_error
    assert not stage.told(ChildExited)


async def test_an_error_in_a_start_that_was_given_up_is_reported(stage, autojump_clock):
    stage["a"].start_s = 5
    stage["a"].cleanup_error = OSError("lost")
    async with stage.tree([]) as tree:
        with trio.move_on_after(1):
            await tree.root.start(stage.child("a"))
        await stage.settle()
    [event] = stage.told(ChildStartFailed)
    assert event.error.__cause__ is stage["a"].cleanup_error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("in_group", [False, True])
async def test_ctrl_c_and_exit_are_never_taken_for_the_crash_of_a_child(stage, autojump_clock, kind, in_group):
    inner = stage.supervisor("ab", name="inner")
    error = BaseExceptionGroup("both", [kind(), ValueError()]) if in_group else kind()
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree([inner.as_child(), "c"]):
            stage["a"].crash(error)
            await trio.sleep_forever()
    assert caught.value.split(kind)[0] is not None
    assert not stage.told(ChildRestarting)
    reasons = {event.path: event.exit.reason for event in stage.told(ChildExited)}
    split_off = reasons.pop("root.inner.a")
    assert split_off == ("failed" if in_group else "stopped")
    assert set(reasons.values()) == {"stopped"}
    assert caught.value.split(ValueError)[0] is None
    assert_nothing_left(stage)


async def test_ctrl_c_in_a_subscriber_is_not_swallowed(stage, autojump_clock):
    def subscriber(event):
        if isinstance(event, ChildExited):
            raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with open_tree(stage.supervisor("a"), on_event=subscriber):
            stage["a"].crash()
            await trio.sleep_forever()
    assert caught.value.split(KeyboardInterrupt)[1] is None
