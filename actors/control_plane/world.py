"""Where the control plane's time and randomness come from. Not responsible for the event loop's clock, which is Trio's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from holloway.protocols.control_plane.effects import Moment


@dataclass(frozen=True, slots=True)
class World:
    """Where time and randomness come from."""

    wall: Callable[[], float]
    entropy: Callable[[int], bytes]

    def moment(self) -> Moment:
        """Now."""
        return Moment(trio.current_time(), self.wall())

    def stamp(self) -> str:
        """Now, for people."""
        return datetime.fromtimestamp(int(self.wall()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
