"""Starting and stopping: order, readiness, grace, and the calls that change a running tree."""

from __future__ import annotations

import math

import pytest
import trio

from holloway.supervisor import (
    LINGER_S,
    ActorDown,
    AutoShutdown,
    Backoff,
    Child,
    ChildExited,
    ChildOverranGrace,
    ChildStarted,
    ChildStartError,
    ChildStartFailed,
    GraceOverrun,
    Intensity,
    Restart,
    SpecError,
    State,
    Supervisor,
    TreeStopped,
    open_tree,
)


def states(tree):
    return {info.name: info.state.value for info in tree.children()}


def exit_of(stage, name):
    return [event.exit for event in stage.told(ChildExited) if event.path == f"root.{name}"][-1]


# Starting


async def test_children_start_in_list_order_and_each_start_waits_for_the_one_before_to_be_ready(stage, autojump_clock):
    for name, seconds in (("a", 3), ("b", 1), ("c", 2)):
        stage[name].start_s = seconds
    async with stage.tree("abc"):
        assert stage.took() == "+a =a +b =b +c =c"
        assert trio.current_time() == 6
    assert [event.path for event in stage.told(ChildStarted)] == ["root.a", "root.b", "root.c"]


async def test_a_tree_is_entered_only_when_nested_supervisors_are_ready(stage, autojump_clock):
    stage["b"].start_s = 4
    inner = stage.supervisor("ab", name="inner")
    async with stage.tree([inner.as_child(), "c"]):
        assert stage.took() == "+a =a +b =b +c =c"


async def test_third_failed_start_stops_first_two_in_reverse_and_fails_the_supervisor_with_the_cause(
    stage, autojump_clock
):
    stage["c"].starts_to_fail = 1
    with pytest.raises(ChildStartError) as caught:
        async with stage.tree("abcd"):
            pytest.fail("the tree is not to be entered")
    assert stage.took() == "+a =a +b =b +c -c -b -a"
    assert caught.value.path == "root.c"
    assert isinstance(caught.value.__cause__, OSError)
    assert [event.path for event in stage.told(ChildStartFailed)] == ["root.c"]
    assert stage.events[-1] == TreeStopped("root", 0, caught.value)


async def test_a_failed_start_below_keeps_its_cause_through_every_level(stage, autojump_clock):
    stage["b"].starts_to_fail = 1
    inner = stage.supervisor("ab", name="inner")
    with pytest.raises(ChildStartError) as caught:
        async with stage.tree(["c", inner.as_child()]):
            pytest.fail("the tree is not to be entered")
    assert stage.took() == "+c =c +a =a +b -b -a -c"
    assert caught.value.path == "root.inner"
    assert caught.value.__cause__.path == "root.inner.b"
    assert isinstance(caught.value.__cause__.__cause__, OSError)


async def test_a_child_not_ready_in_time_is_cancelled_and_is_a_start_error(stage, autojump_clock):
    stage["a"].start_s = 11
    with pytest.raises(ChildStartError, match="not ready within 10 s") as caught:
        async with stage.tree("a"):
            pytest.fail("the tree is not to be entered")
    assert trio.current_time() == 10
    assert stage.took() == "+a -a"
    assert caught.value.__cause__ is None


async def test_a_return_without_started_is_a_start_error_not_a_runtime_error(stage, autojump_clock):
    stage["a"].is_mute = True
    with pytest.raises(ChildStartError, match="returned before it was ready"):
        async with stage.tree("a"):
            pytest.fail("the tree is not to be entered")


async def test_started_twice_is_a_bug_of_the_actor(stage, autojump_clock):
    async def eager(ctx, *, task_status):
        task_status.started(1)
        task_status.started(2)

    async with stage.tree([Child(name="eager", run=eager, restart=Restart.TEMPORARY)]):
        await stage.settle()
    assert isinstance(exit_of(stage, "eager").error, RuntimeError)


async def test_started_after_the_timeout_comes_too_late(stage, autojump_clock):
    async def slow(ctx, *, task_status):
        with trio.CancelScope(shield=True):
            await trio.sleep(12)
        task_status.started("too late")
        await trio.sleep_forever()

    async with stage.tree([]) as tree:
        ref = tree.ref("slow")
        with pytest.raises(ChildStartError, match="not ready within 10 s"):
            await tree.root.start(Child(name="slow", run=slow))
        with pytest.raises(ActorDown):
            ref.get()
    assert trio.current_time() == 12
    assert not stage.told(ChildStarted)


async def test_an_error_after_the_timeout_is_the_cause_of_the_start_error(stage, autojump_clock):
    stage["a"].start_s = 20
    stage["a"].cleanup_error = OSError("while giving up")
    with pytest.raises(ChildStartError, match="not ready") as caught:
        async with stage.tree("a"):
            pytest.fail("the tree is not to be entered")
    assert caught.value.__cause__ is stage["a"].cleanup_error


async def test_one_supervisor_object_stands_in_one_place(stage, autojump_clock):
    inner = stage.supervisor("a", name="inner")
    with pytest.raises(ChildStartError) as caught:
        async with stage.tree([Child(name="x", run=inner), Child(name="y", run=inner)], name="outer"):
            pytest.fail("the tree is not to be entered")
    assert isinstance(caught.value.__cause__, SpecError)


# Stopping


async def test_children_stop_in_exact_reverse_order_one_after_the_other(stage, autojump_clock):
    for name, seconds in (("a", 1), ("b", 3), ("c", 2)):
        stage[name].drain_s = seconds
    async with stage.tree("abc"):
        stage.took()
    assert stage.took() == "-c -b -a"
    assert [(event.path, event.at) for event in stage.told(ChildExited)] == [
        ("root.c", 2),
        ("root.b", 5),
        ("root.a", 6),
    ]


async def test_nested_supervisors_stop_their_own_in_order_in_their_place(stage, autojump_clock):
    inner = stage.supervisor("bc", name="inner")
    for name in "abcd":
        stage[name].drain_s = 4
    async with stage.tree(["a", inner.as_child(), "d"]):
        stage.took()
    assert stage.took() == "-d -c -b -a"
    assert trio.current_time() == 16


async def test_leaving_within_the_grace_is_stopped(stage, autojump_clock):
    stage["a"].drain_s = 4.9
    async with stage.tree("a"):
        pass
    assert trio.current_time() == 4.9
    assert exit_of(stage, "a").reason == "stopped"


async def test_an_actor_that_outstays_its_grace_is_cancelled_and_killed_late(stage, autojump_clock):
    stage["a"].drain_s = 100
    async with stage.tree("a"):
        pass
    assert trio.current_time() == 5
    assert exit_of(stage, "a").reason == "killed_late"
    assert not stage.told(ChildOverranGrace)


async def test_an_actor_that_never_asks_for_stopping_is_cancelled_at_once(stage, autojump_clock):
    async with stage.tree("a"):
        pass
    assert trio.current_time() == 0
    assert exit_of(stage, "a").reason == "stopped"


async def test_cleanup_after_a_cancellation_has_the_grace_and_the_linger_for_itself(stage, autojump_clock):
    stage["a"].shield_s = 5 + LINGER_S - 0.1
    async with stage.tree("a"):
        pass
    assert exit_of(stage, "a").reason == "stopped"
    assert not stage.told(ChildOverranGrace)


@pytest.mark.parametrize(("drain_s", "at"), [(None, 5 + LINGER_S), (100, 5 + LINGER_S)])
async def test_a_child_shielded_beyond_linger_is_reported_and_stop_raises_in_bounded_time(
    stage, autojump_clock, drain_s, at
):
    stage["a"].shield_s = 60
    stage["a"].drain_s = drain_s
    async with stage.tree("ab") as tree:
        with pytest.raises(GraceOverrun):
            await tree.root.stop("a")
        assert trio.current_time() == at
        assert states(tree) == {"a": "zombie", "b": "running"}
        with pytest.raises(GraceOverrun):  # again, and at once
            await tree.root.stop("a")
        with pytest.raises(GraceOverrun):
            await tree.root.restart("a")
        with pytest.raises(SpecError, match="zombie"):
            tree.root.remove("a")
        assert trio.current_time() == at
        await stage.settle(60)
        assert states(tree) == {"a": "stopped", "b": "running"}
        assert exit_of(stage, "a").reason == "killed_late"
        await tree.root.restart("a")
        stage["a"].shield_s = 0
    [event] = stage.told(ChildOverranGrace)
    assert event.path == "root.a"
    assert "shield_s" in event.stack  # the line it hangs on


async def test_the_stacks_of_an_overrun_show_the_tasks_below_the_actor(stage, autojump_clock):
    async def hang():
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async def parent(ctx, *, task_status):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            nursery.start_soon(hang)
            task_status.started()

    async with stage.tree([Child(name="p", run=parent, restart=Restart.TEMPORARY, stop_grace=0)]):
        await stage.settle()
    [event] = stage.told(ChildOverranGrace)
    assert event.at == LINGER_S
    assert event.stack.count("trio.sleep(60)") == 2


async def test_a_zombie_holds_its_tree_open_until_it_ends(stage, autojump_clock):
    stage["a"].shield_s = 60
    async with stage.tree("ab"):
        stage.took()
    assert trio.current_time() == 60
    assert stage.took() == "-b -a"
    assert exit_of(stage, "a").reason == "killed_late"
    assert isinstance(stage.events[-1], TreeStopped)


async def test_a_restart_that_overran_is_made_good_when_the_zombie_ends(stage, autojump_clock):
    stage["a"].shield_s = 60
    async with stage.tree("a") as tree:
        with pytest.raises(GraceOverrun):
            await tree.root.restart("a")
        stage["a"].shield_s = 0
        await stage.settle(60)
        assert stage.took() == "+a =a -a +a =a"


async def test_a_stop_of_a_zombie_takes_back_its_restart(stage, autojump_clock):
    stage["a"].shield_s = 60
    async with stage.tree("a") as tree:
        with pytest.raises(GraceOverrun):
            await tree.root.restart("a")
        with pytest.raises(GraceOverrun):
            await tree.root.stop("a")
        await stage.settle(60)
        assert stage.took() == "+a =a -a"
        assert states(tree) == {"a": "stopped"}


@pytest.mark.parametrize("drain_s", [None, 100])
async def test_an_error_in_cleanup_while_being_stopped_is_reported_as_a_failure(stage, autojump_clock, drain_s):
    stage["a"].cleanup_error = OSError("disk full")
    stage["a"].drain_s = drain_s
    async with stage.tree("a") as tree:
        how = await tree.root.stop("a")
        assert how.reason == "failed"
        assert how.error is stage["a"].cleanup_error or how.error.exceptions == (stage["a"].cleanup_error,)
        [info] = tree.children()
        assert info.state is State.STOPPED
        assert "disk full" in info.error


async def test_an_error_of_an_inner_nursery_in_cleanup_is_a_failure_though_the_cancel_was_caught(stage, autojump_clock):
    async def careless(ctx, *, task_status):
        async def child():
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("in cleanup")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            task_status.started()

    async with stage.tree([Child(name="careless", run=careless)]) as tree:
        how = await tree.root.stop("careless")
    assert how.reason == "failed"
    assert isinstance(how.error, ExceptionGroup)
    assert how.error.split(OSError)[1] is None


async def test_stopping_while_a_child_starts_gives_that_start_up_and_stops_the_rest(stage, autojump_clock):
    stage["b"].start_s = 8
    stage["b"].drain_s = None
    inner = stage.supervisor("abc", name="inner")
    async with stage.tree([]) as tree, trio.open_nursery() as nursery:
        nursery.start_soon(expect, ActorDown, tree.root.start, inner.as_child())
        await trio.sleep(2)
        nursery.start_soon(tree.stop)
    assert trio.current_time() == 2
    assert stage.took() == "+a =a +b -b -a"
    assert not stage.told(ChildStartFailed)


async def expect(kind, async_fn, *args):
    with pytest.raises(kind):
        await async_fn(*args)


async def test_an_error_of_the_body_stops_the_tree_in_order_and_passes_bare(stage, autojump_clock):
    class OwnError(Exception):
        pass

    stage["a"].drain_s = 2
    stage["b"].drain_s = 1
    with pytest.raises(OwnError):  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree("ab"):
            stage.took()
            raise OwnError
    assert stage.took() == "-b -a"
    assert trio.current_time() == 3


async def test_an_error_of_the_body_and_one_of_the_tree_leave_as_a_group(stage, autojump_clock):
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - it is the tree that fails, beside its body
        async with stage.tree("a", intensity=Intensity(restarts=0)):
            stage["a"].crash()
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("body")
    assert {type(error).__name__ for error in caught.value.exceptions} == {"KeyError", "IntensityExceeded"}


async def test_tree_stop_ends_the_tree_inside_the_body(stage, autojump_clock):
    async with stage.tree("ab") as tree:
        ref = tree.ref("a")
        await tree.stop()
        assert stage.took() == "+a =a +b =b -b -a"
        with pytest.raises(ActorDown, match="tree has stopped"):
            await ref.ready()
        with pytest.raises(ActorDown, match="tree has stopped"):
            await tree.ref("never").ready()
        assert states(tree) == {"a": "stopped", "b": "stopped"}
        with pytest.raises(ActorDown):
            await tree.root.stop("a")


# Calls


async def test_a_started_child_is_ready_and_comes_last(stage, autojump_clock):
    stage["b"].start_s = 2
    async with stage.tree("a") as tree:
        ref = await tree.root.start(stage.child("b"))
        assert ref.get() is stage["b"]
        assert states(tree) == {"a": "running", "b": "running"}
        stage.took()
    assert stage.took() == "-b -a"


async def test_a_start_that_fails_is_raised_to_the_caller_and_its_spec_is_not_kept(stage, autojump_clock):
    stage["b"].starts_to_fail = 1
    async with stage.tree("a") as tree:
        with pytest.raises(ChildStartError):
            await tree.root.start(stage.child("b"))
        assert states(tree) == {"a": "running"}
        await tree.root.start(stage.child("b"))


async def test_a_cancelled_start_is_undone(stage, autojump_clock):
    stage["b"].start_s = 5
    async with stage.tree("a") as tree:
        with trio.move_on_after(2):
            await tree.root.start(stage.child("b"))
        await stage.settle()
        assert stage.took() == "+a =a +b -b"
        assert states(tree) == {"a": "running"}


async def test_a_start_cancelled_before_its_turn_never_begins(stage, autojump_clock):
    stage["b"].start_s = 5
    async with stage.tree("a") as tree, trio.open_nursery() as nursery:
        nursery.start_soon(tree.root.start, stage.child("b"))
        await stage.settle()
        with trio.move_on_after(2):
            await tree.root.start(stage.child("c"))
        await stage.settle(5)
        assert stage.took() == "+a =a +b =b"
        assert states(tree) == {"a": "running", "b": "running"}


async def test_a_stop_keeps_the_spec_and_restart_brings_the_child_back(stage, autojump_clock):
    async with stage.tree("ab") as tree:
        how = await tree.root.stop("a")
        assert (how.reason, how.incarnation) == ("stopped", 1)
        assert await tree.root.stop("a") == how  # asked again: how it had ended
        assert states(tree) == {"a": "stopped", "b": "running"}
        await tree.root.restart("a")
        assert [(i.name, i.state, i.incarnation, i.restarts) for i in tree.children()] == [
            ("a", State.RUNNING, 2, 0),
            ("b", State.RUNNING, 1, 0),
        ]


async def test_a_cancelled_stop_is_carried_out_all_the_same(stage, autojump_clock):
    stage["a"].drain_s = 4
    async with stage.tree("a") as tree:
        with trio.move_on_after(1):
            await tree.root.stop("a")
        await stage.settle(3)
        assert states(tree) == {"a": "stopped"}


async def test_a_restart_of_a_running_child_is_a_new_incarnation_and_spends_no_budget(stage, autojump_clock):
    async with stage.tree("ab", intensity=Intensity(restarts=0)) as tree:
        stage.took()
        await tree.root.restart("a")
        assert stage.took() == "-a +a =a"


async def test_a_child_may_restart_itself(stage, autojump_clock):
    lives = []

    async def phoenix(ctx, *, task_status):
        lives.append(trio.current_time())
        task_status.started()
        if len(lives) == 1:
            await trio.sleep(1)
            await supervisor.restart("phoenix")
        await trio.sleep_forever()

    supervisor = Supervisor([Child(name="phoenix", run=phoenix)], name="root")
    async with open_tree(supervisor) as tree:
        await stage.settle(10)
        assert lives == [0, 1]
        assert states(tree) == {"phoenix": "running"}


async def test_a_failed_restart_call_leaves_the_child_stopped_and_tells_the_caller(stage, autojump_clock):
    async with stage.tree("a") as tree:
        stage["a"].starts_to_fail = 1
        with pytest.raises(ChildStartError):
            await tree.root.restart("a")
        [info] = tree.children()
        assert (info.state, info.restarts) == (State.STOPPED, 0)
        assert info.error == "ChildStartError: root.a did not start: it failed"
        await stage.settle(100)
        assert states(tree) == {"a": "stopped"}


async def test_a_temporary_child_leaves_with_its_spec(stage, autojump_clock):
    async with stage.tree([stage.child("a", restart=Restart.TEMPORARY), "b"]) as tree:
        how = await tree.root.stop("a")
        assert how.reason == "stopped"
        assert states(tree) == {"b": "running"}
        with pytest.raises(SpecError, match="no child called a"):
            await tree.root.stop("a")


async def test_only_a_stopped_child_can_be_removed(stage, autojump_clock):
    async with stage.tree("ab") as tree:
        with pytest.raises(SpecError, match="running"):
            tree.root.remove("a")
        await tree.root.stop("a")
        tree.root.remove("a")
        assert states(tree) == {"b": "running"}
        with pytest.raises(SpecError, match="no child"):
            tree.root.remove("a")
        with pytest.raises(SpecError, match="no child"):
            await tree.root.restart("a")


async def test_a_name_can_be_used_once_at_a_time(stage, autojump_clock):
    async with stage.tree("a") as tree:
        with pytest.raises(SpecError, match="already"):
            await tree.root.start(stage.child("a"))
        await tree.root.stop("a")
        with pytest.raises(SpecError, match="already"):
            await tree.root.start(stage.child("a"))
        tree.root.remove("a")
        await tree.root.start(stage.child("a"))


async def test_calls_to_a_supervisor_that_is_down_or_not_up_yet_are_refused(stage, autojump_clock):
    supervisor = stage.supervisor("a")
    assert [info.state for info in supervisor.children()] == [State.STOPPED]
    for call in (supervisor.stop("a"), supervisor.restart("a"), supervisor.start(stage.child("b"))):
        with pytest.raises(ActorDown):
            await call
    with pytest.raises(ActorDown):
        supervisor.remove("a")
    stage["a"].start_s = 3
    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run():
            async with open_tree(supervisor):
                await stop.wait()

        nursery.start_soon(run)
        await trio.sleep(1)
        with pytest.raises(ActorDown, match="starting"):
            supervisor.remove("a")
        stop.set()


async def test_calls_made_while_the_tree_stops_are_refused_at_once(stage, autojump_clock):
    stage["a"].drain_s = 3
    stage["b"].drain_s = 3
    async with stage.tree("ab") as tree, trio.open_nursery() as nursery:
        nursery.start_soon(tree.root.stop, "b")
        await trio.sleep(1)
        nursery.start_soon(expect, ActorDown, tree.root.restart, "a")  # waits behind the stop of b
        await trio.sleep(1)
        nursery.start_soon(tree.stop)
        await trio.sleep(0.5)
        with pytest.raises(ActorDown, match="stopping"):
            await tree.root.restart("a")
        with pytest.raises(ActorDown, match="stopping"):
            tree.root.remove("b")
        assert trio.current_time() == 2.5


async def test_a_supervisor_started_again_by_its_parent_begins_with_its_own_specs(stage, autojump_clock):
    inner = stage.supervisor("a", name="inner")
    async with stage.tree([inner.as_child()]) as tree:
        await inner.start(stage.child("b"))
        await tree.root.restart("inner")
        assert [info.name for info in inner.children()] == ["a"]
        assert stage.took() == "+a =a +b =b -b -a +a =a"


# Specs


@pytest.mark.parametrize(
    "spec",
    [
        {"name": ""},
        {"name": "a.b"},
        {"start_timeout": 0},
        {"start_timeout": math.nan},
        {"stop_grace": -1},
        {"stop_grace": math.nan},
        {"significant": True},  # and permanent
    ],
    ids=str,
)
def test_a_child_that_cannot_hold_is_refused_when_it_is_made(stage, spec):
    with pytest.raises(SpecError):
        Child(**{"name": "a", "run": stage["a"], **spec})


@pytest.mark.parametrize(
    "spec",
    [
        {"initial": -1},
        {"initial": 2, "maximum": 1},
        {"initial": math.nan},
        {"maximum": math.inf},
        {"factor": 0.5},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"reset_after": -1},
    ],
    ids=str,
)
def test_a_backoff_that_cannot_hold_is_refused_when_it_is_made(spec):
    with pytest.raises(SpecError):
        Backoff(**spec)


@pytest.mark.parametrize("spec", [{"restarts": -1}, {"period": 0}, {"period": math.nan}], ids=str)
def test_an_intensity_that_cannot_hold_is_refused_when_it_is_made(spec):
    with pytest.raises(SpecError):
        Intensity(**spec)


def test_siblings_that_cannot_hold_are_refused_when_the_supervisor_is_made(stage):
    with pytest.raises(SpecError, match="two children"):
        stage.supervisor("aba")
    significant = stage.child("a", significant=True, restart=Restart.TRANSIENT)
    with pytest.raises(SpecError, match="NEVER"):
        stage.supervisor([significant])
    assert stage.supervisor([significant], auto_shutdown=AutoShutdown.ANY_SIGNIFICANT).specs == (significant,)
    with pytest.raises(SpecError, match="no name"):
        stage.supervisor("a", name="a.b")


def test_a_nested_supervisor_needs_the_grace_of_all_its_children(stage):
    inner = stage.supervisor("ab", name="inner")
    with pytest.raises(SpecError, match="10 s"):
        stage.supervisor([Child(name="inner", run=inner, stop_grace=9.9)])
    stage.supervisor([Child(name="inner", run=inner, stop_grace=10)])
    stage.supervisor([inner.as_child()])
    assert inner.as_child().stop_grace == inner.as_child().start_timeout == math.inf


async def test_a_child_started_late_is_checked_like_one_from_the_beginning(stage, autojump_clock):
    inner = stage.supervisor("bc", name="inner")
    async with stage.tree("a") as tree:
        with pytest.raises(SpecError, match="grace"):
            await tree.root.start(Child(name="inner", run=inner, stop_grace=1))
        with pytest.raises(SpecError, match="NEVER"):
            await tree.root.start(stage.child("b", significant=True, restart=Restart.TRANSIENT))
        assert states(tree) == {"a": "running"}


def test_a_supervisor_prints_what_it_is(stage):
    assert repr(stage.supervisor("ab")) == "<Supervisor root one_for_one of 2>"
