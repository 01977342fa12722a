"""What is shown of one job, in order and numbered, and to whom: results are kept, output as far as there is room.

Whoever watches has at most `WINDOW` things under way that he has not confirmed; the rest waits here. Output that finds no room
throws the oldest output away, and its numbers are a gap that every viewer sees. Results and the end are never thrown away. So
neither a viewer who does not read nor a job that writes without end costs more than the bounds, and the job never waits.

At most `MAX_VIEWERS` watch. One more with the same key takes the place of the oldest that has it; one more with another key is for
who asks (`room_for`) to refuse. Whoever has seen the end watches no more, and who comes back with his request takes his own place.

Not responsible for who may watch (`broker`).
"""

from __future__ import annotations

from bisect import bisect_right
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
    """Who watches, since which request: the last position that was sent to him, and those that he has not confirmed."""

    name: str
    request: str
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
        self._others: list[int] = []
        """Positions of what is never thrown away."""

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
        else:
            self._others.append(self.last)

    def drop_oldest(self) -> None:
        """Throw the oldest output away; there is one."""
        item = self._shown.pop(self._outputs.popleft())
        assert isinstance(item, NodeOutput)
        self.held_bytes -= len(item.body) + PIECE_COST_BYTES

    def room_for(self, route: bytes, name: str) -> bool:
        """Whether one more may watch."""
        is_few = route in self.viewers or len(self.viewers) < MAX_VIEWERS
        return is_few or any(viewer.name == name for viewer in self.viewers.values())

    def watch(self, route: bytes, name: str, request: str, after: int) -> tuple[bytes, Viewer] | None:
        """Show what comes after a position to `route`. Whose place that was, if he should be told. There is room."""
        again = [each for each, viewer in self.viewers.items() if (viewer.name, viewer.request) == (name, request)]
        for each in {*again, route} & self.viewers.keys():
            del self.viewers[each]
        displaced = None
        if len(self.viewers) >= MAX_VIEWERS:
            oldest = next(each for each, viewer in self.viewers.items() if viewer.name == name)
            displaced = oldest, self.viewers.pop(oldest)
        self.viewers[route] = Viewer(name, request, min(after, self.last))
        return displaced

    def confirm(self, route: bytes, position: int) -> None:
        """A viewer has seen everything up to `position`."""
        viewer = self.viewers.get(route)
        if viewer is None:
            return
        while viewer.under_way and viewer.under_way[0] <= position:
            viewer.under_way.popleft()
        if not viewer.under_way and viewer.sent == self.last and isinstance(self._shown.get(self.last), Finished):
            del self.viewers[route]

    def due(self) -> list[tuple[bytes, Shown]]:
        """What may be sent now, to whom; it counts as sent."""
        found = []
        for route, viewer in self.viewers.items():
            while len(viewer.under_way) < WINDOW:
                position = self._after(viewer.sent)
                if position is None:
                    viewer.sent = self.last
                    break
                viewer.sent = position
                viewer.under_way.append(position)
                found.append((route, self._shown[position]))
        return found

    def _after(self, position: int) -> int | None:
        """The next position of which something is kept. Of output the beginning goes first, so that no gap follows it."""
        if position + 1 in self._shown:
            return position + 1
        at = bisect_right(self._others, position)
        later = self._others[at : at + 1]
        if self._outputs and self._outputs[0] > position:
            later.append(self._outputs[0])
        return min(later, default=None)
