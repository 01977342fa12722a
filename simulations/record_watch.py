"""What becomes of the records of one session, at either depth: places that are reached, and promises about them.

Nobody tells which records came whole and which in pieces, so it is read off the counters of the session before and after a
batch. Not responsible for the promises: that is `oracles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from holloway.protocols.arrivals import Arrival
from holloway.protocols.record_size import Report
from holloway.protocols.record_wire import HEADER, HEADER_BYTES, KIND_BITS, SPARSE_MARK, SPREAD_BITS, RecordKind
from holloway.protocols.session import Session
from holloway.simulations.record_oracles import (
    idle_sessions_fall_silent,
    long_records_of,
    loss_shortens_records,
    path_of,
    pieces_held_by,
    reassembly_is_bounded,
    record_size_is_within_bounds,
    records_are_cut_evenly,
    reports_tell_what_was_sent,
    size_by_reports,
)

_FIRST_INDEX = 256
_REPORT = RecordKind.REPORT.value  # kinds from here on carry no packets
_SPREAD_MASK = (1 << SPREAD_BITS) - 1
_REPORT_BYTES = HEADER_BYTES + 16 + 16


class Sight(NamedTuple):
    """A session between two batches, `key` the receiver index of the key in use. `heard` and `size`: of the key in use, by the reports on it."""

    key: int
    heard: Report | None
    size: int
    long_records: int
    held: int


class RecordWatch:
    """Of one session in one life. `reach` and `check` are the world's."""

    __slots__ = ("_active_at", "_check", "_path", "_reach", "_session")

    def __init__(self, session: Session, reach: Callable[[str], None], check: Callable[..., None], now: float) -> None:
        self._session, self._reach, self._check = session, reach, check
        self._active_at = now
        self._path = path_of(session)

    def look(self, arrivals: Iterable[Arrival]) -> Sight | None:
        """How things are before a batch; None when nothing of it can change with this one, which is of whole records with
        packets, a datagram each.
        """
        for _, data, stride, _ in arrivals:
            if stride < len(data) or not _is_plain(data):
                return self.sight()
        return None

    def sight(self) -> Sight:
        """How things are now."""
        session = self._session
        key, heard, size = size_by_reports(session)
        return Sight(key, heard, size, long_records_of(session), pieces_held_by(session))

    def received(self, before: Sight | None, arrivals: Iterable[Arrival], now: float) -> None:
        """A batch was taken in. `before`: what `look` said of it."""
        if before is None:
            self._active_at = now
            return
        reports = 0
        has_run = False
        for _, data, stride, _ in arrivals:
            has_run = has_run or stride < len(data)
            for at in range(0, len(data), stride or 1):
                if _is_report(data[at : at + stride]):
                    reports += 1
                else:
                    self._active_at = now
        after = self.sight()
        reach, check = self._reach, self._check
        if after.held:
            check(reassembly_is_bounded, self._session)
        if after.long_records > before.long_records:
            reach("record_came_as_run" if has_run and not before.held and not after.held else "record_came_in_pieces")
        check(record_size_is_within_bounds, after.size)
        if after.key != before.key or after.heard is None or before.heard is None or after.heard == before.heard:
            return
        check(reports_tell_what_was_sent, self._session)
        losses = after.heard.losses - before.heard.losses
        if after.size > before.size:
            reach("record_size_grew")
        if losses:
            reach("record_lost")
            if after.size < before.size:
                reach("record_size_fell")
            if reports == 1:
                arrived = after.heard.datagrams - before.heard.datagrams
                check(loss_shortens_records, arrived, losses, before.size, after.size)

    def sent(self, datagrams: Sequence[bytes], now: float) -> None:
        """These leave together, one at least."""
        before, path = self._path, path_of(self._session)
        self._path = path
        if path.size > before.size and before.size > path.least:
            self._reach("path_grew")
        elif path.size < before.size:
            self._reach("path_shrank")
        self._check(records_are_cut_evenly, datagrams, max(before.size, path.size), path.most)
        for datagram in datagrams:
            if _is_report(datagram):
                self._check(idle_sessions_fall_silent, self._active_at, now)
            else:
                self._active_at = now


def _is_plain(datagram: bytes | memoryview) -> bool:
    if len(datagram) < HEADER_BYTES:
        return False
    index, number, kind, word = HEADER.unpack_from(datagram)
    has_one = kind & SPARSE_MARK or not (number or word & _SPREAD_MASK)
    return index >= _FIRST_INDEX and kind & KIND_BITS < _REPORT and bool(has_one)


def _is_report(datagram: bytes | memoryview) -> bool:
    return (
        len(datagram) == _REPORT_BYTES
        and int.from_bytes(datagram[:4], "little") >= _FIRST_INDEX
        and int.from_bytes(datagram[6:8], "little") == _REPORT
    )
