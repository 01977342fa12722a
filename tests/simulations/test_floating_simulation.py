"""Floating addresses in the simulator: what a scenario may say of them, whom faults befall, and what breaks which promise."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from holloway.protocols.floating_table import FloatingHolder
from holloway.simulations import shrink
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import HOLDER
from holloway.simulations.floating_oracles import (
    Afloat,
    a_fence_has_one_holder,
    earlier_holders_are_not_heard,
    fences_are_followed,
    is_held,
    lost_holders_are_replaced,
    one_node_takes_nothing,
    one_owner_of_a_floating_address,
    only_the_owner_answers,
    what_is_given_up_leaves_the_device,
)
from holloway.simulations.identities import floating_address
from holloway.simulations.plan import FloatingPlan, from_json, to_json
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import load_scenario, read_scenario

ADDRESS = floating_address(0)
TEXT = """version = 1
name = "x"
purpose = "x"
duration = "10s"
calm = "2s"
[topology]
nodes = ["a", "b", "c"]
"""
REGISTRY = """[registry]
[[registry.floating]]
nodes = ["a", "b"]
priorities = [1, 2]
"""
FAULT = '[[fault]]\nkind = "pause"\nnodes = "holder"\nat = "1s"\nfor = "1s"\n'


def test_a_plan_with_a_floating_address_is_read_as_it_was_written() -> None:
    plan = draw_plan(read_scenario(TEXT + REGISTRY + FAULT, "x"), 0)
    assert plan.registry is not None
    assert plan.registry.floating == (FloatingPlan(nodes=("a", "b"), priorities=(1, 2)),)
    assert [fault.nodes for fault in plan.faults] == [(HOLDER,)]
    assert from_json(to_json(plan), "x") == plan
    fewer = plan.registry.only(["b", "c"])
    assert fewer.floating == (FloatingPlan(nodes=("b",), priorities=(2,)),)
    assert plan.registry.only(["c"]).floating == ()


def test_a_plan_shrinks_to_nodes_of_which_none_may_have_the_address() -> None:
    plan = draw_plan(read_scenario(TEXT.replace('"c"]', '"c", "d"]') + REGISTRY + FAULT, "x"), 0)
    both = [shrink._only(plan, nodes) for nodes in (("b", "c"), ("c", "d"))]
    assert [[fault.nodes for fault in each.faults] for each in both] == [[(HOLDER,)], []]
    for each in both:
        assert run_plan(each).failure is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT + FAULT, "only with a floating address"),
        (TEXT + '[[workload]]\nkind = "call"\nevery = "1s"\n', "only with a floating address"),
        (TEXT + '[expect]\nsometimes = ["floating_moved"]\n', "only with a floating address"),
        (TEXT + REGISTRY.replace("[1, 2]", "[1]"), "1 for 2 nodes"),
        (TEXT + REGISTRY.replace("[1, 2]", "[1, 1001]"), "numbers up to 1000"),
        (TEXT + REGISTRY.replace('"b"', '"x"'), "unknown 'x'"),
        (TEXT + REGISTRY.replace('"a", "b"', "").replace("1, 2", ""), "nobody may have it"),
        (
            TEXT + REGISTRY.replace("[registry]\n", '[registry]\ntrust = "authority"\n'),
            "where the registry is believed",
        ),
        (TEXT + REGISTRY + REGISTRY.removeprefix("[registry]\n") * 16, "17 floating addresses"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        read_scenario(text, "x")


def test_a_plan_whose_holder_nobody_can_be_is_refused() -> None:
    plan = draw_plan(read_scenario(TEXT + REGISTRY + FAULT, "x"), 0, Depth.ACTORS)
    assert plan.registry is not None
    with pytest.raises(ScenarioError, match="nothing floats"):
        from_json(to_json(replace(plan, registry=replace(plan.registry, floating=()))), "x")
    wrong = FloatingPlan(nodes=("a",), priorities=())
    with pytest.raises(ScenarioError, match="as many priorities"):
        from_json(to_json(replace(plan, registry=replace(plan.registry, floating=(wrong,)))), "x")


def test_the_holder_is_whoever_has_the_address_at_that_moment() -> None:
    plan = draw_plan(load_scenario("floating-lone-faults"), 0)
    first = plan.faults[0]
    plan = replace(plan, faults=(replace(first, kind="pause", values={}),), eventually={}, duration_ns=20 * 10**9)
    outcome = run_plan(plan)
    assert outcome.failure is None
    assert outcome.reached.places["stalled_holder_replaced"] == 1


def holder(name: str, fence: int) -> FloatingHolder:
    return FloatingHolder(name, name, fence)


def test_each_promise_is_broken_by_what_it_forbids_and_by_nothing_else() -> None:
    assert one_owner_of_a_floating_address(["a"], ADDRESS) is None
    assert one_owner_of_a_floating_address(["a", "b"], ADDRESS) == f"a and b have {ADDRESS} at once"

    assert fences_are_followed(holder("a", 3), holder("b", 4), "c") is None
    assert fences_are_followed(holder("a", 3), None, "c") is None
    assert fences_are_followed(holder("a", 3), holder("a", 3), "c") is None
    assert "a smaller one" in (fences_are_followed(holder("a", 3), holder("b", 2), "c") or "")
    assert "the same one" in (fences_are_followed(holder("a", 3), holder("b", 3), "c") or "")

    assert a_fence_has_one_holder(holder("a", 3), holder("a", 3), "c") is None
    assert a_fence_has_one_holder(holder("a", 3), holder("b", 3), "c")

    assert only_the_owner_answers(True, "a", ADDRESS) is None
    assert only_the_owner_answers(False, "a", ADDRESS)
    assert earlier_holders_are_not_heard("a", ["b", "a"], "c") is None
    assert earlier_holders_are_not_heard("a", ["b", None], "c")
    assert what_is_given_up_leaves_the_device(None, 10**10, "a") is None
    assert what_is_given_up_leaves_the_device(10**9, 2 * 10**9, "a") is None
    assert what_is_given_up_leaves_the_device(10**9, 2 * 10**9 + 1, "a")
    assert lost_holders_are_replaced("a", 1, ["b"], ADDRESS) is None
    assert "nobody has" in (lost_holders_are_replaced("a", 1, [], ADDRESS) or "")
    assert lost_holders_are_replaced("a", 1, ["a"], ADDRESS)
    assert one_node_takes_nothing("a", ["a"], ADDRESS) is None
    assert one_node_takes_nothing("a", ["b"], ADDRESS)
    assert one_node_takes_nothing("a", [], ADDRESS)


@pytest.mark.parametrize(
    ("owners", "believed", "wrong"),
    [
        (("b",), {"a": "b", "b": "b"}, None),
        ((), {"a": "b"}, "nobody has"),
        (("a", "b"), {"a": "b"}, "at once"),
        (("a",), {"a": "a"}, "b should"),
        (("b",), {"a": None, "b": "b"}, "a takes None for it"),
    ],
)
def test_in_the_calm_one_of_the_best_has_it_and_everybody_knows(
    owners: tuple[str, ...], believed: dict[str, str | None], wrong: str | None
) -> None:
    found = is_held(Afloat(IPv4Address("10.77.254.1"), owners, ("b",), believed))
    assert found is None if wrong is None else wrong in (found or "")
