"""Scenarios: those that are shipped, the one in the guide, and the faults that each kind causes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from holloway.protocols.session import Session
from holloway.simulations.batch import run_seeds
from holloway.simulations.breadth import HeapWorld
from holloway.simulations.clocks import Clocks
from holloway.simulations.drawing import draw_plan
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.links import ActiveFaults, Fate, Link
from holloway.simulations.machine import Machine
from holloway.simulations.milestones import SOMETIMES
from holloway.simulations.oracles import ALWAYS, EVENTUALLY
from holloway.simulations.plan import WORKLOADS
from holloway.simulations.quantities import Quantity, Value, read_range
from holloway.simulations.run import Verdict, run_plan
from holloway.simulations.scenario import load_scenario, read_scenario, shipped

GUIDE = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
MS = 10**6


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_is_called_as_its_file_and_expects_something(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == scenario.source == name
    assert scenario.purpose.endswith(".")
    assert scenario.eventually
    assert scenario.sometimes
    assert scenario.faults
    assert draw_plan(scenario, 0) == draw_plan(scenario, 0) != draw_plan(scenario, 1)


def test_scenarios_lie_beside_the_code_so_that_they_are_installed_with_it() -> None:
    folder = files("holloway.simulations") / "scenarios"
    assert sorted(each.name for each in folder.iterdir()) == [f"{name}.toml" for name in shipped()]


ELSEWHERE = ("thousand-nodes", "dtls-both-dial", "dtls-certificates", "dtls-lossy-handshakes", "dtls-restart")
"""The first is shared out below; the others can run at actors only, and do (`test_actor_depth`, `test_dtls_simulation`)."""


@pytest.mark.parametrize("name", [name for name in shipped() if name not in ELSEWHERE])
def test_a_shipped_scenario_holds(name: str) -> None:
    summary = run_seeds(load_scenario(name), 0, 0)
    assert summary.failures == []
    assert summary.verdict in (Verdict.HELD, Verdict.NEVER_REACHED)  # one seed need not reach every place


def test_a_small_share_of_a_thousand_nodes_holds() -> None:
    scenario = load_scenario("thousand-nodes")
    assert len(scenario.nodes) == 1000
    plan = draw_plan(scenario, 0)
    kept = plan.nodes[:30]
    faults = tuple(
        replace(fault, nodes=tuple(name for name in fault.nodes if name in kept))
        for fault in plan.faults
        if not fault.nodes or any(name in kept for name in fault.nodes)
    )
    pairs = tuple(pair for pair in plan.pairs if pair[0] in kept and pair[1] in kept)
    outcome = run_plan(replace(plan, nodes=kept, pairs=pairs, faults=faults))
    assert outcome.failure is None
    assert outcome.events > 1000


def test_the_example_of_the_guide_runs_as_it_stands() -> None:
    [text] = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    summary = run_seeds(read_scenario(text, "guide"), 0, 4)
    assert summary.verdict is Verdict.HELD


def test_the_guide_names_every_kind_and_property() -> None:
    for name in [*KINDS, *WORKLOADS, *EVENTUALLY]:
        assert f"| `{name}` |" in GUIDE
    for name in SOMETIMES:
        assert f"`{name}`" in GUIDE
    for kind in KINDS.values():
        for parameter in kind.parameters:
            assert f"`{parameter.name}`" in GUIDE


@pytest.mark.parametrize("name", [*ALWAYS, *EVENTUALLY])
def test_every_promise_says_what_it_promises(name: str) -> None:
    promise = (ALWAYS | EVENTUALLY)[name]  # type: ignore[operator]
    assert promise.__doc__
    assert promise.__doc__.rstrip().endswith((".", "far."))


@pytest.mark.parametrize(
    ("text", "quantity", "low", "high"),
    [
        ("250ms", Quantity.DURATION, 250 * MS, 250 * MS),
        ("1.5s..2min", Quantity.DURATION, 1500 * MS, 120_000 * MS),
        ("-1.5s..1.5s", Quantity.OFFSET, -1500 * MS, 1500 * MS),
        (0.02, Quantity.PROBABILITY, 0.02, 0.02),
        ("0..1", Quantity.PROBABILITY, 0.0, 1.0),
        (3, Quantity.COUNT, 3, 3),
        ("64kbit..2Mbit", Quantity.RATE, 64_000, 2_000_000),
        ("-50..50", Quantity.DRIFT, -50, 50),
    ],
)
def test_quantities_are_read_as_written(text: object, quantity: Quantity, low: Value, high: Value) -> None:
    assert (read_range(text, quantity).low, read_range(text, quantity).high) == (low, high)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("5", Quantity.DURATION),
        (5, Quantity.DURATION),
        ("-1s", Quantity.DURATION),
        ("2s..1s", Quantity.DURATION),
        ("1s..2s..3s", Quantity.DURATION),
        ("400d", Quantity.DURATION),
        (1.5, Quantity.PROBABILITY),
        (True, Quantity.PROBABILITY),
        (0, Quantity.COUNT),
        (1.5, Quantity.COUNT),
        ("5mbit", Quantity.RATE),
        (None, Quantity.COUNT),
    ],
)
def test_what_is_no_quantity_is_refused(text: object, quantity: Quantity) -> None:
    with pytest.raises(ValueError, match=r"expected|range"):
        read_range(text, quantity)


def fates(kind: str, count: int = 2000, size: int = 100, **values: Value) -> list[Fate]:
    """What becomes of datagrams, one each millisecond, on a link of 10 ms with one fault."""
    fault = Fault(name=kind, kind=kind, at_ns=0, until_ns=1, values=values)
    active = ActiveFaults([fault])
    active.begin(fault)
    link = Link(1, "a", "b", 10 * MS, 10 * MS)
    return [link.carry(bytes(size), number * MS, active) for number in range(count)]


def test_loss_duplicate_reorder_and_corrupt_hit_as_often_as_they_should() -> None:
    assert 350 < sum(fate.lost == "loss" for fate in fates("loss", probability=0.2)) < 450
    copies = [fate.copies for fate in fates("duplicate", probability=0.2, within=50 * MS)]
    assert 350 < sum(map(len, copies)) < 450
    assert all(0 <= later <= 50 * MS for each in copies for later in each)
    delays = Counter(fate.delay_ns for fate in fates("reorder", probability=0.2, delay=7 * MS))
    assert set(delays) == {10 * MS, 17 * MS}
    assert 350 < delays[17 * MS] < 450
    changed = [fate.data for fate in fates("corrupt", probability=0.2) if fate.is_forged]
    assert 350 < len(changed) < 450
    assert all(sum(byte.bit_count() for byte in data) == 1 for data in changed)


def test_latency_jitter_mtu_and_partition() -> None:
    assert {fate.delay_ns for fate in fates("latency", extra=5 * MS)} == {15 * MS}
    delays = [fate.delay_ns for fate in fates("jitter", spread=5 * MS)]
    assert 10 * MS <= min(delays) < 10.1 * MS < 14.9 * MS < max(delays) <= 15 * MS
    assert {fate.lost for fate in fates("mtu_drop", limit=99)} == {"mtu_drop"}
    assert {fate.lost for fate in fates("mtu_drop", limit=100)} == {""}
    assert {fate.lost for fate in fates("partition", side=1)} == {"partition"}


def test_a_slow_line_delivers_its_rate_and_no_more() -> None:
    # 100 bytes a millisecond are 800 kbit a second; half of that passes, and the rest waits until the queue is full.
    passed = [fate for fate in fates("bandwidth", rate=400_000, queue=100 * MS) if not fate.lost]
    assert 1000 <= len(passed) <= 1060
    assert max(fate.delay_ns for fate in passed) <= (10 + 100 + 2) * MS


def test_a_change_of_the_mac2_alone_is_no_forgery() -> None:
    head = (0x21).to_bytes(4, "little") + bytes(160)
    fault = Fault(name="x", kind="corrupt", at_ns=0, until_ns=1, values={"probability": 1})
    active = ActiveFaults([fault])
    active.begin(fault)
    link = Link(1, "a", "b", 0, 0)
    seen = set()
    for number in range(500):
        fate = link.carry(head, number, active)
        place = next(at for at, byte in enumerate(fate.data) if byte != head[at])
        assert fate.is_forged == (place < len(head) - 16)
        seen.add(fate.is_forged)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        ({}, ["ab", "ba", "ac", "ca", "bc", "cb"]),
        ({"between": ("a", "b")}, ["ab", "ba"]),
        ({"between": ("a", "b"), "one_way": True}, ["ab"]),
        ({"nodes": ("a",)}, ["ab", "ba", "ac", "ca"]),
        ({"nodes": ("a",), "one_way": True}, ["ab", "ac"]),
        ({"nodes": ("a", "b")}, ["ac", "ca", "bc", "cb"]),
    ],
)
def test_a_link_fault_touches_the_links_it_names(fault: dict[str, object], hit: list[str]) -> None:
    made = Fault(name="x", kind="loss", at_ns=0, until_ns=1, values={}, **fault)  # type: ignore[arg-type]
    ways = [first + second for first in "abc" for second in "abc" if first != second]
    assert sorted(way for way in ways if made.touches(*way)) == sorted(hit)


@pytest.mark.parametrize("drift", [-50_000, -1, 0, 1, 50_000])
def test_a_deadline_on_a_drifting_clock_is_never_early_and_hardly_late(drift: int) -> None:
    clocks = Clocks()
    clocks.drift(drift, 3 * 10**9)
    for at_s in (3.0, 3.1, 17.123456789, 4000.5):
        at_ns = clocks.global_ns(at_s)
        assert clocks.monotonic_s(at_ns) >= at_s
        assert clocks.monotonic_s(at_ns - 1000) < at_s


def machine(world: HeapWorld, name: str) -> Machine:
    found = world.hosts[name]
    assert isinstance(found, Machine)
    return found


def _with(kind: str, node: str, at_s: float, until_s: float, **values: Value) -> HeapWorld:
    text = """version = 1
name = "x"
purpose = "x"
duration = "10s"
calm = "2s"
[topology]
nodes = ["a", "b"]
[[workload]]
kind = "ping"
every = "100ms"
"""
    fault = Fault(
        name=f"{kind}-1",
        kind=kind,
        at_ns=int(at_s * 1e9),
        until_ns=int(until_s * 1e9),
        nodes=(node,) if KINDS[kind].scope is Scope.NODES else (),
        values=values,
    )
    return HeapWorld(replace(draw_plan(read_scenario(text, "x"), 0), faults=(fault,)))


def test_a_crashed_node_is_away_and_comes_back_with_a_new_life() -> None:
    world = _with("crash", "a", 2, 4)
    world.timeline.run(3 * 10**9, 10**6)
    assert (machine(world, "a").down, machine(world, "a").seats) == (1, {})
    world.timeline.run(5 * 10**9, 10**6)
    assert (machine(world, "a").down, machine(world, "a").life) == (0, 2)


def test_a_paused_node_answers_nothing_until_it_goes_on() -> None:
    world = _with("pause", "a", 2, 4)
    world.timeline.run(2 * 10**9 + 200 * MS, 10**6)
    heard = machine(world, "a").seats["b"].session.received.packets
    world.timeline.run(4 * 10**9 - 1, 10**6)
    assert machine(world, "a").seats["b"].session.received.packets == heard
    world.timeline.run(5 * 10**9, 10**6)
    assert machine(world, "a").seats["b"].session.received.packets > heard + 15


def test_a_rebound_node_is_found_at_its_new_port() -> None:
    world = _with("nat_rebind", "a", 2, 2)
    before = machine(world, "a").public
    world.timeline.run(5 * 10**9, 10**6)
    after = machine(world, "a").public
    assert before != after
    assert before not in world.addresses
    assert machine(world, "b").seats["a"].session.endpoint == after
    assert world.reached.places["roamed"] == 1


def test_a_flood_makes_a_node_ask_for_cookies() -> None:
    world = _with("handshake_flood", "a", 2, 4, every=MS, sources=10)
    world.run()
    assert world.reached.places["cookie_demanded"] > 100
    assert world.reached.drops["not_for_us"] >= 512


def test_peers_whom_an_attacker_drew_to_his_address_find_each_other_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # A listener overtakes datagrams with his own copies, so both ends of a session follow him, and then he goes. A session
    # alone would call him for ever; its owner has it call the known addresses in turn.
    harder = {"reorder": {"probability": 0.4, "delay": 700_000_000}, "replay": {"every": 50_000_000, "elsewhere": 1.0}}
    plan = draw_plan(load_scenario("nat-rebind"), 8)
    faults = [replace(fault, values=harder.get(fault.kind, fault.values)) for fault in plan.faults]
    assert {"reorder", "replay"} <= {fault.kind for fault in faults}
    plan = replace(plan, faults=tuple(faults))
    assert run_plan(plan).failure is None
    monkeypatch.setattr(Machine, "_follow", lambda *_: None)
    failure = run_plan(plan).failure
    assert failure is not None
    assert failure.property == "all_pairs_reachable"


def test_a_peer_whose_clock_was_set_back_behind_a_nat_is_called_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whole nodes showed it first: nothing that the peer says is fresh, and nobody else knows where it is.
    plan = draw_plan(load_scenario("stale-clock"), 1)
    assert run_plan(plan).failure is None
    monkeypatch.setattr(Session, "_call_back", lambda *_: None)
    failure = run_plan(plan).failure
    assert failure is not None
    assert failure.property == "all_pairs_reachable"
