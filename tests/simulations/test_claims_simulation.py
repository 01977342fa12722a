"""Addresses that are claimed, in the simulator: what a scenario may say of them, and what breaks which promise."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from holloway.actors.wanted import Peer
from holloway.simulations.claim_oracles import (
    freed_addresses_rest,
    machines_keep_their_addresses,
    observers_agree_on_addresses,
    one_machine_has_an_address,
)
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.faults import Fault
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.run import run_plan
from holloway.simulations.scenario import read_scenario

SECOND = 10**9
TEXT = """version = 1
name = "claimed"
purpose = "x"
duration = "40s"
calm = "10s"
[topology]
nodes = ["a", "b", "late"]
[registry]
lease = "3s"
claim = "20s"
rest = "12s"
[[workload]]
kind = "ping"
every = "3s"
[expect]
eventually = { membership_is_equal = "8s", all_pairs_reachable = "8s" }
"""
FIRST, SECOND_ADDRESS = IPv4Address("10.77.0.1"), IPv4Address("10.77.0.2")


def fault(kind: str, at_s: float, until_s: float | None = None, *nodes: str) -> Fault:
    at_ns = round(at_s * SECOND)
    until_ns = at_ns if until_s is None else round(until_s * SECOND)
    return Fault(name=f"{kind}-1.{at_ns}", kind=kind, at_ns=at_ns, until_ns=until_ns, nodes=nodes, values={})


def plan(*faults: Fault) -> Plan:
    return replace(draw_plan(read_scenario(TEXT, "x"), 0), faults=faults)


def test_an_address_that_was_let_go_of_rests_and_comes_back_to_its_machine() -> None:
    away = fault("crash", 0, 18, "late"), fault("crash", 5, 20, "a"), fault("release", 10, None, "a")
    outcome = run_plan(plan(*away))
    assert outcome.failure is None, outcome.failure
    assert outcome.reached.places["address_rested"] == 1
    assert outcome.reached.places["race_lost"] > 0


def test_an_address_whose_rest_is_over_is_somebody_elses_and_that_is_no_broken_promise() -> None:
    away = fault("crash", 0, 26, "late"), fault("crash", 5, 29, "a"), fault("release", 10, None, "a")
    outcome = run_plan(plan(*away))
    assert outcome.failure is None, outcome.failure


def test_nobody_lets_go_of_the_address_of_a_node_that_is_there() -> None:
    outcome = run_plan(plan(fault("release", 10, None, "a", "b", "late")))
    assert outcome.failure is None, outcome.failure
    assert "address_rested" not in outcome.reached.places


def test_promises_about_addresses() -> None:
    assert one_machine_has_an_address({"a": FIRST, "b": SECOND_ADDRESS}) is None
    assert "both have 10.77.0.1" in (one_machine_has_an_address({"a": FIRST, "b": FIRST}) or "")
    assert machines_keep_their_addresses(None, FIRST, "a") is None
    assert machines_keep_their_addresses(FIRST, FIRST, "a") is None
    assert "has 10.77.0.2 now" in (machines_keep_their_addresses(FIRST, SECOND_ADDRESS, "a") or "")
    assert freed_addresses_rest("a", "a", FIRST) is None
    assert freed_addresses_rest("a", None, FIRST) is None
    assert "b has claimed" in (freed_addresses_rest("a", "b", FIRST) or "")
    peers = {"b": Peer(name="b", public_key=bytes(32), allowed=(ip_network("10.77.0.1/32"),))}
    assert observers_agree_on_addresses(peers, {"b": FIRST}, "a") is None
    assert observers_agree_on_addresses(peers, {}, "a") is None
    assert "which c has" in (observers_agree_on_addresses(peers, {"c": FIRST}, "a") or "")


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace('claim = "20s"', 'claim = "1s"'),
        TEXT.replace('claim = "20s"', 'claim = "20s"\ntrust = "authority"'),
        TEXT.replace('rest = "12s"', '[[registry.floating]]\nnodes = ["a"]'),
        TEXT.replace('claim = "20s"\n', "") + '[[fault]]\nkind = "release"\nat = "2s"\nnodes = ["a"]\n',
    ],
)
def test_a_scenario_that_cannot_have_claims_says_so(text: str) -> None:
    with pytest.raises(ScenarioError, match="claim"):
        read_scenario(text, "x")


def test_a_plan_keeps_its_claims_and_an_older_one_has_none() -> None:
    found = plan(fault("release", 10, None, "a"))
    assert from_json(to_json(found), "x") == found
    document = json.loads(to_json(found))
    del document["registry"]["claim_ns"], document["registry"]["rest_ns"]
    with pytest.raises(ScenarioError, match="nobody claims"):
        from_json(json.dumps(document), "x")
