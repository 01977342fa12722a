"""The decisions of a supervisor, without tasks: rules one by one, and what a roster answers."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from holloway.supervisor import AutoShutdown, Backoff, Child, Intensity, Restart, SpecError, State, Strategy
from holloway.supervisor.policy import Budget, GiveUp, Leave, Regroup, ShutDown, next_delay, wants_restart
from holloway.supervisor.roster import Roster

BROKEN = ValueError("broken")


async def nobody(ctx, *, task_status):
    """No actor of a roster is ever run."""


def child(name, **spec):
    spec.setdefault("backoff", Backoff(initial=1, factor=2, maximum=8, jitter=0))
    return Child(name=name, run=nobody, **spec)


def roster_of(names, *, restarts=100, **spec):
    """A roster in which children of these one-letter names are running since 0."""
    roster = Roster(intensity=Intensity(restarts=restarts), **spec)
    for each in names:
        roster.add(each if isinstance(each, Child) else child(each))
    for info in roster.children():
        roster.starting(info.name)
        roster.started(info.name, 0)
    return roster


def carry_out(roster, decision):
    """Stop whom the decision wants stopped."""
    for name in decision.stop:
        roster.stopping(name, comes_back=name in decision.restart)
        roster.ended(name, error=None)


def states(roster):
    return {info.name: info.state for info in roster.children()}


@pytest.mark.parametrize(
    ("restart", "after_failure", "after_return"),
    [(Restart.PERMANENT, True, True), (Restart.TRANSIENT, True, False), (Restart.TEMPORARY, False, False)],
)
def test_restart_types(restart, after_failure, after_return):
    assert wants_restart(restart, failed=True) is after_failure
    assert wants_restart(restart, failed=False) is after_return


@given(
    initial=st.floats(0, 10),
    spread=st.floats(0, 100),
    factor=st.floats(1, 1e6),
    steps=st.integers(1, 2000),
)
@settings(deadline=None)
def test_waits_never_shrink_never_exceed_the_maximum_and_never_overflow(initial, spread, factor, steps):
    backoff = Backoff(initial=initial, maximum=initial + spread, factor=factor, jitter=0)
    delay = None
    for _ in range(steps):
        previous, delay = delay, next_delay(backoff, delay)
        assert initial <= delay <= backoff.maximum
        assert previous is None or delay >= previous


@given(
    times=st.lists(st.integers(0, 200), max_size=60).map(sorted), restarts=st.integers(0, 5), period=st.integers(1, 30)
)
@settings(deadline=None)
def test_a_budget_counts_what_lies_within_one_period_both_ends_included(times, restarts, period):
    budget = Budget(Intensity(restarts=restarts, period=period))
    for position, now in enumerate(times):
        inside = [at for at in times[: position + 1] if now - period <= at]
        assert budget.spend(now, "a", None) is (len(inside) <= restarts)
        assert len(budget.spent()) == len(inside)


def test_the_strategies_name_whom_to_stop_in_reverse_and_whom_to_start_in_order():
    expected = {
        Strategy.ONE_FOR_ONE: ((), ("b",)),
        Strategy.REST_FOR_ONE: (("d", "c"), ("b", "c", "d")),
        Strategy.ONE_FOR_ALL: (("d", "c", "a"), ("a", "b", "c", "d")),
    }
    for strategy, (stop, restart) in expected.items():
        decision = roster_of("abcd", strategy=strategy).exited("b", error=BROKEN, now=5, spread=0)
        assert decision == Regroup(stop=stop, restart=restart, delay_s=1)


def test_jitter_only_shortens():
    spec = child("a", backoff=Backoff(initial=10, jitter=0.5))
    for spread, delay in ((0, 10), (0.5, 7.5), (1, 5)):
        assert roster_of([spec]).exited("a", error=BROKEN, now=0, spread=spread).delay_s == delay


def test_who_is_due_first_starts_first_alone_and_start_order_rules_a_group():
    for strategy, order in ((Strategy.ONE_FOR_ONE, ["c", "a"]), (Strategy.REST_FOR_ONE, ["a", "b", "c"])):
        roster = roster_of("abc", strategy=strategy)
        carry_out(roster, roster.exited("c", error=BROKEN, now=5, spread=0))
        carry_out(roster, roster.exited("a", error=BROKEN, now=5.5, spread=0))
        assert roster.wake_at() == (6 if strategy is Strategy.ONE_FOR_ONE else 6.5)
        started = []
        while (name := roster.next_start(6.5)) is not None:
            roster.starting(name, automatic=True)
            roster.started(name, 6.5)
            started.append(name)
        assert started == order
        assert roster.wake_at() == math.inf


def test_two_due_at_once_start_in_start_order():
    roster = roster_of("ab")
    roster.exited("b", error=BROKEN, now=0, spread=0)
    roster.exited("a", error=BROKEN, now=0, spread=0)
    assert roster.next_start(0.99) is None
    assert roster.next_start(1) == "a"


def test_no_group_member_starts_while_one_that_is_to_return_is_a_zombie():
    roster = roster_of("abc", strategy=Strategy.REST_FOR_ONE)
    decision = roster.exited("b", error=BROKEN, now=0, spread=0)
    roster.stopping("c", comes_back="c" in decision.restart)
    roster.overran("c")
    assert roster.next_start(100) is None
    assert roster.wake_at() == math.inf
    roster.ended("c", error=None)
    assert roster.next_start(100) == "b"


def test_a_zombie_that_is_not_to_return_holds_nobody_back():
    roster = roster_of("abc", strategy=Strategy.REST_FOR_ONE)
    roster.stopping("c", comes_back=False)
    roster.overran("c")
    roster.exited("b", error=BROKEN, now=0, spread=0)
    assert roster.next_start(1) == "b"


def test_a_failed_automatic_start_is_decided_like_an_end():
    roster = roster_of("a", restarts=2)
    roster.exited("a", error=BROKEN, now=0, spread=0)
    roster.starting("a", automatic=True)
    assert roster.exited("a", error=BROKEN, now=1, spread=0) == Regroup(stop=(), restart=("a",), delay_s=2)
    roster.starting("a", automatic=True)
    assert roster.exited("a", error=BROKEN, now=3, spread=0) == GiveUp((("a", BROKEN),) * 3)
    assert states(roster) == {"a": State.STOPPED}


def test_a_start_by_hand_forgives_the_backoff():
    roster = roster_of("a")
    roster.exited("a", error=BROKEN, now=0, spread=0)
    roster.starting("a")
    roster.started("a", 0.5)
    assert roster.exited("a", error=BROKEN, now=1, spread=0).delay_s == 1


def test_shutdown_is_decided_only_by_significant_ends_for_good():
    significant = [child(name, significant=True, restart=Restart.TRANSIENT) for name in "st"]
    anyone = roster_of([*significant, "a"], auto_shutdown=AutoShutdown.ANY_SIGNIFICANT)
    assert isinstance(anyone.exited("a", error=None, now=0, spread=0), Regroup)
    assert isinstance(anyone.exited("s", error=BROKEN, now=0, spread=0), Regroup)
    assert anyone.exited("t", error=None, now=0, spread=0) == ShutDown()
    both = roster_of(significant, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT)
    assert both.exited("s", error=None, now=0, spread=0) == Leave()
    assert both.exited("t", error=None, now=0, spread=0) == ShutDown()


def test_a_significant_zombie_is_not_gone_yet():
    significant = [child(name, significant=True, restart=Restart.TRANSIENT) for name in "st"]
    roster = roster_of(significant, auto_shutdown=AutoShutdown.ALL_SIGNIFICANT)
    roster.stopping("s", comes_back=False)
    roster.overran("s")
    assert roster.exited("t", error=None, now=0, spread=0) == Leave()


def test_the_stop_order_is_the_reverse_of_those_that_run_and_nobody_comes_back_after_it():
    roster = roster_of("abcd")
    roster.exited("b", error=BROKEN, now=0, spread=0)
    roster.stopping("c", comes_back=True)
    roster.overran("c")
    assert roster.stop_order() == ("d", "a")
    roster.ended("c", error=None)
    assert states(roster)["b"] is states(roster)["c"] is State.STOPPED
    assert roster.next_start(100) is None


def test_names_are_unique_and_known():
    roster = roster_of("a")
    with pytest.raises(SpecError):
        roster.add(child("a"))
    for question in (roster.remove, roster.withdraw, roster.starting):
        with pytest.raises(SpecError, match="no child called x"):
            question("x")


def test_only_moves_of_the_table_are_made():
    roster = roster_of("a")
    with pytest.raises(AssertionError):
        roster.starting("a")
    with pytest.raises(AssertionError):
        roster.ended("a", error=None)


def test_the_text_of_an_error_is_one_short_line():
    roster = roster_of("a")
    roster.exited("a", error=ValueError("x\n" * 5000), now=0, spread=0)
    [info] = roster.children()
    assert len(info.error) == 200
    assert "\n" not in info.error
    assert info.error.startswith("ValueError: x x")
