"""Reading the table `[registry]` of a scenario: where nodes find each other, whom they believe, and which addresses float or are claimed.

Not responsible for the rest of a scenario (`scenario`).
"""

from __future__ import annotations

from holloway.protocols.floating_claims import MAX_PRIORITY
from holloway.simulations.identities import MAX_FLOATING
from holloway.simulations.plan import MAX_LEASE_NS, MIN_LEASE_NS, TRUSTS, FloatingPlan, Meeting
from holloway.simulations.quantities import Quantity, WrongValueError
from holloway.simulations.tables import Table


def read_registry(table: Table, nodes: tuple[str, ...]) -> Meeting:
    """The registry of a scenario with these nodes. Raises `ScenarioError`."""
    lease_ns = int(table.value("lease", Quantity.DURATION, "30s"))
    latency = table.range("latency", Quantity.DURATION, "1ms..20ms")
    trust = table.choice("trust", TRUSTS, "store")
    claim_ns = int(table.value("claim", Quantity.DURATION, "0s"))
    rest_ns = int(table.value("rest", Quantity.DURATION, "0s"))
    floating = tuple(_floating(each, nodes) for each in table.tables("floating"))
    table.finish()
    if not MIN_LEASE_NS <= lease_ns <= MAX_LEASE_NS:
        table.refuse("lease", "a lease lasts from 2s to 1h", "change lease")
    if len(floating) > MAX_FLOATING:
        table.refuse("floating", f"{len(floating)} floating addresses, {MAX_FLOATING} are allowed", "take fewer")
    if floating and trust != "store":
        table.refuse("trust", "here addresses float only where the registry is believed", 'write trust = "store"')
    return Meeting(
        lease_ns=lease_ns,
        latency_low_ns=int(latency.low),
        latency_high_ns=int(latency.high),
        trust=trust,
        floating=floating,
        claim_ns=claim_ns,
        rest_ns=rest_ns,
    )


def _floating(table: Table, nodes: tuple[str, ...]) -> FloatingPlan:
    names = table.texts("nodes", dict.fromkeys(nodes))
    priorities = table.take("priorities", _priorities, (0,) * len(names))
    table.finish()
    if not names:
        table.refuse("nodes", "nobody may have it", "name the nodes that may")
    if len(priorities) != len(names):
        table.refuse("priorities", f"{len(priorities)} for {len(names)} nodes", "give one for each")
    return FloatingPlan(nodes=names, priorities=priorities)


def _priorities(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each <= MAX_PRIORITY for each in value):
        raise WrongValueError(f"expected a list of numbers up to {MAX_PRIORITY}")
    return tuple(value)
