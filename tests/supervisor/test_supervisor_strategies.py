"""Restarts: who is started again, along with whom, in which order, and after how long."""

from __future__ import annotations

import random

import pytest
import trio

from holloway.supervisor import (
    Backoff,
    ChildExited,
    ChildRestarting,
    ChildStarted,
    ChildStartFailed,
    Intensity,
    Restart,
    State,
    Strategy,
)

AT_ONCE = Backoff(initial=0)


def incarnations(tree):
    return {info.name: info.incarnation for info in tree.children()}


def states(tree):
    return {info.name: info.state.value for info in tree.children()}


# Which siblings


async def test_one_for_one_leaves_sibling_incarnations_untouched(stage, autojump_clock):
    async with stage.tree("abc") as tree:
        handle = tree.ref("c").get()
        stage.took()
        stage["b"].crash()
        await stage.settle(1)
        assert stage.took() == "-b +b =b"
        assert incarnations(tree) == {"a": 1, "b": 2, "c": 1}
        assert tree.ref("c").get() is handle


async def test_rest_for_one_restarts_only_later_ones_in_order(stage, autojump_clock):
    async with stage.tree("abcd", strategy=Strategy.REST_FOR_ONE) as tree:
        stage.took()
        stage["b"].crash()
        await stage.settle(1)
        assert stage.took() == "-b -d -c +b =b +c =c +d =d"
        assert incarnations(tree) == {"a": 1, "b": 2, "c": 2, "d": 2}


async def test_one_for_all_stops_all_in_reverse_then_starts_in_order(stage, autojump_clock):
    async with stage.tree("abcd", strategy=Strategy.ONE_FOR_ALL) as tree:
        stage.took()
        stage["b"].crash()
        await stage.settle(1)
        assert stage.took() == "-b -d -c -a +a =a +b =b +c =c +d =d"
        assert set(incarnations(tree).values()) == {2}


async def test_siblings_are_stopped_at_once_and_wait_out_the_backoff_of_the_one_that_fell(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.ONE_FOR_ALL) as tree:
        stage["b"].crash()
        await stage.settle(0.9)
        assert set(states(tree).values()) == {"waiting"}
        await stage.settle(0.1)
        assert set(states(tree).values()) == {"running"}
    assert [(e.path, e.delay_s, e.because) for e in stage.told(ChildRestarting)] == [
        (f"root.{name}", 1, "root.b") for name in "abc"
    ]


async def test_a_temporary_sibling_victim_is_not_brought_back(stage, autojump_clock):
    children = ["a", stage.child("t", restart=Restart.TEMPORARY), "b"]
    async with stage.tree(children, strategy=Strategy.ONE_FOR_ALL) as tree:
        stage.took()
        stage["b"].crash()
        await stage.settle(1)
        assert stage.took() == "-b -t -a +a =a +b =b"
        assert states(tree) == {"a": "running", "b": "running"}


async def test_a_transient_sibling_victim_is_brought_back(stage, autojump_clock):
    children = [stage.child("t", restart=Restart.TRANSIENT), "b"]
    async with stage.tree(children, strategy=Strategy.ONE_FOR_ALL) as tree:
        stage["b"].crash()
        await stage.settle(1)
        assert incarnations(tree) == {"t": 2, "b": 2}


async def test_a_child_that_was_stopped_is_not_revived_by_its_group(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.ONE_FOR_ALL) as tree:
        await tree.root.stop("c")
        stage["b"].crash()
        await stage.settle(1)
        assert states(tree) == {"a": "running", "b": "running", "c": "stopped"}


# Which ends


@pytest.mark.parametrize(
    ("restart", "failing", "returns"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.PERMANENT, False, True),
        (Restart.TRANSIENT, True, True),
        (Restart.TRANSIENT, False, False),
        (Restart.TEMPORARY, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
async def test_permanent_always_transient_after_failure_temporary_never(
    stage, autojump_clock, restart, failing, returns
):
    async with stage.tree([stage.child("a", restart=restart)]) as tree:
        stage.took()
        if failing:
            stage["a"].crash()
        else:
            stage["a"].finish()
        await stage.settle(1)
        assert stage.took() == ("-a +a =a" if returns else "-a")
        [event] = stage.told(ChildExited)
        assert event.exit.reason == ("failed" if failing else "returned")
        if not returns:
            assert states(tree) == ({"a": "stopped"} if restart is Restart.TRANSIENT else {})


async def test_an_end_that_is_not_restarted_leaves_the_group_alone(stage, autojump_clock):
    children = [stage.child("a", restart=Restart.TRANSIENT), "b"]
    async with stage.tree(children, strategy=Strategy.ONE_FOR_ALL) as tree:
        stage.took()
        stage["a"].finish()
        await stage.settle(5)
        assert stage.took() == "-a"
        assert incarnations(tree) == {"a": 1, "b": 1}


async def test_a_group_of_exceptions_is_a_failure_like_any_other(stage, autojump_clock):
    async with stage.tree([stage.child("a", restart=Restart.TRANSIENT)]) as tree:
        stage["a"].crash(ExceptionGroup("two", [OSError(), KeyError()]))
        await stage.settle(1)
        assert incarnations(tree) == {"a": 2}


# Several at once


@pytest.mark.parametrize("seed", range(8))
async def test_two_that_die_in_the_same_tick_are_heard_in_start_order(stage, autojump_clock, seed):
    order = random.Random(seed).sample("abcd", 4)
    async with stage.tree("abcd", intensity=Intensity(restarts=4)) as tree:
        stage.took()
        for name in order:
            stage[name].crash()
        await stage.settle(1)
        assert incarnations(tree) == dict.fromkeys("abcd", 2)
    exits = [event.path[-1] for event in stage.told(ChildExited) if event.exit.reason == "failed"]
    assert exits == ["a", "b", "c", "d"]
    assert [event.path[-1] for event in stage.told(ChildRestarting)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("names", ["ab", "ba", "cb", "abc"])
async def test_deaths_in_the_same_tick_cost_a_group_one_pass_and_one_restart(stage, autojump_clock, names):
    async with stage.tree("abc", strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(restarts=1)) as tree:
        for name in names:
            stage[name].crash()
        await stage.settle(1)
        assert incarnations(tree) == dict.fromkeys("abc", 2)
    assert len(stage.told(ChildRestarting)) == 3
    assert len(stage.told(ChildExited)) == 6  # each incarnation once, though two were found dead


async def test_an_end_is_heard_before_a_call_of_the_same_tick(stage, autojump_clock):
    async with stage.tree("ab", strategy=Strategy.ONE_FOR_ALL) as tree, trio.open_nursery() as nursery:
        stage["a"].crash()
        nursery.start_soon(tree.root.stop, "a")
        await stage.settle()
        assert states(tree) == {"a": "stopped", "b": "waiting"}


async def test_a_later_one_that_died_with_an_earlier_one_is_part_of_its_rest(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.REST_FOR_ONE, intensity=Intensity(restarts=1)) as tree:
        stage["c"].crash()
        stage["b"].crash()
        await stage.settle(1)
        assert incarnations(tree) == {"a": 1, "b": 2, "c": 2}


async def test_a_death_during_the_wait_of_others_joins_the_group_in_order(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.REST_FOR_ONE) as tree:
        stage.took()
        stage["c"].crash()
        await stage.settle(0.5)
        stage["a"].crash()  # c is due first, yet may not come before a and b
        await stage.settle(0.5)
        assert stage.took() == "-c -a -b"
        await stage.settle(0.5)
        assert stage.took() == "+a =a +b =b +c =c"
        assert set(states(tree).values()) == {"running"}


async def test_a_death_between_two_starts_of_a_group_is_heard_before_the_second(stage, autojump_clock):
    children = ["a", "b", stage.child("c")]
    async with stage.tree(children, strategy=Strategy.ONE_FOR_ALL, intensity=Intensity(restarts=5)) as tree:
        stage.took()
        stage["c"].crash()
        stage["b"].start_s = 3
        await stage.settle(2)
        assert stage.took() == "-c -b -a +a =a +b"
        stage["a"].crash()
        await stage.settle(2)  # b becomes ready; then a's end is heard, and c is not started before
        assert stage.took() == "-a =b -b"
        await stage.settle(5)
        assert stage.took() == "+a =a +b =b +c =c"
        assert set(states(tree).values()) == {"running"}


# Restarts that fail


async def test_a_failed_restart_counts_and_is_retried_with_backoff(stage, autojump_clock):
    child = stage.child("a", backoff=Backoff(initial=1, factor=2, maximum=8, jitter=0))
    async with stage.tree([child], intensity=Intensity(restarts=4, period=100)) as tree:
        stage.took()
        stage["a"].starts_to_fail = 3
        stage["a"].crash()
        await stage.settle(1 + 2 + 4 + 8)
        assert stage.took() == "-a +a -a +a -a +a -a +a =a"
        [info] = tree.children()
        assert (info.incarnation, info.restarts, info.state) == (5, 4, State.RUNNING)
        assert info.error == "ChildStartError: root.a did not start: it failed"
    assert [event.at for event in stage.told(ChildStartFailed)] == [1, 3, 7]
    assert [event.delay_s for event in stage.told(ChildRestarting)] == [1, 2, 4, 8]
    assert isinstance(stage.told(ChildStartFailed)[0].error.__cause__, OSError)


async def test_when_one_of_a_group_fails_to_come_back_the_others_wait_for_it(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.ONE_FOR_ALL) as tree:
        stage.took()
        stage["b"].starts_to_fail = 1
        stage["b"].crash()
        await stage.settle(1)
        assert stage.took() == "-b -c -a +a =a +b -b -a"
        assert set(states(tree).values()) == {"waiting"}
        await stage.settle(1)
        assert stage.took() == "+a =a +b =b +c =c"


async def test_a_zombie_holds_its_group_down_until_it_ends(stage, autojump_clock):
    stage["c"].shield_s = 60
    async with stage.tree("abcd", strategy=Strategy.REST_FOR_ONE) as tree:
        stage.took()
        stage["b"].crash()
        await stage.settle(59)
        assert stage.took() == "-b -d"
        assert states(tree) == {"a": "running", "b": "waiting", "c": "zombie", "d": "waiting"}
        stage["c"].shield_s = 0
        await stage.settle(2)
        assert stage.took() == "-c +b =b +c =c +d =d"
    assert [e.exit.reason for e in stage.told(ChildExited) if e.path == "root.c"] == ["killed_late", "stopped"]


async def test_a_start_that_overran_is_tried_again_only_when_its_task_has_ended(stage, autojump_clock):
    async with stage.tree("ab") as tree:
        stage["a"].start_s = 11
        stage["a"].shield_s = 60
        stage["a"].crash()
        await stage.settle(0)
        stage.took()
        await stage.settle(100)
        assert states(tree)["a"] == "zombie"
        stage["a"].start_s = stage["a"].shield_s = 0
        stage["b"].crash()  # one_for_one: nobody else waits for the zombie
        await stage.settle(1)
        assert stage.took() == "-a +a -b +b =b"
        await stage.settle(60)
        assert stage.took() == "-a +a =a"


# Backoff


async def test_waits_grow_by_the_factor_up_to_the_maximum(stage, autojump_clock):
    child = stage.child("a", backoff=Backoff(initial=1, factor=3, maximum=10, jitter=0, reset_after=1000))
    async with stage.tree([child], intensity=Intensity(restarts=10, period=1)):
        for _ in range(5):
            stage["a"].crash()
            await stage.settle(20)
    assert [event.delay_s for event in stage.told(ChildRestarting)] == [1, 3, 9, 10, 10]


@pytest.mark.parametrize(("uptime", "delays"), [(59.5, [1, 2]), (60, [1, 1])])
async def test_waits_begin_anew_after_a_quiet_period(stage, autojump_clock, uptime, delays):
    child = stage.child("a", backoff=Backoff(initial=1, factor=2, jitter=0, reset_after=60))
    async with stage.tree([child]):
        stage["a"].crash()
        await stage.settle(1 + uptime)
        stage["a"].crash()
        await stage.settle(3)
    assert [event.delay_s for event in stage.told(ChildRestarting)] == delays


async def test_jitter_shortens_a_wait_by_at_most_its_part_and_comes_from_the_injected_rng(stage, autojump_clock):
    child = stage.child("a", backoff=Backoff(initial=10, maximum=10, jitter=0.5))
    async with stage.tree([child], intensity=Intensity(restarts=50)):
        for _ in range(20):
            stage["a"].crash()
            await stage.settle(10)
    delays = [event.delay_s for event in stage.told(ChildRestarting)]
    assert all(5 < delay <= 10 for delay in delays)
    assert len(set(delays)) == 20


async def test_one_child_backs_off_without_the_other(stage, autojump_clock):
    spec = {"backoff": Backoff(initial=1, factor=2, jitter=0)}
    async with stage.tree([stage.child("a", **spec), stage.child("b", **spec)]):
        stage["a"].crash()
        await stage.settle(1)
        stage["a"].crash()
        stage["b"].crash()
        await stage.settle(2)
    assert [(e.path, e.delay_s) for e in stage.told(ChildRestarting)] == [("root.a", 1), ("root.a", 2), ("root.b", 1)]


async def test_no_backoff_restarts_in_the_same_instant(stage, autojump_clock):
    async with stage.tree([stage.child("a", backoff=AT_ONCE)]) as tree:
        stage["a"].crash()
        await stage.settle()
        assert trio.current_time() == 0
        assert incarnations(tree) == {"a": 2}


async def test_a_stop_takes_back_a_restart_that_is_waiting(stage, autojump_clock):
    async with stage.tree("a") as tree:
        stage["a"].crash()
        await stage.settle(0.5)
        how = await tree.root.stop("a")
        assert how.reason == "failed"
        await stage.settle(10)
        assert states(tree) == {"a": "stopped"}
        await tree.root.restart("a")
        assert states(tree) == {"a": "running"}


async def test_a_restart_call_does_not_wait_for_the_backoff(stage, autojump_clock):
    async with stage.tree("a") as tree:
        stage["a"].crash()
        await stage.settle(0.5)
        await tree.root.restart("a")
        assert trio.current_time() == 0.5
        assert incarnations(tree) == {"a": 2}
        await stage.settle(10)
        assert incarnations(tree) == {"a": 2}


# Events


async def test_every_started_is_followed_by_one_exited(stage, autojump_clock):
    async with stage.tree("abc", strategy=Strategy.REST_FOR_ONE):
        stage["b"].crash()
        await stage.settle(3)
        stage["a"].finish()
        await stage.settle(0.5)
    started = [(event.path, event.incarnation) for event in stage.told(ChildStarted)]
    exited = [(event.path, event.exit.incarnation) for event in stage.told(ChildExited)]
    assert sorted(started) == sorted(exited)
    assert len(set(started)) == len(started)


async def test_a_subscriber_that_raises_does_not_hurt_the_tree(stage, autojump_clock, caplog):
    from holloway.supervisor import open_tree

    def subscriber(event):
        raise KeyError(type(event).__name__)

    async with open_tree(stage.supervisor("ab"), on_event=subscriber) as tree:
        stage["a"].crash()
        await stage.settle(1)
        assert incarnations(tree) == {"a": 2, "b": 1}


async def test_crashes_are_logged_with_their_traceback_and_actors_log_under_their_path(stage, autojump_clock, caplog):
    caplog.set_level("DEBUG", logger="holloway.supervisor")
    async with stage.tree("a"):
        stage["a"].crash()
        await stage.settle(1)
        stage["a"].ctx.log.info("hello")
        assert stage["a"].ctx.log is stage["a"].ctx.log
    [crash] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert crash.getMessage() == "root.a: failed: ValueError: a"
    assert crash.exc_info[0] is ValueError
    [hello] = [record for record in caplog.records if record.getMessage() == "hello"]
    assert hello.name == "holloway.supervisor.root.a"


async def test_a_level_set_later_holds_for_actors_that_have_logged_before(stage, autojump_clock, caplog):
    import logging

    async with stage.tree("a"):
        log = stage["a"].ctx.log
        assert not log.isEnabledFor(logging.DEBUG)
        caplog.set_level("DEBUG", logger="holloway.supervisor")
        assert log.isEnabledFor(logging.DEBUG)
