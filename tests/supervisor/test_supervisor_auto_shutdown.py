"""Significant children: when a supervisor has done its work, and what does not count."""

from __future__ import annotations

import pytest

from holloway.supervisor import AutoShutdown, Backoff, Intensity, Restart, Strategy, TreeStopped


def significant(stage, name, restart=Restart.TRANSIENT, **spec):
    return stage.child(name, restart=restart, significant=True, **spec)


async def is_over(stage):
    await stage.settle()
    return bool(stage.told(TreeStopped))


ANY, ALL = AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT


@pytest.mark.parametrize("restart", [Restart.TRANSIENT, Restart.TEMPORARY])
async def test_any_significant_end_stops_the_rest_in_reverse_and_returns_normally(stage, autojump_clock, restart):
    children = ["a", significant(stage, "s", restart), significant(stage, "t"), "b"]
    async with stage.tree(children, auto_shutdown=ANY) as tree:
        stage.took()
        stage["s"].finish()
        await tree.wait_closed()
        assert stage.took() == "-s -b -t -a"


async def test_all_significant_waits_for_the_last_one(stage, autojump_clock):
    children = ["a", significant(stage, "s"), significant(stage, "t", Restart.TEMPORARY)]
    async with stage.tree(children, auto_shutdown=ALL):
        stage["s"].finish()
        assert not await is_over(stage)
        stage["t"].crash()  # temporary: any end is its last
        assert await is_over(stage)


async def test_an_insignificant_end_changes_nothing(stage, autojump_clock):
    children = [stage.child("a", restart=Restart.TEMPORARY), significant(stage, "s")]
    async with stage.tree(children, auto_shutdown=ANY):
        stage["a"].finish()
        assert not await is_over(stage)


async def test_without_auto_shutdown_a_supervisor_outlives_its_last_child(stage, autojump_clock):
    async with stage.tree([stage.child("a", restart=Restart.TEMPORARY)]) as tree:
        stage["a"].finish()
        assert not await is_over(stage)
        assert tree.children() == ()


async def test_a_failure_that_is_restarted_is_not_an_end(stage, autojump_clock):
    async with stage.tree([significant(stage, "s")], auto_shutdown=ANY) as tree:
        stage["s"].crash()
        assert not await is_over(stage)
        await stage.settle(1)
        assert [info.incarnation for info in tree.children()] == [2]


@pytest.mark.parametrize("mode", [ANY, ALL])
async def test_a_stop_by_the_supervisor_is_neither_a_restart_nor_a_significant_end(stage, autojump_clock, mode):
    async with stage.tree([significant(stage, "s"), "a"], auto_shutdown=mode, intensity=Intensity(restarts=0)) as tree:
        await tree.root.stop("s")
        assert not await is_over(stage)
        await tree.root.restart("s")
        await tree.root.restart("s")
        await stage.settle(10)
        assert [info.state.value for info in tree.children()] == ["running", "running"]


async def test_a_temporary_significant_victim_of_a_group_is_not_a_significant_end(stage, autojump_clock):
    children = [significant(stage, "s", Restart.TEMPORARY), "a"]
    async with stage.tree(children, auto_shutdown=ANY, strategy=Strategy.ONE_FOR_ALL) as tree:
        stage["a"].crash()
        await stage.settle(1)
        assert [info.name for info in tree.children()] == ["a"]
        assert not await is_over(stage)


async def test_the_last_one_leaving_while_another_waits_for_its_restart_is_not_the_last(stage, autojump_clock):
    children = [significant(stage, "s"), significant(stage, "t")]
    async with stage.tree(children, auto_shutdown=ALL):
        stage["s"].crash()
        await stage.settle(0.5)
        stage["t"].finish()
        assert not await is_over(stage)
        await stage.settle(1)
        stage["s"].finish()
        assert await is_over(stage)


async def test_one_that_was_stopped_does_not_hold_back_the_shutdown(stage, autojump_clock):
    children = [significant(stage, "s"), significant(stage, "t")]
    async with stage.tree(children, auto_shutdown=ALL) as tree:
        await tree.root.stop("s")
        assert not await is_over(stage)
        stage["t"].finish()
        assert await is_over(stage)


async def test_two_that_leave_in_the_same_tick_shut_down_once(stage, autojump_clock):
    children = [significant(stage, "s"), significant(stage, "t"), "a"]
    async with stage.tree(children, auto_shutdown=ANY) as tree:
        stage.took()
        stage["t"].finish()
        stage["s"].crash()
        await tree.wait_closed()
    assert sorted(stage.took().split()) == ["-a", "-s", "-t"]


async def test_a_parent_restarts_a_permanent_supervisor_that_shut_itself_down(stage, autojump_clock):
    inner = stage.supervisor([significant(stage, "s")], name="inner", auto_shutdown=ANY)
    async with stage.tree([inner.as_child()]) as tree:
        stage.took()
        stage["s"].finish()
        await stage.settle(1)
        assert stage.took() == "-s +s =s"
        assert tree.children()[0].incarnation == 2


async def test_a_parent_leaves_a_transient_supervisor_that_shut_itself_down(stage, autojump_clock):
    inner = stage.supervisor([significant(stage, "s")], name="inner", auto_shutdown=ANY)
    async with stage.tree([inner.as_child(restart=Restart.TRANSIENT)]) as tree:
        stage["s"].finish()
        await stage.settle(1)
        assert tree.children()[0].state.value == "stopped"


async def test_a_tick_of_many_ends_after_the_decision_to_end_restarts_nobody(stage, autojump_clock):
    children = [significant(stage, "s"), stage.child("a", backoff=Backoff(initial=0))]
    async with stage.tree(children, auto_shutdown=ANY) as tree:
        stage.took()
        stage["s"].finish()
        stage["a"].crash()
        await tree.wait_closed()
        assert sorted(stage.took().split()) == ["-a", "-s"]
