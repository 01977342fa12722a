"""The states of a floating address on one node, and the ways between them. Not responsible for when they are taken."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final


class Phase(Enum):
    """Where a node stands with a floating address."""

    OUT = "not a candidate: not healthy, or stopped"
    WAITING = "a candidate: another node holds it, or nobody does yet"
    HOLDING = "the claim is ours, as far as we know"
    LEAVING = "given up, and the claim is to be removed"


TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = MappingProxyType(
    {
        Phase.OUT: frozenset({Phase.WAITING, Phase.LEAVING}),
        Phase.WAITING: frozenset({Phase.OUT, Phase.HOLDING, Phase.LEAVING}),
        Phase.HOLDING: frozenset({Phase.WAITING, Phase.LEAVING}),
        Phase.LEAVING: frozenset({Phase.OUT, Phase.WAITING}),
    }
)
"""From OUT to LEAVING: a claim that was under way when we ceased to be a candidate turns out to have been made."""
