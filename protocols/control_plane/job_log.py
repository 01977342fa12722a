"""What is shown of one job, in order and numbered, and to whom: results are kept, output as far as there is room.

Whoever watches has at most `WINDOW` things under way that he has not confirmed; the rest waits here. Output that finds no room
throws the oldest output away, and its numbers are a gap that every viewer sees. Results and the end are never thrown away. So
neither a viewer who does not read nor a job that writes without end costs more than the bounds, and the job never waits.

Not responsible for who may watch (`broker`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from holloway.protocols.control_plane.messages import Finished, NodeOutput, Result

WINDOW = 64
MAX_VIEWERS = 8
HELD_BYTES = 4 * 1024 * 1024
PIECE_COST_BYTES = 256
"""Output of one job that is kept for those who watch later or slowly; each piece counts with so much beside its bytes."""

Shown: TypeAlias = NodeOutput | Result | Finished


@dataclass(slots=True)
class Viewer:
    """Who watches: the last position that was sent to him, and those that he has not confirmed."""

    name: str
    sent: int
    under_way: deque[int] = field(default_factory=deque)


class JobLog:
    """The log of one job."""

    def __init__(self) -> None:
        self.last = 0
        """The last position so far."""
        self.held_bytes = 0
        self.viewers: dict[bytes, Viewer] = {}
        self._shown: dict[int, Shown] = {}
        self._outputs: deque[int] = deque()

    @property
    def held_outputs(self) -> int:
        """How many pieces of output are kept."""
        return len(self._outputs)

    @property
    def has_gaps(self) -> bool:
        """Whether output was thrown away."""
        return len(self._shown) < self.last

    def add(self, item: Shown) -> None:
        """One more thing, whose position this gives."""
        self.last += 1
        item = replace(item, position=self.last)
        self._shown[self.last] = item
        if isinstance(item, NodeOutput):
            self._outputs.append(self.last)
            self.held_bytes += len(item.body) + PIECE_COST_BYTES
            while self.held_bytes > HELD_BYTES:
                self.drop_oldest()

    def drop_oldest(self) -> None:
        """Throw the oldest output away; there is one."""
        item = self._shown.pop(self._outputs.popleft())
        assert isinstance(item, NodeOutput)
        self.held_bytes -= len(item.body) + PIECE_COST_BYTES

    def watch(self, route: bytes, name: str, after: int) -> None:
        """Show what comes after a position to `route`. Of more viewers than there may be the oldest is let go."""
        self.viewers.pop(route, None)
        while len(self.viewers) >= MAX_VIEWERS:
            del self.viewers[next(iter(self.viewers))]
        self.viewers[route] = Viewer(name, min(after, self.last))

    def confirm(self, route: bytes, position: int) -> None:
        """A viewer has seen everything up to `position`."""
        viewer = self.viewers.get(route)
        while viewer is not None and viewer.under_way and viewer.under_way[0] <= position:
            viewer.under_way.popleft()

    def due(self) -> list[tuple[bytes, Shown]]:
        """What may be sent now, to whom; it counts as sent."""
        found = []
        for route, viewer in self.viewers.items():
            while viewer.sent < self.last and len(viewer.under_way) < WINDOW:
                viewer.sent += 1
                item = self._shown.get(viewer.sent)
                if item is not None:
                    viewer.under_way.append(viewer.sent)
                    found.append((route, item))
        return found
