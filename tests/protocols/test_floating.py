"""Floating addresses: never two owners, whatever happens; one again soon after it has ended; and how soon."""

from __future__ import annotations

import math
from functools import partial

from floating_world import World
from hypothesis import Phase as Part
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.floating_operations import FloatingTimers, Kind

QUICK = FloatingTimers(preempt_after_s=3.0)
FAULTS = ("pause", "kill", "cut", "ill", "doubt", "deaf")
ROUGH_S = 12.0
HEALS_S = 14.0

faults = st.lists(
    st.tuples(st.sampled_from(FAULTS), st.integers(0, 3), st.floats(0, ROUGH_S), st.floats(0.05, 4.0)), max_size=12
)


def befall(world: World, kind: str, at: int, duration_s: float) -> None:
    """A fault of one node, of the owner of the address if `at` is 0. The others notice when it falls silent."""
    node = (world.owner() if at == 0 else None) or world.nodes[at % len(world.nodes)]
    if kind in ("pause", "kill", "cut"):
        for other in world.nodes:
            if other is not node:
                world.at(world.now + 0.2 * world.dice.random(), partial(world.doubt, other, duration_s))
    match kind:
        case "pause":
            world.pause(node, duration_s)
        case "kill":
            world.kill(node, duration_s)
        case "cut":
            node.cut_until = max(node.cut_until, world.now + duration_s)
        case "ill":
            world.fall_ill(node, duration_s)
        case "doubt":
            world.doubt(node, duration_s)
        case _:
            node.deaf_until = max(node.deaf_until, world.now + duration_s)


@settings(max_examples=100, deadline=None, phases=[Part.explicit, Part.reuse, Part.generate])
@given(st.integers(0, 2**32), st.lists(st.integers(0, 2), min_size=2, max_size=4), faults)
def test_no_two_own_it_at_one_moment_and_after_all_faults_the_best_does(
    seed: int, priorities: list[int], plan: list[tuple[str, int, float, float]]
) -> None:
    world = World(seed, priorities, QUICK, is_rough=True)
    world.boot()
    for kind, at, when, duration_s in plan:
        world.at(when, partial(befall, world, kind, at, duration_s))
    world.run(ROUGH_S + 4.0)
    world.is_rough = False
    world.run(world.now + HEALS_S)
    for _ in range(20):
        owner = world.owner()
        assert owner is not None, [node.machine for node in world.nodes]
        assert owner.priority == max(priorities)
        world.run(world.now + 0.1)


# How soon.


def failover_s(seed: int, *, is_doubted_after_s: float | None, is_stopped: bool = False) -> float:
    """How long nobody has the address after its holder was killed, or stopped, at a moment that the seed draws."""
    world = World(seed, [1, 1, 1], FloatingTimers(), latency_s=0.01)
    world.boot()
    world.run(3.0 + world.dice.random())
    holder = world.owner()
    assert holder is not None
    ended = world.now
    if is_stopped:
        holder.do(lambda machine, now: machine.stop(now))
    else:
        world.kill(holder, math.inf)
        if is_doubted_after_s is not None:
            for node in world.nodes:
                if node is not holder:
                    world.at(ended + is_doubted_after_s, partial(world.doubt, node, 9.0))
    while world.owner() is None:
        world.run(world.now + 0.005)
        assert world.now < ended + 5.0
    took_s = world.now - ended
    if is_stopped:
        world.run(world.now + 1.0)
        assert holder.machine.is_finished
    return took_s


def test_a_holder_that_dies_and_is_noticed_on_the_data_path_is_replaced_within_two_seconds() -> None:
    times = sorted(failover_s(seed, is_doubted_after_s=0.6) for seed in range(60))
    assert times[0] >= 1.4
    assert times[-1] <= 1.6


def test_a_holder_that_dies_unnoticed_is_replaced_when_its_lease_is_over() -> None:
    times = sorted(failover_s(seed, is_doubted_after_s=None) for seed in range(60))
    assert times[0] >= 1.7
    assert times[-1] <= 2.7


def test_a_holder_that_stops_is_replaced_at_once() -> None:
    assert max(failover_s(seed, is_doubted_after_s=None, is_stopped=True) for seed in range(60)) <= 0.1


def test_a_steady_holder_writes_nothing_and_the_others_look_once_a_second() -> None:
    world = World(1, [1, 1, 1], FloatingTimers(), latency_s=0.01)
    world.boot()
    world.run(5.0)
    before, revision = dict(world.asked), world.store.revision
    world.run(15.0)
    asked = {kind: count - before[kind] for kind, count in world.asked.items() if count != before[kind]}
    assert world.store.revision == revision
    assert set(asked) == {Kind.KEEP, Kind.LOOK}
    assert 45 <= asked[Kind.KEEP] <= 51
    assert 18 <= asked[Kind.LOOK] <= 21


def test_an_outage_of_the_store_shorter_than_the_promise_is_not_noticed_and_a_longer_one_ends_it_in_time() -> None:
    for outage_s, takes in ((0.3, 1), (1.5, 2)):
        world = World(1, [1, 1], FloatingTimers(), latency_s=0.01)
        world.boot()
        world.run(3.0)
        holder = world.owner()
        assert holder is not None
        for node in world.nodes:
            node.cut_until = world.now + outage_s
        world.run(world.now + 3.0)
        assert world.owner() is holder, "its lease is longer than the outage"
        assert len(world.takes) == takes
        assert len({fence for _, _, fence in world.takes}) == 1, "one claim"


def test_a_better_node_that_comes_and_goes_does_not_make_the_address_flap() -> None:
    world = World(5, [0, 1], FloatingTimers(preempt_after_s=5.0), latency_s=0.01)
    world.nodes[0].boot()
    world.run(1.0)
    world.nodes[1].boot()
    for _ in range(20):
        world.run(world.now + 3.0)
        world.fall_ill(world.nodes[1], 0.5)
    assert [name for _, name, _ in world.takes] == ["n0"]
    world.run(world.now + 7.0)
    assert [name for _, name, _ in world.takes] == ["n0", "n1"]
