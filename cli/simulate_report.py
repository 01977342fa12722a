"""What `holloway simulate` prints: the summary and each failure, in words and as JSON. Not responsible for running."""

from __future__ import annotations

from typing import Any

from holloway.cli.plain_text import one_line
from holloway.cli.printing import duration
from holloway.protocols.states import TRANSITIONS, State
from holloway.simulations.batch import Summary
from holloway.simulations.plan import Plan, to_document
from holloway.simulations.quantities import seconds
from holloway.simulations.run import Failure

_MAX_FAULTS_SHOWN = 20
_DRIVEN = {before.name: [after.name for after in afters] for before, afters in TRANSITIONS.items()}


def coverage(summary: Summary) -> dict[str, Any]:
    """Which states and transitions of the session machine were visited, and which places reached.

    A run never closes a session: that is its owner's doing, not the network's.
    """
    names = [
        f"{before}>{after}" for before, afters in _DRIVEN.items() for after in afters if after != State.CLOSED.name
    ]
    counts = {name: summary.reached.transitions[name] for name in names}
    states = [State.IDLE.name] + [
        state.name
        for state in State
        if state is not State.IDLE and any(count and name.endswith(f">{state.name}") for name, count in counts.items())
    ]
    return {
        "states": states,
        "transitions": {name: count for name, count in counts.items() if count},
        "transitions_missed": [name for name, count in counts.items() if not count],
        "sometimes": {name: count for name, count in sorted(summary.reached.places.items()) if count},
        "never_reached": list(summary.never_reached),
        "drops": {name: count for name, count in sorted(summary.reached.drops.items()) if count},
    }


def summary_document(scenario: str, depth: str, summary: Summary, failures: list[dict[str, Any]]) -> dict[str, Any]:
    """`holloway.simulate/1`, without the hash of a single trace."""
    virtual_s = summary.virtual_ns / 1e9
    return {
        "schema": "holloway.simulate/1",
        "scenario": scenario,
        "depth": depth,
        "seeds": {"run": summary.seeds_run, "failed": summary.failed, "first_failed": summary.first_failed},
        "virtual_s": virtual_s,
        "wall_s": round(summary.wall_s, 3),
        "events": summary.events,
        "events_per_s": round(summary.events / summary.wall_s) if summary.wall_s else 0,
        "virtual_per_wall": round(virtual_s / summary.wall_s, 1) if summary.wall_s else 0,
        "failures": failures,
        "not_deterministic": list(summary.not_deterministic),
        "coverage": coverage(summary),
    }


def failure_document(plan: Plan, failure: Failure, replay: str) -> dict[str, Any]:
    """One failure; `at` is in virtual seconds."""
    return {
        "seed": plan.seed,
        "property": failure.property,
        "at": failure.at_ns / 1e9,
        "message": failure.message,
        "plan": to_document(plan),
        "replay": replay,
    }


def print_summary(name: str, depth: str, summary: Summary) -> None:
    """The summary in words."""
    seen = coverage(summary)
    wall_s = summary.wall_s or 1e-9
    seeds = f"{summary.seeds_run} seed{'s' if summary.seeds_run != 1 else ''}"
    held = f"{summary.failed} failed, the first is {summary.first_failed}" if summary.failed else "every property held"
    print(one_line(f"{name}: {seeds} at depth {depth}, {held}"))
    print(
        f"  {duration(summary.virtual_ns / 1e9)} of virtual time in {summary.wall_s:.1f} s, {summary.events:,} events: "
        f"{summary.events / wall_s:,.0f} a second, {summary.virtual_ns / 1e9 / wall_s:,.0f} times real time"
    )
    count = len(seen["transitions"])
    if count:  # a control plane has no sessions
        print(f"  states {', '.join(seen['states'])}; {count} of {count + len(seen['transitions_missed'])} transitions")
    print(f"  reached {', '.join(f'{place} {count}' for place, count in seen['sometimes'].items()) or 'nothing'}")
    if summary.never_reached:
        print(f"  never reached: {', '.join(summary.never_reached)}: the scenario tests less than it says")
    if summary.not_deterministic:
        print(f"  went another way the second time: seeds {', '.join(map(str, summary.not_deterministic[:10]))}")


def print_failures(shown: list[tuple[Plan, Failure, str]]) -> None:
    """Failures in words: the first, which is to be looked at first, stands last, with its plan and the command that shows
    it again on the last line.
    """
    for plan, failure, _ in reversed(shown):
        print(one_line(f"seed {plan.seed} broke {failure.property} at {seconds(failure.at_ns)}: {failure.message}"))
    for plan, _, replay in shown[:1]:
        print(f"  plan: {len(plan.nodes)} nodes, {len(plan.workloads)} workloads, {len(plan.faults)} faults")
        for fault in plan.faults[:_MAX_FAULTS_SHOWN]:
            whom = " ".join(fault.nodes or fault.between) or "everybody"
            values = " ".join(f"{name}={value:.6g}" for name, value in fault.values.items())
            until = f"until {seconds(fault.until_ns)} " if fault.until_ns > fault.at_ns else ""
            print(f"    {seconds(fault.at_ns):>10} " + one_line(f"{fault.name} {whom[:60]} {until}{values}"))
        if len(plan.faults) > _MAX_FAULTS_SHOWN:
            print(f"    and {len(plan.faults) - _MAX_FAULTS_SHOWN} more")
        print(f"  replay: {replay}")
