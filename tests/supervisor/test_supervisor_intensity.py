"""Restart budgets: when a supervisor gives up, what it leaves behind, and what the levels above see."""

from __future__ import annotations

import pytest
import trio

from holloway.supervisor import (
    ActorDown,
    Backoff,
    Child,
    ChildExited,
    ChildStarted,
    ChildStartFailed,
    Intensity,
    IntensityExceeded,
    Restart,
    Strategy,
    SupervisorGaveUp,
    TreeStopped,
)

AT_ONCE = Backoff(initial=0)


async def crash(stage, name, *times):
    for time in times:
        await trio.sleep_until(time)
        stage[name].crash(ValueError(f"{name} at {time}"))
        await stage.settle()


async def test_exactly_restarts_inside_the_period_survive(stage, autojump_clock):
    child = stage.child("a", backoff=AT_ONCE)
    async with stage.tree([child], intensity=Intensity(restarts=3, period=30)) as tree:
        await crash(stage, "a", 1, 2, 3)
        assert tree.children()[0].restarts == 3
        await stage.settle(5)


async def test_one_more_gives_up_and_stops_all_in_reverse(stage, autojump_clock):
    children = ["x", stage.child("a", backoff=AT_ONCE), "y"]
    with pytest.raises(IntensityExceeded, match="more than 3 restarts in 30 s") as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree(children, intensity=Intensity(restarts=3, period=30)):
            await crash(stage, "a", 1, 2, 3)
            stage.took()
            await crash(stage, "a", 4)
            pytest.fail("the body is cancelled when its tree gives up")
    assert stage.took() == "-a -y -x"
    assert [str(cause) for cause in caught.value.causes.exceptions] == [f"a at {time}" for time in (1, 2, 3, 4)]
    assert (caught.value.path, caught.value.restarts, caught.value.period) == ("root", 3, 30)
    [event] = stage.told(SupervisorGaveUp)
    assert event.error is caught.value
    assert stage.events[-1] == TreeStopped("root", 4, caught.value)


@pytest.mark.parametrize(("last", "survives"), [(29.9, False), (30, False), (30.1, True)])
async def test_a_restart_one_period_old_still_counts_and_an_older_one_does_not(stage, autojump_clock, last, survives):
    child = stage.child("a", backoff=AT_ONCE)
    gave_up = False
    try:
        async with stage.tree([child], intensity=Intensity(restarts=2, period=30)):
            await crash(stage, "a", 0, 10, last)
    except IntensityExceeded:
        gave_up = True
    assert gave_up is not survives


async def test_the_window_slides_and_forgets(stage, autojump_clock):
    child = stage.child("a", backoff=AT_ONCE)
    async with stage.tree([child], intensity=Intensity(restarts=2, period=10)) as tree:
        await crash(stage, "a", *range(0, 100, 6))  # never three in ten seconds
        assert tree.children()[0].restarts == 17


async def test_the_budget_is_shared_by_all_children(stage, autojump_clock):
    children = [stage.child(name, backoff=AT_ONCE) for name in "abc"]
    with pytest.raises(IntensityExceeded):  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree(children, intensity=Intensity(restarts=2)):
            for name in "abc":
                await crash(stage, name, 1)


async def test_no_restarts_allowed_means_the_first_failure_is_the_end(stage, autojump_clock):
    with pytest.raises(IntensityExceeded):
        async with stage.tree("a", intensity=Intensity(restarts=0)):
            await crash(stage, "a", 1)


async def test_failed_restarts_spend_the_budget_and_their_cause_is_reachable(stage, autojump_clock):
    child = stage.child("a", backoff=AT_ONCE)
    with pytest.raises(IntensityExceeded) as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree([child], intensity=Intensity(restarts=2)):
            stage["a"].starts_to_fail = 100
            await crash(stage, "a", 1)
    assert [type(cause) for cause in caught.value.causes.exceptions] == [ValueError, OSError, OSError]
    assert len(stage.told(ChildStartFailed)) == 2


async def test_returns_of_a_permanent_child_spend_the_budget_and_say_so(stage, autojump_clock):
    with pytest.raises(IntensityExceeded) as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree("a", intensity=Intensity(restarts=0)):
            stage["a"].finish()
            await stage.settle(1)
    [cause] = caught.value.causes.exceptions
    assert isinstance(cause, ActorDown)
    assert cause.path == "root.a"


async def test_ends_that_are_not_restarted_spend_nothing(stage, autojump_clock):
    children = [stage.child(name, restart=Restart.TEMPORARY) for name in "abc"]
    async with stage.tree(children, intensity=Intensity(restarts=0)):
        for name in "abc":
            await crash(stage, name, 1)


async def test_budgets_at_two_levels_multiply_and_the_original_cause_is_reached_by_split(stage, autojump_clock):
    async def doomed(ctx, *, task_status):
        task_status.started()
        await trio.sleep(1)
        raise OSError(28, "No space left on device")

    inner = stage.supervisor(
        [Child(name="doomed", run=doomed, backoff=AT_ONCE)], name="inner", intensity=Intensity(restarts=2, period=1000)
    )
    middle = Child(name="inner", run=inner, backoff=AT_ONCE)
    with pytest.raises(IntensityExceeded) as caught:
        async with stage.tree([middle], intensity=Intensity(restarts=3, period=1000)):
            await trio.sleep_forever()
    lives = [event for event in stage.told(ChildStarted) if event.path == "root.inner.doomed"]
    assert len(lives) == (2 + 1) * (3 + 1)
    assert caught.value.path == "root"
    matched, rest = caught.value.causes.split(OSError)
    assert rest is None
    assert all(cause.errno == 28 for group in matched.exceptions for cause in group.exceptions)
    assert [event.path for event in stage.told(SupervisorGaveUp)] == ["root.inner"] * 4 + ["root"]


async def test_the_parent_sees_a_supervisor_that_gave_up_as_a_failing_child(stage, autojump_clock):
    inner = stage.supervisor([stage.child("a", backoff=AT_ONCE), "b"], name="inner", intensity=Intensity(restarts=0))
    transient = Child(
        name="inner", run=inner, restart=Restart.TRANSIENT, stop_grace=10, backoff=Backoff(initial=1, jitter=0)
    )
    async with stage.tree([transient, "c"], strategy=Strategy.ONE_FOR_ALL):
        stage.took()
        stage["a"].crash()
        await stage.settle(1)
        assert stage.took() == "-a -b -c +a =a +b =b +c =c"
    failed, stopped = [event for event in stage.told(ChildExited) if event.path == "root.inner"]
    assert stopped.exit.reason == "stopped"
    assert isinstance(failed.exit.error, IntensityExceeded)


async def test_giving_up_in_the_middle_of_a_group_restart_stops_who_is_up(stage, autojump_clock):
    children = [stage.child(name, backoff=AT_ONCE) for name in "abc"]
    with pytest.raises(IntensityExceeded):  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree(children, strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(restarts=1)):
            stage.took()
            stage["b"].starts_to_fail = 1
            stage["c"].crash()
            await stage.settle(1)
    assert stage.took() == "-c -b -a +a =a +b -b -a"


async def test_the_last_cause_keeps_its_traceback_and_the_others_do_not(stage, autojump_clock):
    with pytest.raises(IntensityExceeded) as caught:
        async with stage.tree([stage.child("a", backoff=AT_ONCE)], intensity=Intensity(restarts=1)):
            await crash(stage, "a", 1, 2)
    first, last = caught.value.causes.exceptions
    assert first.__traceback__ is None
    assert last.__traceback__ is not None
