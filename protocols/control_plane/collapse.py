"""Results as people read them: equal answers are shown once, with all the nodes that gave them.

Not responsible for printing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from holloway.protocols.control_plane.messages import State


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What one node answered, all of it."""

    node: str
    state: State
    rc: int | None
    stdout: bytes
    stderr: bytes
    duration_s: float
    error: str


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that answered the same, in the order of their names, and the answer: that of the first of them."""

    nodes: tuple[str, ...]
    result: NodeResult


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """The key that sorts web2 before web10."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), part) if at % 2 else (1, 0, part) for at, part in enumerate(parts))


def collapse(results: Iterable[NodeResult]) -> list[Group]:
    """Groups of nodes with the same state, code, outputs and error. How long it took makes no difference. Those that are ok
    come first, large groups before small ones, so that what went wrong stands last.
    """
    groups: dict[tuple[object, ...], list[NodeResult]] = {}
    for result in sorted(results, key=lambda each: natural(each.node)):
        answer = (result.state, result.rc, result.stdout, result.stderr, result.error)
        groups.setdefault(answer, []).append(result)
    found = [Group(tuple(each.node for each in group), group[0]) for group in groups.values()]
    return sorted(found, key=lambda group: (group.result.state is not State.OK, -len(group.nodes)))
