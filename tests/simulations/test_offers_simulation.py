"""Terms in simulated networks: who may be in clear, what a bomber sends, and who is looking."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from session_world import World

from holloway.protocols.events import DropReason
from holloway.protocols.offers import SEALED, Terms
from holloway.simulations.bombers import Bomb, Bomber
from holloway.simulations.deflate import Deflate
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.plan import from_json, to_document, to_json
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import load_scenario, read_scenario
from holloway.simulations.terms import allowed
from holloway.simulations.terms_oracles import terms_are_what_both_ask_for, unpacking_is_bounded


def test_only_two_that_both_ask_are_in_clear() -> None:
    plan = draw_plan(load_scenario("compression-bombs"), 0)
    found = {(one, two): allowed(plan, one, two) for one, two in plan.pairs}
    assert found == {
        ("a", "b"): Terms.LZ4,
        ("a", "without"): SEALED,
        ("a", "hostile"): Terms.LZ4,
        ("b", "without"): SEALED,
        ("b", "hostile"): Terms.LZ4 | Terms.CLEAR,
        ("without", "hostile"): SEALED,
    }
    assert from_json(to_json(plan), "plan") == plan


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"in_clear": ["nobody"]}, "a node that offers, and is none"),
        ({"suite": "wireguard"}, "terms in a suite without"),
    ],
)
def test_a_plan_with_offers_of_nobody_is_none(change: dict[str, object], why: str) -> None:
    document = to_document(draw_plan(load_scenario("mixed-terms"), 0))
    with pytest.raises(ScenarioError, match=why):
        from_json(json.dumps(document | change), "plan")


def test_plain_text_that_one_alone_asks_for_breaks_the_promise() -> None:
    """The oracle sees it, wherever it comes from: here the plan changes under the nodes."""
    plan = replace(draw_plan(load_scenario("mixed-terms"), 0), faults=())
    assert run_plan(plan).failure is None
    world = World(terms=(Terms.CLEAR, Terms.CLEAR))
    world.send(world.a)
    world.run(1)
    assert terms_are_what_both_ask_for(world.a.session.terms, Terms.CLEAR, world.a.session) is None
    assert terms_are_what_both_ask_for(world.a.session.terms, SEALED, world.a.session) is not None
    assert unpacking_is_bounded(100, 65_600) is None
    assert unpacking_is_bounded(100, 65_601) is not None


def test_every_bomb_is_refused_by_name_and_the_session_goes_on() -> None:
    world = World(terms=(Terms.LZ4, Terms.LZ4), codec=Deflate())
    world.send(world.a)
    world.run(1)
    bomber = Bomber(random.Random(4))
    drops: Counter[DropReason] = Counter()
    for _ in range(60):
        for datagram in bomber.bomb(world.a.session):
            world.transmit(datagram, world.a.address, world.b.address)
        world.send(world.a)
        world.run(0.5)
    drops = world.b.session.drops
    assert set(drops) == {DropReason.UNPACKING_REFUSED, DropReason.PLAINTEXT_REFUSED}
    assert sum(drops.values()) == 60
    assert drops[DropReason.PLAINTEXT_REFUSED] > 60 / len(Bomb) / 3
    assert len(world.delivered["b"]) == 61


@pytest.mark.parametrize(
    ("table", "suite", "why"),
    [
        ('none = "holder"', "aes-gcm", "an offer does not"),
        ('compression = ["nobody"]', "aes-gcm", "there is no node 'nobody'"),
        ('none = "all"', "wireguard", "nothing is agreed on"),
        ("none = []", "aes-gcm", "expected a list of nodes"),
    ],
)
def test_offers_of_a_scenario_are_those_of_its_nodes(table: str, suite: str, why: str) -> None:
    text = f"""
version = 1
name = "offers"
purpose = "none"
duration = "2s"
calm = "1s"
[topology]
nodes = ["a", "b"]
[security]
{table}
[session]
suite = "{suite}"
[[workload]]
kind = "ping"
every = "1s"
"""
    with pytest.raises(ScenarioError, match=why):
        read_scenario(text, "offers.toml")


def test_whole_nodes_do_not_compress_in_a_simulation() -> None:
    scenario = load_scenario("compression-bombs")
    assert scenario.depths == (Depth.HEAP,)
    assert Depth.ACTORS in load_scenario("mixed-terms").depths
