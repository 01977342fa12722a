"""What nodes may read of the broker's files: the actor that knows the jobs tells the one that has the files.

Not responsible for the rule (`holloway.protocols.control_plane.broker.Broker.may_read`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class SyncRights:
    """`ask`: the rule, for as long as the broker runs."""

    ask: Callable[[str, tuple[str, ...]], bool] | None = None

    def may_read(self, node: str, parts: tuple[str, ...]) -> bool | None:
        """Whether the node may read that now; None while there is nobody who knows."""
        return self.ask(node, parts) if self.ask is not None else None
