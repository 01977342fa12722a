"""What a broker refuses: every refusal is counted and stands in the audit trail, and nobody can flood that.

A sender has `AUDITED` refusals a minute that are written down one by one; the others are written down as their number, when the
minute is over. Not responsible for why something is refused.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from holloway.protocols.control_plane.effects import Audit

AUDITED = 20
WINDOW_S = 60.0
MAX_SENDERS = 1024
"""Senders that are told apart; of more, the oldest is written down at once."""


class _Window:
    __slots__ = ("began", "count", "unwritten")

    def __init__(self, began: float) -> None:
        self.began, self.count = began, 0
        self.unwritten: Counter[str] = Counter()


class Refusals:
    """The refusals of one broker or agent. `counts` has them by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def note(self, at: float, who: str, what: str, reason: str, job: str = "") -> list[Audit]:
        """One more; what is to be written down now."""
        self.counts[reason] += 1
        written = self.due(at)
        window = self._windows.get(who)
        if window is None:
            if len(self._windows) >= MAX_SENDERS:
                written += _summary(*self._windows.popitem(last=False))
            window = self._windows[who] = _Window(at)
        window.count += 1
        if window.count <= AUDITED:
            written.append(Audit("refused", who, what, reason, job))
        else:
            window.unwritten[reason] += 1
        return written

    def due(self, at: float) -> list[Audit]:
        """What has to be written down because its minute is over."""
        written: list[Audit] = []
        while self._windows and at >= next(iter(self._windows.values())).began + WINDOW_S:
            written += _summary(*self._windows.popitem(last=False))
        return written

    def next_due(self) -> float | None:
        """When `due` has something to do next."""
        return next(iter(self._windows.values())).began + WINDOW_S if self._windows else None


def _summary(who: str, window: _Window) -> list[Audit]:
    return [Audit("refused", who, f"{count} more", reason) for reason, count in window.unwritten.items()]
