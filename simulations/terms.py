"""What the nodes of a plan offer each other: their policies, and what follows for each pair.

Not responsible for the decisions themselves (`holloway.protocols.offers`).
"""

from __future__ import annotations

from holloway.protocols.offers import LZ4, NOT_COMPRESSED, Policy, Security, Terms, willing
from holloway.simulations.plan import Plan


def policy_of(plan: Plan, name: str) -> Policy:
    """What the node `name` requires and offers."""
    require = Security.NONE if name in plan.in_clear else Security.SESSION
    return Policy(require, compression=LZ4 if name in plan.compressing else NOT_COMPRESSED)


def willing_alone(plan: Plan, name: str) -> Terms:
    """What a node is willing to with peers whose keys are in its configuration: it knows no records of theirs."""
    return willing(policy_of(plan, name), None)


def allowed(plan: Plan, first: str, second: str) -> Terms:
    """What both have asked for by name."""
    return willing_alone(plan, first) & willing_alone(plan, second)
