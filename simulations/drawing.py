"""From a scenario and a seed to a plan: draws every range, switches the swarm's kinds on or off, chooses who is hit.

Each `[[fault]]` and each repetition of it has dice of its own, so taking one out leaves the others as they were. Not
responsible for what is drawn during the run.
"""

from __future__ import annotations

import random

from holloway.simulations.depth import Depth
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.plan import Plan
from holloway.simulations.scenario import FaultTable, Scenario
from holloway.simulations.streams import below, stream


def draw_plan(scenario: Scenario, seed: int, depth: Depth | None = None, *, offloads: bool | None = None) -> Plan:
    """The plan of one seed, at `depth` or the one that the scenario prefers, with or without `offloads` or as it says.

    Raises `ScenarioError` when the scenario cannot run at that depth.
    """
    depth = scenario.check_depth(depth)
    is_on = {kind: stream(seed, "swarm", kind).getrandbits(64) & 1 == 1 for kind in scenario.swarm}
    faults = [
        fault
        for table in scenario.faults
        if is_on.get(table.kind, True)
        for fault in _draw_table(table, scenario, seed)
    ]
    return Plan(
        scenario=scenario.name,
        seed=seed,
        depth=depth.value,
        duration_ns=scenario.duration_ns,
        calm_ns=scenario.calm_ns,
        nodes=scenario.nodes,
        pairs=scenario.pairs,
        latency_low_ns=int(scenario.latency.low),
        latency_high_ns=int(scenario.latency.high),
        suite=scenario.suite,
        timers=scenario.timers,
        keepalive_s=scenario.keepalive_s,
        registry=scenario.registry,
        control=scenario.control,
        workloads=scenario.workloads,
        faults=tuple(faults),
        eventually=scenario.eventually,
        sometimes=scenario.sometimes,
        offloads=scenario.offloads if offloads is None else offloads,
        queues=scenario.queues,
        in_clear=scenario.in_clear,
        compressing=scenario.compressing,
        backend=scenario.backend,
    )


def _draw_table(table: FaultTable, scenario: Scenario, seed: int) -> list[Fault]:
    times = int(table.times.draw(stream(seed, table.name, "times")))
    return [_draw_fault(table, scenario, seed, f"{table.name}.{number}") for number in range(1, times + 1)]


def _draw_fault(table: FaultTable, scenario: Scenario, seed: int, name: str) -> Fault:
    dice = stream(seed, name)
    healed_ns = scenario.duration_ns - scenario.calm_ns
    at_ns = min(int(table.at.draw(dice)), healed_ns)
    lasts_ns = healed_ns if table.lasts is None else int(table.lasts.draw(dice))
    kind = KINDS[table.kind]
    values = {key: value.draw(dice) for key, value in table.values.items()}
    nodes = table.nodes
    if not nodes and not table.between:
        if kind.scope is Scope.NODES:
            nodes = _choose(dice, scenario.nodes, 1)
        elif table.kind == "partition":
            nodes = _choose(dice, scenario.nodes, int(values["side"]))
    return Fault(
        name=name,
        kind=table.kind,
        at_ns=at_ns,
        until_ns=min(at_ns + lasts_ns, healed_ns) if kind.has_end else at_ns,
        nodes=nodes,
        between=table.between,
        one_way=table.one_way,
        values=values,
    )


def _choose(dice: random.Random, nodes: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`count` different nodes, in the order of the scenario."""
    left = list(range(len(nodes)))
    chosen = [left.pop(below(dice.getrandbits(64), len(left))) for _ in range(count)]
    return tuple(nodes[number] for number in sorted(chosen))
