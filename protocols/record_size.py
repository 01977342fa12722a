"""How many datagrams may share a record: the receiver's meter, its report, and what the sender makes of it.

A record of g datagrams is lost with any of them. On a path that loses nothing a long record saves work; on one that loses
a hundredth, g = 44 would lose a third of all bytes. So the receiver counts what came and what did not, tells the sender in
sealed reports, and the sender goes by them:

* It begins with 1 under every key, and doubles with each report without a loss, up to `MAX_DATAGRAMS`.
* A loss ends that, and drops at once to what losses allow, those of this report and those of late: losses per datagram,
  times g, stay within `TOLERATED_LOSS`. On all but fast paths a single loss drops it to 1. A burst counts as one loss,
  because long records make nothing worse about it.
* A record takes at most `RECORD_S` at the rate at which datagrams arrive: on a slow link, long records would only delay
  what they carry.
* Without a report for `REPORT_LIFETIME_S` it is 1: a path that has been silent may be another one now.

Losses are found by counters missing among authentic ones, so nobody but the peer can feign one; anybody on the path can
cause one. A receiver that lies harms the traffic to itself alone: the best it can do is a record size that suits it badly.

Not responsible for sealing reports, nor for when the timers of a session run.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from holloway.protocols.events import DropReason
from holloway.protocols.record_wire import MAX_DATAGRAMS

REPORT_S = 0.02
"""From the first datagram worth reporting to the report; also how late a record may be before it counts as lost."""
REPORT_GRACE_S = 0.05
"""So long after that a timer sees to it. Before, whatever arrives is an occasion: under traffic a timer that went off with each
report would cost more than the reports."""
SILENCE_S = 1.0
"""Longer than what is under way takes to arrive, also through a queue that stands, also at the end of the key before."""
WORTH_REPORTING = 8
"""Datagrams within `REPORT_S`. Less traffic has nothing to gain from longer records, and reports must not be answered with
reports."""
MAX_MISSING = 256
"""Counters remembered as missing. What a longer gap loses is lost at once."""
REPORT_LIFETIME_S = 0.25
TOLERATED_LOSS = 0.005
"""The share of records that may be lost. Measured: with 8 datagrams a record, TCP (cubic) keeps a third of its speed on a
path that loses 1 %, where so many losses in a row leave too little of a window to tell of them; 0.95 of it at 0.1 %."""
MEMORY = 0.9
"""What each report leaves of the weight of those before it: half is forgotten after 7 reports, or 130 ms."""
RECORD_S = 0.005
"""64 datagrams of 1450 bytes take this long at 149 Mbit/s."""

_REPORT = Struct("<IIII")
_MASK = 0xFFFF_FFFF


class Report(NamedTuple):
    """What has arrived under one key since its beginning; each number modulo 2^32.

    `records` and `datagrams`: authentic records and the datagrams they came in. `lost`: records given up.
    `losses`: how often: lost records whose counters follow each other count once.
    """

    records: int
    datagrams: int
    lost: int
    losses: int

    def encode(self) -> bytes:
        """The plaintext of a record of kind `REPORT`."""
        return _REPORT.pack(*(number & _MASK for number in self))

    @classmethod
    def parse(cls, plaintext: bytes) -> Report | None:
        """The inverse of `encode`; None for anything but 16 bytes."""
        return cls(*_REPORT.unpack(plaintext)) if len(plaintext) == _REPORT.size else None


class LossMeter:
    """What of the peer's records under one key arrives. Fed with authentic records only, each once."""

    __slots__ = (
        "_datagrams",
        "_last_lost",
        "_losses",
        "_lost",
        "_missing",
        "_pending",
        "_pending_until",
        "_records",
        "_top",
        "due_at",
    )

    def __init__(self, first_counter: int, since: float = float("-inf")) -> None:
        """`first_counter`: that of the first record that the peer seals. `since`: when there was the key."""
        self._top = first_counter - 1
        self._records = self._datagrams = self._lost = self._losses = 0
        self._missing: dict[int, float] = {}  # counter -> when it was missed; ascending in both
        self._last_lost = -2
        self._pending = 0
        self._pending_until = since
        self.due_at: float | None = None
        """When to send a report; None while there is nothing to tell."""

    def arrived(self, counter: int, datagrams: int, now: float, *, is_report: bool = False) -> bool:
        """An authentic record, seen for the first time. Whether `due_at` has changed, or is past."""
        top = self._top
        self._records += 1
        self._datagrams += datagrams
        if counter == top + 1:
            self._top = counter
        elif counter > top:
            self._miss(top + 1, counter, now)
            self._top = counter
        else:
            self._missing.pop(counter, None)
        if not is_report:
            if now > self._pending_until:
                self._pending, self._pending_until = 0, now + REPORT_S
            self._pending += datagrams
        if self.due_at is None and (self._pending >= WORTH_REPORTING or self._missing):
            self.due_at = now + REPORT_S
            return True
        return self.due_at is not None and self.due_at <= now

    def arrived_row(self, first: int, count: int, now: float, datagrams: int) -> bool:
        """The same for `count` records that came in `datagrams`, none a report, with counters from `first` on that are above all
        before.
        """
        self._records += count - 1
        is_due = self.arrived(first, datagrams, now)
        self._top = first + count - 1
        return is_due

    def report(self, now: float) -> Report:
        """The report to send now. What has been missing for `REPORT_S` counts as lost from here on."""
        late = list(self._late(now))
        for counter in late:
            del self._missing[counter]
        self._give_up(late)
        self._pending = 0
        self.due_at = now + REPORT_S if self._missing else None
        return Report(self._records & _MASK, self._datagrams & _MASK, self._lost & _MASK, self._losses & _MASK)

    def is_silent(self, now: float) -> bool:
        """Whether the key is older than `SILENCE_S`, and nothing but reports has arrived for as long."""
        return now > self._pending_until + SILENCE_S

    def _late(self, now: float) -> Iterator[int]:
        for counter, since in self._missing.items():
            if now < since + REPORT_S:
                return
            yield counter

    def _miss(self, begin: int, end: int, now: float) -> None:
        """The counters from `begin` up to `end` have been skipped."""
        remembered = max(begin, end - MAX_MISSING)
        crowded = len(self._missing) + end - remembered - MAX_MISSING
        if crowded > 0:
            pushed_out = list(self._missing)[:crowded]
            for counter in pushed_out:
                del self._missing[counter]
            self._give_up(pushed_out)
        if remembered > begin:
            self._lost += remembered - begin
            self._losses += 1
            self._last_lost = remembered - 1
        self._missing.update(dict.fromkeys(range(remembered, end), now))

    def _give_up(self, counters: list[int]) -> None:
        """Count ascending counters as lost."""
        self._lost += len(counters)
        for counter in counters:
            self._losses += counter != self._last_lost + 1
            self._last_lost = counter


class RecordSize:
    """How many datagrams a record may have, by the reports on one key."""

    __slots__ = ("_harm", "_heard", "_heard_at", "_seen", "_size", "datagrams", "records")

    def __init__(self) -> None:
        self._size = 1
        self._heard = Report(0, 0, 0, 0)
        self._heard_at = float("-inf")
        self.records = self.datagrams = 0
        """How many were sealed under the key, reports and keepalives included: whoever seals says so."""
        self._seen = self._harm = 0.0

    def __repr__(self) -> str:
        return f"<RecordSize {self._size}>"

    def sent(self, records: int, datagrams: int) -> None:
        """So many were sealed under the key, reports and keepalives included."""
        self.records += records
        self.datagrams += datagrams

    def size(self, now: float) -> int:
        """The datagrams that the next records may have, 1 to `MAX_DATAGRAMS`."""
        if now - self._heard_at >= REPORT_LIFETIME_S:
            self._size = 1
        return self._size

    def hear(self, plaintext: bytes, now: float) -> DropReason | None:
        """Take in an authentic report of the peer; why not, if it cannot be used."""
        report = Report.parse(plaintext)
        if report is None:
            return DropReason.REPORT_MALFORMED
        heard = self._heard
        if not report.losses <= report.lost <= self.records or not report.records <= report.datagrams:
            return DropReason.REPORT_ABSURD
        if report.records > self.records or report.datagrams > self.datagrams:
            return DropReason.REPORT_ABSURD
        if all(new <= old for new, old in zip(report, heard, strict=True)):
            return None  # a later one has overtaken it
        if any(new < old for new, old in zip(report, heard, strict=True)):
            return DropReason.REPORT_ABSURD
        self.size(now)
        arrived, losses = report.datagrams - heard.datagrams, report.losses - heard.losses
        # Reports that come all at once, having waited somewhere, are still about `REPORT_S` each.
        at_this_rate = int(arrived * RECORD_S / max(now - self._heard_at, REPORT_S))
        self._heard, self._heard_at = report, now
        self._seen = self._seen * MEMORY + arrived
        self._harm = self._harm * MEMORY + losses
        wanted = self._size
        if losses:
            wanted = min(wanted, int(TOLERATED_LOSS * min(self._seen / self._harm, arrived / losses)))
        else:
            wanted *= 2
            if self._harm * wanted > TOLERATED_LOSS * self._seen:
                wanted = int(TOLERATED_LOSS * self._seen / self._harm)
        self._size = max(1, min(wanted, at_this_rate, MAX_DATAGRAMS))
        return None
