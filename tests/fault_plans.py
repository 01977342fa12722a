"""Faults as data, for property tests of whole runs. Not responsible for the runs."""

from __future__ import annotations

from hypothesis import strategies as st

from holloway.simulations.depth import Depth
from holloway.simulations.faults import KINDS, Fault, Scope
from holloway.simulations.quantities import Quantity, Range, Value, read_range

SECOND = 10**9


def _values(kind: str, share: float) -> dict[str, Value]:
    ranges = {"probability": Range(0.0, 0.3), "limit": Range(200, 1500), "drift": Range(-20_000, 20_000)}
    durations = Range(10_000_000, 400_000_000)
    found: dict[str, Value] = {}
    for parameter in KINDS[kind].parameters:
        if parameter.default is not None:
            span = read_range(parameter.default, parameter.quantity)
        elif parameter.quantity is Quantity.RATE:
            span = Range(64_000, 1_000_000)
        else:
            span = ranges.get(parameter.name, durations)
        value = span.low + (span.high - span.low) * share
        found[parameter.name] = value if parameter.quantity is Quantity.PROBABILITY else int(value)
    return found


NODES = ("a", "b", "c")


@st.composite
def drawn_faults(draw: st.DrawFn, depth: Depth) -> Fault:
    """A fault that a run at `depth` can have, in a network with an authority."""
    is_heap = depth is Depth.HEAP
    # The plans at heap speed have no registry.
    wanted = [each for each in KINDS if not (KINDS[each].needs_control or KINDS[each].needs_dtls)]
    if is_heap:
        wanted = [each for each in wanted if not (KINDS[each].needs_actors or KINDS[each].scope is Scope.STORE)]
    kind = draw(st.sampled_from(sorted(wanted)))
    begin, lasts = draw(st.integers(0, 99)), draw(st.integers(0, 99))
    at_ns = begin * SECOND // 10
    # Two nodes that both move while they cannot hear each other stay apart: nobody could tell them where to call.
    node = "a" if kind == "nat_rebind" else draw(st.sampled_from(NODES))
    is_on_nodes = KINDS[kind].scope is Scope.NODES or kind == "partition"
    return Fault(
        name=f"{kind}-{draw(st.integers(0, 99))}",
        kind=kind,
        at_ns=at_ns,
        until_ns=min(at_ns + lasts * SECOND // 10, 10 * SECOND) if KINDS[kind].has_end else at_ns,
        nodes=(node,) if is_on_nodes else (),
        one_way=draw(st.booleans()) if kind == "partition" else False,
        values=_values(kind, draw(st.integers(0, 10)) / 10) | ({} if is_heap or kind != "clock_skew" else {"drift": 0}),
    )
