"""Making a failing plan small: what can be taken out while the same property still breaks is taken out.

First whole faults, then workloads, then nodes, then time: faults end sooner. Every attempt is a
whole run, so their number is bounded, and what is left when it is used up is the result. Faults have dice of their own,
so taking one out leaves the others as they were. Not responsible for running: that is `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from holloway.simulations.faults import HOLDER, KINDS, Fault
from holloway.simulations.plan import Plan
from holloway.simulations.run import Failure, run_plan

MAX_RUNS = 300


def shrink(plan: Plan, failure: Failure, progress: Callable[[int, Plan], None] | None = None) -> tuple[Plan, Failure]:
    """A plan that is no larger and breaks the same property, and how it does. `progress` is told the runs so far."""
    search = _Search(plan, failure, progress)
    size = None
    while size != (size := _size(search.plan)) and search.runs < MAX_RUNS:
        for smaller in (_fewer_faults, _fewer_workloads, _fewer_nodes, _less_time):
            search.take_out(smaller)
    return search.plan, search.failure


class _Search:
    """The smallest plan so far."""

    def __init__(self, plan: Plan, failure: Failure, progress: Callable[[int, Plan], None] | None) -> None:
        self.plan, self.failure, self.runs = plan, failure, 0
        self._progress = progress

    def take_out(self, smaller: Callable[[Plan], Iterator[Plan]]) -> None:
        """Take the first attempt that still fails, and begin again from it, until none does."""
        is_smaller = True
        while is_smaller:
            is_smaller = any(self._fails(attempt) for attempt in smaller(self.plan))

    def _fails(self, attempt: Plan) -> bool:
        if self.runs >= MAX_RUNS:
            return False
        self.runs += 1
        failure = run_plan(attempt).failure
        is_same = failure is not None and failure.property == self.failure.property
        if failure is not None and is_same:
            self.plan, self.failure = attempt, failure
        if self._progress is not None:
            self._progress(self.runs, self.plan)
        return is_same


def _size(plan: Plan) -> tuple[int, int, int, int]:
    lasting = sum(fault.until_ns - fault.at_ns for fault in plan.faults)
    return len(plan.faults), len(plan.workloads), len(plan.nodes), lasting


def _fewer_faults(plan: Plan) -> Iterator[Plan]:
    """Without a half, a quarter … of the faults, down to a single one."""
    count = len(plan.faults)
    width = count
    while width >= 1:
        for at in range(0, count, width):
            yield replace(plan, faults=plan.faults[:at] + plan.faults[at + width :])
        width //= 2


def _fewer_workloads(plan: Plan) -> Iterator[Plan]:
    for at in range(len(plan.workloads)):
        yield replace(plan, workloads=plan.workloads[:at] + plan.workloads[at + 1 :])


def _fewer_nodes(plan: Plan) -> Iterator[Plan]:
    """Without half of the nodes, then without single ones; what concerned them goes, too."""
    if plan.control is not None:
        fixed = (plan.nodes[0], *plan.control.operators)
        agents = [name for name in plan.nodes if name not in fixed]
        for agent in agents if len(agents) > 1 else []:
            yield _only(plan, tuple(name for name in plan.nodes if name != agent))
        return
    count = len(plan.nodes)
    for kept in (plan.nodes[: count // 2], plan.nodes[count // 2 :]):
        if 2 <= len(kept) < count - 1:
            yield _only(plan, kept)
    if 2 < count <= MAX_RUNS:
        for at in range(count):
            yield _only(plan, plan.nodes[:at] + plan.nodes[at + 1 :])


def _only(plan: Plan, nodes: tuple[str, ...]) -> Plan:
    registry = None if plan.registry is None else plan.registry.only(nodes)
    left = (*nodes, HOLDER) if registry is not None and registry.floating else nodes
    faults = []
    for fault in plan.faults:
        hit = tuple(name for name in fault.nodes if name in left)
        if bool(hit) == bool(fault.nodes) and all(name in nodes for name in fault.between):
            faults.append(replace(fault, nodes=hit))
    return replace(
        plan,
        nodes=nodes,
        pairs=tuple(pair for pair in plan.pairs if pair[0] in nodes and pair[1] in nodes),
        registry=registry,
        workloads=tuple(each for each in plan.workloads if all(name in nodes for name in each.ends)),
        faults=tuple(faults),
    )


def _less_time(plan: Plan) -> Iterator[Plan]:
    for at, fault in enumerate(plan.faults):
        for attempt in _shorter(fault):
            yield replace(plan, faults=(*plan.faults[:at], attempt, *plan.faults[at + 1 :]))


def _shorter(fault: Fault) -> Iterator[Fault]:
    lasting = fault.until_ns - fault.at_ns
    if KINDS[fault.kind].has_end and lasting > 10**8:
        yield replace(fault, until_ns=fault.at_ns + lasting // 2)
