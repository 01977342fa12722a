"""The two speeds of the simulator, and what each cannot do.

`heap` drives the pure protocols of `protocols/`, `actors` the whole actor tree of each node, with its registry, under Trio's
mock clock, at about a fifth of the speed. A plan says which of them it is for. Not responsible for either (`breadth`,
`actor_world`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

MAX_ACTOR_NODES = 64
"""Nodes of one run at `actors`: each is a whole daemon."""


class Depth(StrEnum):
    """How much of a node is real. The value is the word of `--depth`."""

    HEAP = "heap"
    ACTORS = "actors"


def obstacle(
    depth: Depth,
    *,
    nodes: int,
    has_registry: bool,
    has_drift: bool,
    actor_words: Iterable[str],
    has_control: bool = False,
    has_compression: bool = False,
    has_dtls: bool = False,
    has_queues: bool = False,
) -> str | None:
    """Why something cannot run at `depth`, or `None`.

    `actor_words`: kinds of faults, promises and places in it that only the actor tree has.
    """
    match depth:
        case Depth.HEAP:
            words = ["a registry"] * has_registry + ["several queues"] * has_queues + list(dict.fromkeys(actor_words))
            if words:
                return f"only whole nodes have {', '.join(words)}"
            if has_dtls:
                return "only whole nodes speak DTLS"
        case Depth.ACTORS:
            if has_control:
                return "a control plane is simulated as its pure protocols only"
            if nodes > MAX_ACTOR_NODES:
                return f"{nodes} nodes are too many for whole nodes, {MAX_ACTOR_NODES} are not"
            if has_compression:
                return "whole nodes compress with a library that may be missing, and would not do the same everywhere"
            if has_drift:
                return "the actors of all nodes share one monotonic clock, so none of them can have a drift"
    return None
