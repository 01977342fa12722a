"""What can happen as often as somebody likes: refusals above all. Each is counted and stands in the audit trail, and nobody can
flood that.

In a minute a sender has `AUDITED` lines for each event, and the first of each kind besides; what is more of a kind is one line when the
minute is over: "and 480 more within the minute". Senders without a key that counts are *strangers*, who can come from as many places
as they like: `MAX_STRANGERS` of those are told apart at a time, the rest is one sender, `OTHERS`. So are senders with keys above
`MAX_SENDERS`. Not responsible for why something is refused.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from holloway.protocols.control_plane.effects import Audit

AUDITED = 20
STRANGERS_AUDITED = 5
WINDOW_S = 60.0
MAX_SENDERS = 1024
MAX_STRANGERS = 32
OTHERS = "others"
REFUSED = "refused"
NO_END = "control_no_end"
"""The reason of who was cut off because what he sent had no end, or so many frames."""


class _Window:
    __slots__ = ("began", "seen", "unwritten", "who", "written")

    def __init__(self, who: str, began: float) -> None:
        self.who, self.began = who, began
        self.written: Counter[str] = Counter()
        self.seen: set[tuple[str, str]] = set()
        self.unwritten: Counter[tuple[str, str]] = Counter()


class Refusals:
    """Those of one broker or agent. `counts` has them by reason, of which there are few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._windows: OrderedDict[tuple[bool, str], _Window] = OrderedDict()
        self._strangers = 0

    def note(
        self, at: float, who: str, what: str, reason: str, job: str = "", *, is_stranger: bool = False
    ) -> list[Audit]:
        """One more refusal; what is to be written down now. A stranger is called by where he is, or by his key."""
        self.counts[reason] += 1
        return self.tell(at, Audit(REFUSED, who, what, reason, job), reason, is_stranger=is_stranger)

    def tell(self, at: float, entry: Audit, kind: str, *, is_stranger: bool = False) -> list[Audit]:
        """Something else that a sender can have happen at will. `kind`: of each event there are few."""
        written = self.due(at)
        window = self._window(at, entry.who, is_stranger=is_stranger)
        is_first = (entry.event, kind) not in window.seen
        window.seen.add((entry.event, kind))
        if is_first or window.written[entry.event] < (STRANGERS_AUDITED if is_stranger else AUDITED):
            window.written[entry.event] += 1
            written.append(entry)
        else:
            window.unwritten[entry.event, kind] += 1
        return written

    def due(self, at: float) -> list[Audit]:
        """What has to be written down because its minute is over."""
        written: list[Audit] = []
        while self._windows and at >= next(iter(self._windows.values())).began + WINDOW_S:
            (is_stranger, _), window = self._windows.popitem(last=False)
            self._strangers -= is_stranger
            written += [
                Audit(event, window.who, more(count), kind) for (event, kind), count in window.unwritten.items()
            ]
        return written

    def next_due(self) -> float | None:
        """When `due` has something to do next."""
        return next(iter(self._windows.values())).began + WINDOW_S if self._windows else None

    def _window(self, at: float, who: str, *, is_stranger: bool) -> _Window:
        window = self._windows.get((is_stranger, who))
        if window is not None:
            return window
        own = self._strangers if is_stranger else len(self._windows) - self._strangers
        if own >= (MAX_STRANGERS if is_stranger else MAX_SENDERS):
            who = OTHERS
            window = self._windows.get((is_stranger, who))
        if window is None:
            window = self._windows[is_stranger, who] = _Window(who, at)
            self._strangers += is_stranger
        return window


def more(count: int) -> str:
    """What a line says that stands for so many."""
    return f"and {count} more within the minute"


def lines_of(what: str) -> int:
    """How many a line stands for that says so; 1 for every other."""
    words = what.split(" ")
    is_many = len(words) == 6 and what == more(int(words[1]) if words[1].isdecimal() else 0)
    return int(words[1]) if is_many else 1
