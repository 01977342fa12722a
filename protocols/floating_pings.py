"""What a node that waits for a floating address makes of its pings: whether it doubts the holder, and whether others hear us.

With the last ping that the holder may lose it asks others, to know whether it is not itself that nobody hears; and if they do not
answer, again and again while it doubts: after an outage of all they are back sooner or later. Not responsible for what follows
from doubt (`floating_rival`), nor for pings.
"""

from __future__ import annotations

import math

LOST_PINGS = 3
"""So many in a row, and the holder is doubted."""
ASK_AGAIN_S = 1.0


class HolderPings:
    """The pings of one node to the holder of one address. Times are monotonic seconds."""

    __slots__ = ("_asked_at", "_is_in_touch", "_lost", "fence")

    def __init__(self) -> None:
        self.fence: int | None = None
        """Of the claim whose holder is pinged; None: nobody is."""
        self._lost, self._is_in_touch, self._asked_at = 0, False, -math.inf

    def aim(self, fence: int | None) -> None:
        """Whom we ping from now on."""
        if fence != self.fence:
            self._forget()
            self.fence = fence

    def are_others_asked(self, now: float) -> bool:
        """Whether others are to be asked together with the holder now. If so, they are taken to be asked."""
        is_due = self._lost >= LOST_PINGS - 1 and not self._is_in_touch and now >= self._asked_at + ASK_AGAIN_S
        if is_due:
            self._asked_at = now
        return is_due

    def others_asked(self, is_in_touch: bool) -> None:
        """What came of it: whether enough of them answer us."""
        self._is_in_touch = is_in_touch

    def holder_asked(self, is_there: bool) -> None:
        """Whether the holder has answered a ping."""
        if is_there:
            self._forget()
        else:
            self._lost += 1

    @property
    def doubt(self) -> tuple[int | None, bool]:
        """Which claim, by its fence, has a holder that does not answer, None for nobody's; and whether others answer us."""
        return (self.fence, self._is_in_touch) if self._lost >= LOST_PINGS else (None, False)

    def _forget(self) -> None:
        self._lost, self._is_in_touch, self._asked_at = 0, False, -math.inf
