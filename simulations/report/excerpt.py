"""What of a trace a page holds: all of a common one, and of a huge one the part that explains a failure.

Lines about datagrams and packets are the many. Of these the page holds a bounded number, those around the first violation,
or the last ones; the ones before are counted for each node. Of the others (states, faults, lives) it holds a bounded number
too, the last ones, and of those before what is still so when they begin. Lines are text of others: what is no line of a
trace is counted, never raised. Not responsible for HTML.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

TRAFFIC = ("send", "arrive", "lost", "deliver")
"""The kinds that are the many."""
TRAFFIC_LINES = 200_000
"""Lines about datagrams and packets that a page holds."""
MARK_LINES = 50_000
"""Other lines that a page holds."""
AFTER_VIOLATION = 4
"""One part in so many of `TRAFFIC_LINES` is for what comes after a violation."""
TEXT_CHARACTERS = 400
"""Longer texts of a line are cut."""
_LASTING = ("state", "fault", "heal", "node")
_LARGEST = 2**53 - 1  # what a number of a script holds exactly


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a trace, as `holloway.simulations.trace` describes it. `at_ns` is its `t`."""

    at_ns: int
    seq: int
    node: str
    kind: str
    peer: str
    size: int
    cause: int
    what: str


@dataclass(frozen=True, slots=True)
class Extent:
    """How many lines a page was given, how many good ones it does not hold, and how many were none."""

    read: int
    left_out: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which lines about datagrams are left out, up to the end of the run if `until_ns` is None."""

    from_ns: int
    until_ns: int | None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines in the order of the trace. `before`: what each node had sent, got, lost and delivered ere `lines` begin."""

    lines: list[Line]
    before: dict[str, list[int]]
    gaps: list[Gap]
    extent: Extent


def read_line(text: str) -> Line | None:
    """One line of a trace, or None for what is none."""
    try:
        found = json.loads(text)
        names = [found["node"], found["kind"], found["peer"], found["what"]]
        numbers = [found["t"], found["seq"], found["size"], found["cause"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not all(type(each) is str for each in names):
        return None
    if not all(type(each) is int and 0 <= each <= _LARGEST for each in numbers):
        return None
    node, kind, peer, what = (each[:TEXT_CHARACTERS] for each in names)
    return Line(numbers[0], numbers[1], node, kind, peer, numbers[2], numbers[3], what)


def take_excerpt(lines: Iterable[str], *, traffic: int = TRAFFIC_LINES, marks: int = MARK_LINES) -> Excerpt:
    """Read a whole trace, and hold at most `traffic` and `marks` lines of it (besides what is still so, see above)."""
    kept: deque[Line] = deque()
    others: deque[Line] = deque()
    lasting: dict[tuple[str, str, str], Line] = {}
    before: dict[str, list[int]] = {}
    read = unreadable = left_out = 0
    room: int | None = None
    first_ns = 0
    cut_ns: int | None = None
    for text in lines:
        read += 1
        line = read_line(text)
        if line is None:
            unreadable += 1
        elif line.kind not in TRAFFIC:
            if line.kind == "violation" and room is None:
                room = traffic // AFTER_VIOLATION
            others.append(line)
            if len(others) > marks:
                old = others.popleft()
                left_out += 1
                if old.kind in _LASTING:
                    # Of a node there is news of several sorts, and each word of it may still be so.
                    key = (old.kind, old.node, old.what.partition(" ")[0] if old.kind == "node" else old.peer)
                    left_out -= key not in lasting
                    lasting.pop(key, None)  # so that they stay in the order of the trace
                    lasting[key] = old
        elif room is not None and room <= 0:
            left_out += 1
            cut_ns = line.at_ns if cut_ns is None else cut_ns
        else:
            room = room if room is None else room - 1
            kept.append(line)
            if len(kept) > traffic:
                old = kept.popleft()
                left_out += 1
                before.setdefault(old.node, [0] * len(TRAFFIC))[TRAFFIC.index(old.kind)] += 1
                first_ns = kept[0].at_ns
    gaps = [Gap(0, first_ns)] if before else []
    if cut_ns is not None:
        gaps.append(Gap(cut_ns, None))
    every = sorted([*lasting.values(), *others, *kept], key=lambda line: line.seq)
    return Excerpt(every, before, gaps, Extent(read, left_out, unreadable))
