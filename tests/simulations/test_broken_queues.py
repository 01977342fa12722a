"""Nodes with several queues in the simulator: what a scenario may say, and that a socket breaks alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from holloway.actors.udp_queues import UdpQueues
from holloway.protocols.errors import PortError
from holloway.simulations.depth import Depth
from holloway.simulations.drawing import draw_plan
from holloway.simulations.errors import ScenarioError
from holloway.simulations.plan import Plan, from_json, to_json
from holloway.simulations.run import Outcome, run_plan
from holloway.simulations.scenario import read_scenario
from holloway.simulations.trace import Trace

HEAD = """
version = 1
name = "queues"
purpose = "A socket breaks."
duration = "10s"
calm = "6s"
[topology]
nodes = ["hub", "b", "c", "d"]
shape = "star"
[[workload]]
kind = "ping"
every = "200ms"
[expect]
eventually = { all_pairs_reachable = "2s", nothing_is_lost = "2s" }
"""
BREAK = """
[[fault]]
kind = "socket_failure"
at = "3s"
nodes = ["hub"]
"""


def plan(queues: int, backend: str = "session") -> Plan:
    network = f'[network]\nqueues = {queues}\nbackend = "{backend}"\n'
    return draw_plan(read_scenario(HEAD + network + BREAK, "x"), 0, Depth.ACTORS)


def traced(found: Plan) -> tuple[Outcome, list[dict[str, Any]]]:
    text = io.StringIO()
    outcome = run_plan(found, trace=Trace(text))
    return outcome, [json.loads(line) for line in text.getvalue().splitlines()]


def actors_of_hub(lines: list[dict[str, Any]]) -> list[str]:
    """Of which something was told after all had begun."""
    second = 10**9
    told = [line for line in lines if line["kind"] == "actor" and line["node"] == "hub"]
    return [line["peer"] for line in told if 2 * second < line["t"] < 10 * second]


@pytest.mark.parametrize("backend", ["session", "dtls"])
def test_a_socket_of_several_breaks_and_its_reader_alone_begins_again(backend: str) -> None:
    outcome, lines = traced(plan(4, backend))
    assert outcome.failure is None
    assert outcome.reached.places["queue_replaced"] == 1
    (reader,) = set(actors_of_hub(lines))
    assert reader.startswith("node.dataplane.queues.udp-")
    assert not [line for line in lines if line["kind"] == "state" and line["t"] > 2 * 10**9], "no session noticed"


def test_the_only_socket_takes_its_node_with_it() -> None:
    outcome, lines = traced(plan(1))
    assert outcome.failure is None
    assert "node.dataplane.udp" in actors_of_hub(lines)
    assert "node.dataplane.peers.b" in actors_of_hub(lines)


def test_a_node_that_loses_more_than_the_queue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(family: UdpQueues, queue: object) -> None:
        family._loss = PortError("the socket broke", "and is not replaced")
        family._has_lost.set()
        raise family._loss

    monkeypatch.setattr(UdpQueues, "replace", lose)
    outcome = run_plan(plan(4))
    assert outcome.failure is not None
    assert outcome.failure.property == "no_actor_crashes"
    assert "node.dataplane.udp ended and nothing had befallen it" in outcome.failure.message


def test_datagrams_of_one_source_come_by_one_socket_the_same_in_every_run() -> None:
    first, again = (traced(plan(4))[0].trace_sha256 for _ in range(2))
    assert first == again


def test_a_scenario_has_one_queue_unless_it_says_so_and_then_it_is_of_whole_nodes() -> None:
    assert read_scenario(HEAD, "x").queues == 1
    several = read_scenario(HEAD + "[network]\nqueues = 16\n", "x")
    assert several.queues == 16
    assert several.depths == (Depth.ACTORS,)
    with pytest.raises(ScenarioError, match="only whole nodes have several queues"):
        draw_plan(several, 0, Depth.HEAP)


@pytest.mark.parametrize("value", ["0", "17", "-1", "true", '"four"', "2.5"])
def test_a_number_of_queues_that_no_node_has_is_refused(value: str) -> None:
    with pytest.raises(ScenarioError, match="queues"):
        read_scenario(f"{HEAD}[network]\nqueues = {value}\n", "x")


def test_a_plan_keeps_its_queues_and_an_older_one_has_one() -> None:
    found = plan(4)
    assert from_json(to_json(found), "x") == found
    document = json.loads(to_json(found))
    del document["queues"]
    assert from_json(json.dumps(document), "x") == replace(found, queues=1)
    for wrong in (0, 17, "4", True, 2.5):
        with pytest.raises(ScenarioError):
            from_json(json.dumps(document | {"queues": wrong}), "x")
