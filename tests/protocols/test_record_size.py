"""Record sizes: what the meter counts, what the report says, and what a sender makes of honest and of lying reports."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.events import DropReason
from holloway.protocols.record_size import (
    MAX_MISSING,
    REPORT_LIFETIME_S,
    REPORT_S,
    SILENCE_S,
    WORTH_REPORTING,
    LossMeter,
    RecordSize,
    Report,
)
from holloway.protocols.record_wire import MAX_DATAGRAMS

FIRST = 1 << 47
MOST = 0xFFFF_FFFF


def counted(meter: LossMeter, now: float) -> tuple[int, int]:
    report = meter.report(now)
    return report.lost, report.losses


def test_a_report_is_16_bytes_and_parses_to_itself() -> None:
    report = Report(1, 64, 3, MOST + 2)
    assert report.encode() == b"\1\0\0\0\x40\0\0\0\3\0\0\0\1\0\0\0"
    assert Report.parse(report.encode()) == Report(1, 64, 3, 1)
    for wrong in (b"", bytes(15), bytes(17)):
        assert Report.parse(wrong) is None


def test_what_arrives_in_order_is_counted_and_nothing_is_lost() -> None:
    meter = LossMeter(FIRST)
    for n in range(10):
        meter.arrived(FIRST + n, 44, 0.0)
    assert meter.report(0.02) == Report(10, 440, 0, 0)


def test_a_key_is_silent_a_while_after_its_last_record_and_never_while_it_is_young() -> None:
    meter = LossMeter(FIRST, 5.0)
    assert not meter.is_silent(5.0 + SILENCE_S)
    assert meter.is_silent(5.01 + SILENCE_S)
    meter.arrived(FIRST, 1, 10.0)
    meter.arrived(FIRST + 1, 1, 10.01 + REPORT_S + SILENCE_S, is_report=True)
    assert not meter.is_silent(10.0 + REPORT_S + SILENCE_S)
    assert meter.is_silent(10.01 + REPORT_S + SILENCE_S), "reports do not count"


def test_what_is_overtaken_by_less_than_the_time_of_a_report_is_not_lost() -> None:
    meter = LossMeter(FIRST)
    for n in (0, 1, 4, 5):
        meter.arrived(FIRST + n, 1, 0.0)
    assert counted(meter, REPORT_S / 2) == (0, 0)
    meter.arrived(FIRST + 3, 1, REPORT_S / 2)
    assert counted(meter, REPORT_S) == (1, 1)
    # Too late: it has been reported as lost, and stays so.
    meter.arrived(FIRST + 2, 1, REPORT_S)
    assert meter.report(1.0) == Report(6, 6, 1, 1)


def test_the_first_records_are_missed_as_any_others() -> None:
    meter = LossMeter(FIRST)
    meter.arrived(FIRST + 2, 1, 0.0)
    assert counted(meter, REPORT_S) == (2, 1)


def test_records_lost_in_a_row_are_one_loss() -> None:
    meter = LossMeter(FIRST)
    for n in (0, 5, 6, 8, 9):
        meter.arrived(FIRST + n, 1, 0.0)
    assert counted(meter, REPORT_S) == (5, 2)


def test_a_gap_longer_than_can_be_remembered_is_lost_at_once_and_is_one_loss() -> None:
    meter = LossMeter(FIRST)
    meter.arrived(FIRST, 1, 0.0)
    meter.arrived(FIRST + 2, 1, 0.0)
    meter.arrived(FIRST + (1 << 40), 1, 0.0)
    lost = (1 << 40) - 3 - MAX_MISSING
    assert meter.report(0.0) == Report(3, 3, (lost + 1) & MOST, 2)
    assert meter.report(1.0) == Report(3, 3, (lost + 1 + MAX_MISSING) & MOST, 2)
    assert meter.report(2.0) == Report(3, 3, (lost + 1 + MAX_MISSING) & MOST, 2)


def test_more_gaps_than_can_be_remembered_push_out_the_oldest() -> None:
    meter = LossMeter(FIRST)
    for n in range(0, 4 * MAX_MISSING, 2):
        meter.arrived(FIRST + n, 1, 0.0)
    missing = 2 * MAX_MISSING - 1
    assert counted(meter, 0.0) == (missing - MAX_MISSING, missing - MAX_MISSING)
    assert counted(meter, 1.0) == (missing, missing)


def test_a_report_is_due_20_ms_after_there_is_something_to_tell() -> None:
    meter = LossMeter(FIRST)
    for n in range(WORTH_REPORTING - 1):
        meter.arrived(FIRST + n, 1, 1.0)
    assert meter.due_at is None
    meter.arrived(FIRST + WORTH_REPORTING - 1, 1, 1.01)
    meter.arrived(FIRST + WORTH_REPORTING, 1, 1.02)
    assert meter.due_at == 1.01 + REPORT_S
    meter.report(1.01 + REPORT_S)
    assert meter.due_at is None
    meter.arrived(FIRST + WORTH_REPORTING + 1, MAX_DATAGRAMS, 3.0)
    assert meter.due_at == 3.0 + REPORT_S


def test_datagrams_that_come_slowly_are_not_worth_a_report() -> None:
    meter = LossMeter(FIRST)
    for n in range(1000):
        meter.arrived(FIRST + n, WORTH_REPORTING // 2, 1.0 + n * (REPORT_S * 1.01))
    assert meter.due_at is None
    meter.arrived(FIRST + 1000, WORTH_REPORTING // 2, 1.0 + 999 * (REPORT_S * 1.01))
    assert meter.due_at is not None


def test_a_gap_is_worth_a_report_until_it_has_been_reported() -> None:
    meter = LossMeter(FIRST)
    meter.arrived(FIRST + 1, 1, 1.0)
    assert meter.due_at == 1.0 + REPORT_S
    meter.report(1.01)
    assert meter.due_at == 1.01 + REPORT_S
    assert meter.report(1.01 + REPORT_S).lost == 1
    assert meter.due_at is None


def test_reports_are_not_answered_with_reports() -> None:
    meter = LossMeter(FIRST)
    for n in range(1000):
        meter.arrived(FIRST + n, 1, n * REPORT_S, is_report=True)
    assert meter.due_at is None
    assert meter.report(30.0) == Report(1000, 1000, 0, 0)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(seed=st.integers(0, 1 << 32), loss=st.sampled_from([0.0, 0.01, 0.5]), shift=st.sampled_from([0, 5, 300]))
def test_what_is_counted_adds_up_to_what_was_sent(seed: int, loss: float, shift: int) -> None:
    rng = random.Random(seed)
    order = [n for n in range(2000) if rng.random() >= loss]
    order.sort(key=lambda n: n + rng.uniform(0, shift))
    meter = LossMeter(FIRST)
    reports = []
    for step, n in enumerate(order):
        meter.arrived(FIRST + n, 2, step / 50_000)
        if step % 500 == 499:
            reports.append(meter.report(step / 50_000))
    reports.append(meter.report(10.0))
    last, top = reports[-1], max(order)
    assert last.records == len(order)
    assert last.datagrams == 2 * len(order)
    assert last.losses <= last.lost
    assert top + 1 - len(order) <= last.lost
    # Whatever is lost was missing for as long as a report takes; 1000 records take that long here.
    assert last.lost == top + 1 - len(order) or shift == 300
    assert all(
        new >= old for first, second in itertools.pairwise(reports) for new, old in zip(second, first, strict=True)
    )


@dataclass
class Path:
    """A sender with always something to send, a receiver, and a path that loses the datagrams of these numbers."""

    lost: Iterable[int] = ()
    rate: int = 7000  # datagrams between two reports
    tell: Callable[[Report], bytes] = Report.encode
    control: RecordSize = field(default_factory=RecordSize)
    meter: LossMeter = field(default_factory=lambda: LossMeter(FIRST))
    counter: int = FIRST
    datagram: int = 0
    now: float = 0.0
    delivered: int = 0
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lost = iter(self.lost)
        self._next_lost = next(self._lost, 1 << 60)

    def is_whole(self, size: int) -> bool:
        """Whether the next `size` datagrams all arrive."""
        self.datagram += size
        is_whole = self._next_lost >= self.datagram
        while self._next_lost < self.datagram:
            self._next_lost = next(self._lost, 1 << 60)
        return is_whole

    def run(self, reports: int) -> None:
        for _ in range(reports):
            sent = 0
            while sent < self.rate:
                size = self.control.size(self.now)
                self.control.sent(1, size)
                sent += size
                if self.is_whole(size):
                    self.meter.arrived(self.counter, size, self.now)
                    self.delivered += size
                self.counter += 1
            self.now += REPORT_S
            self.control.hear(self.tell(self.meter.report(self.now)), self.now)
            self.sizes.append(self.control.size(self.now))


def random_loss(share: float, begin: int = 0) -> Iterator[int]:
    """The numbers of the datagrams lost when each is lost with this probability, from `begin` on."""
    rng = random.Random(7)
    number = begin
    while True:
        number += int(rng.expovariate(share)) if share < 0.1 else 0
        if share < 0.1 or rng.random() < share:
            yield number
        number += 1


def test_without_loss_records_double_with_each_report_up_to_the_most() -> None:
    path = Path()
    path.run(9)
    # The first report ends a time of unknown length, so nothing is known of the rate.
    assert path.sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_on_a_slow_path_a_record_takes_at_most_5_ms() -> None:
    for rate, most in ((3, 1), (16, 4), (100, 25), (300, 64)):
        path = Path(rate=rate)
        path.run(60)
        assert max(path.sizes) <= most + most // 3
        assert path.sizes[-1] >= most // 2


def test_reports_that_arrive_late_and_all_at_once_do_not_feign_a_fast_path() -> None:
    control = RecordSize()
    control.sent(1000, 1000)
    for n in range(1, 50):
        control.hear(Report(n * 16, n * 16, 0, 0).encode(), 1.0)
    assert control.size(1.0) == 4


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_on_a_lossy_path_records_are_of_one_datagram(share: float) -> None:
    path = Path(random_loss(share))
    path.run(40)
    assert sum(path.sizes) / len(path.sizes) < 1.2
    assert path.delivered / path.datagram > 1 - 1.2 * share


def test_losses_that_begin_bring_a_long_record_down_with_the_first_report() -> None:
    path = Path(random_loss(0.01, 100_000))
    path.run(40)
    at = next(n for n, size in enumerate(path.sizes) if size == 64)
    fall = next(n for n in range(at, 40) if path.sizes[n] < 64)
    assert path.sizes[fall] <= 2
    assert max(path.sizes[fall:]) <= 2


def test_rare_losses_leave_records_as_long_as_they_do_little_harm() -> None:
    for share, least, most in ((0.001, 1, 4), (0.0001, 12, 64)):
        path = Path(random_loss(share))
        path.run(300)
        mean = sum(path.sizes[100:]) / 200
        assert least <= mean <= most
        assert path.delivered / path.datagram > 1 - 0.012


def test_a_burst_is_one_loss_that_a_fast_path_soon_forgets() -> None:
    path = Path(range(100_000, 100_500))
    path.run(40)
    assert 16 <= min(path.sizes[10:]) <= 32
    assert path.sizes[-1] == 64


def test_a_path_that_has_been_silent_begins_anew() -> None:
    path = Path()
    path.run(8)
    assert path.control.size(path.now + REPORT_LIFETIME_S - 0.001) == 64
    assert path.control.size(path.now + REPORT_LIFETIME_S) == 1
    assert path.control.size(path.now) == 1


def test_a_report_after_a_silence_goes_on_from_one() -> None:
    control = RecordSize()
    control.sent(1 << 20, 1 << 20)
    for n in range(1, 10):
        control.hear(Report(n * 7000, n * 7000, 0, 0).encode(), n * REPORT_S)
    assert control.size(9 * REPORT_S) == 64
    control.hear(Report(1 << 20, 1 << 20, 0, 0).encode(), 9 * REPORT_S + REPORT_LIFETIME_S)
    assert control.size(9 * REPORT_S + REPORT_LIFETIME_S) == 2


def test_losses_that_come_back_are_remembered_between_them() -> None:
    path = Path(range(0, 1_000_000, 1500), rate=300)
    path.run(100)
    assert 2 <= max(path.sizes[50:]) <= 10


def test_a_report_that_a_later_one_has_overtaken_changes_nothing_and_is_no_offence() -> None:
    control = RecordSize()
    control.sent(1 << 20, 1 << 20)
    for n in range(1, 5):
        assert control.hear(Report(n * 7000, n * 7000, 2, 1).encode(), n * REPORT_S) is None
    size = control.size(4 * REPORT_S)
    assert size > 1
    for late in (Report(27_999, 27_999, 2, 1), Report(28_000, 28_000, 1, 1), Report(28_000, 28_000, 2, 1)):
        assert control.hear(late.encode(), 5 * REPORT_S) is None
        assert control.size(5 * REPORT_S) == size
    # Nor does it make what has been heard any younger.
    assert control.size(4 * REPORT_S + REPORT_LIFETIME_S) == 1


def test_a_report_that_takes_back_what_was_reported_is_absurd() -> None:
    control = RecordSize()
    control.sent(100, 100)
    assert control.hear(Report(50, 50, 2, 2).encode(), 0.0) is None
    for lie in (Report(51, 51, 1, 1), Report(49, 51, 2, 2), Report(51, 51, 2, 1), Report(49, 49, 3, 2)):
        assert control.hear(lie.encode(), 0.0) is DropReason.REPORT_ABSURD
    assert control.hear(Report(51, 51, 2, 2).encode(), 0.1) is None


@pytest.mark.parametrize(
    "lie",
    [
        Report(11, 40, 0, 0),
        Report(10, 41, 0, 0),
        Report(5, 4, 0, 0),
        Report(5, 5, 11, 1),
        Report(5, 5, 1, 2),
        Report(MOST, MOST, MOST, MOST),
        Report(0, 0, MOST, 0),
    ],
)
def test_a_report_of_more_than_was_sent_changes_nothing(lie: Report) -> None:
    control = RecordSize()
    control.sent(10, 40)
    assert control.hear(Report(4, 16, 0, 0).encode(), 1.0) is None
    before = control.size(1.0)
    assert control.hear(lie.encode(), 1.001) is DropReason.REPORT_ABSURD
    assert control.size(1.001) == before


def test_a_report_of_another_length_is_malformed() -> None:
    control = RecordSize()
    assert control.hear(b"", 0.0) is DropReason.REPORT_MALFORMED
    assert control.hear(bytes(17), 0.0) is DropReason.REPORT_MALFORMED
    assert repr(control) == "<RecordSize 1>"


def test_a_receiver_that_hides_losses_loses_its_own_records_and_one_that_feigns_them_gets_short_ones() -> None:
    boastful = Path(random_loss(0.01), tell=lambda report: report._replace(lost=0, losses=0).encode())
    boastful.run(30)
    assert boastful.sizes[-1] == 64
    assert boastful.delivered / boastful.datagram < 0.7
    whining = Path(tell=lambda r: r._replace(lost=r.records // 2, losses=r.records // 2).encode())
    whining.run(30)
    assert set(whining.sizes) == {1}
    assert whining.delivered == whining.datagram
    mute = Path(tell=lambda report: b"")
    mute.run(30)
    assert set(mute.sizes) == {1}


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    reports=st.lists(
        st.tuples(
            st.one_of(st.binary(max_size=20), st.builds(lambda *n: Report(*n).encode(), *[st.integers(0, 300)] * 4)),
            st.floats(0, 1),
            st.integers(0, 50),
        ),
        max_size=60,
    )
)
def test_whatever_a_receiver_says_the_size_is_one_that_there_is(reports: list[tuple[bytes, float, int]]) -> None:
    control = RecordSize()
    now = 0.0
    for plaintext, pause, sent in reports:
        now += pause
        size = control.size(now)
        assert 1 <= size <= MAX_DATAGRAMS
        control.sent(sent, sent * size)
        control.hear(plaintext, now)


def test_losses_long_ago_are_forgotten_without_a_trace() -> None:
    path = Path([5], rate=300)
    path.run(8000)
    assert path.sizes[-1] == 64


@given(
    rows=st.lists(st.tuples(st.integers(-3, 300), st.integers(1, 64), st.sampled_from([0.0, 0.001, 0.03])), max_size=20)
)
def test_a_row_is_as_good_as_its_records_one_by_one(rows: list[tuple[int, int, float]]) -> None:
    at_once, singly = LossMeter(100), LossMeter(100)
    now = 0.0
    for ahead, count, pause in rows:
        now += pause
        first = singly._top + ahead
        if ahead < 1:  # a late one, which is never of a row
            at_once.arrived(first, 1, now)
            singly.arrived(first, 1, now)
        else:
            at_once.arrived_row(first, count, now, count)
            for counter in range(first, first + count):
                singly.arrived(counter, 1, now)
        assert all(getattr(at_once, name) == getattr(singly, name) for name in LossMeter.__slots__)
        if singly.due_at is not None and now >= singly.due_at:
            assert at_once.report(now) == singly.report(now)
