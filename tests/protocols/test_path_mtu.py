"""Path MTU discovery: each rule by hand, then whole transfers over simulated paths that lose, delay and change."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, inf, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import sealed_record

from holloway.protocols.errors import LocalError
from holloway.protocols.path_mtu import (
    BASE_DATAGRAM_BYTES,
    CONFIRM_S,
    GAP_BYTES,
    MAX_CONFIRMATIONS,
    MAX_DATAGRAM_BYTES,
    MAX_IN_FLIGHT,
    MAX_PROBES,
    MAX_TIMEOUT_S,
    MIN_DATAGRAM_BYTES,
    MIN_TIMEOUT_S,
    PROBE_LIFETIME_S,
    RAISE_S,
    RETRY_S,
    SUSPECT_S,
    PathMtu,
    Probe,
    ProbeAck,
)
from holloway.protocols.record_wire import Record, RecordKind
from holloway.protocols.suites import AES_GCM

BASE = BASE_DATAGRAM_BYTES
MOST = 1472
NOTICED_S = 0.4


def probes(mtu: PathMtu, now: float) -> list[Probe]:
    taken = []
    while (probe := mtu.next_probe(now)) is not None:
        taken.append(probe)
    return taken


def sizes(mtu: PathMtu, now: float) -> list[int]:
    return [probe.size for probe in probes(mtu, now)]


def answer(mtu: PathMtu, now: float, limit: int = MOST) -> list[int]:
    """Take the probes of now, acknowledge at once those that pass, and say which sizes they had."""
    taken = probes(mtu, now)
    for probe in taken:
        if probe.size <= limit:
            assert mtu.acknowledged(*probe, now)
    return [probe.size for probe in taken]


def settled(limit: int = MOST, most: int = MOST) -> tuple[PathMtu, float]:
    """After its first search on a path without delay, and the time of that."""
    mtu, now = PathMtu(BASE, most), 0.0
    mtu.connected(now)
    while not mtu.is_settled:
        if not answer(mtu, now, limit):
            at = mtu.next_timeout()
            assert at is not None
            assert at > now
            now = at
            mtu.handle_timeout(now)
    return mtu, now


# What is on the wire


@given(number=st.integers(0, 2**32 - 1), size=st.integers(MIN_DATAGRAM_BYTES, 0xFFFF))
def test_probe_and_acknowledgement_parse_to_themselves(number: int, size: int) -> None:
    probe, ack = Probe(number, size), ProbeAck(number, size)
    assert Probe.parse(probe.encode()) == probe
    assert ProbeAck.parse(ack.encode()) == ack
    assert probe.encode()[:6] == ack.encode() == number.to_bytes(4, "little") + size.to_bytes(2, "little")


def test_a_sealed_probe_is_a_datagram_of_its_size() -> None:
    datagrams = sealed_record(AES_GCM.aead(bytes(32)), 1, 1, Record(RecordKind.PROBE, Probe(7, MOST).encode(), 1))
    assert [len(datagram) for datagram in datagrams] == [MOST]


@given(st.binary(max_size=20))
def test_any_other_bytes_are_neither(plaintext: bytes) -> None:
    ack, probe = ProbeAck.parse(plaintext), Probe.parse(plaintext)
    assert (ack is None) == (len(plaintext) != 6)
    assert probe is None or probe.encode() == plaintext


@pytest.mark.parametrize(
    "plaintext",
    [
        Probe(1, MOST).encode() + b"\0",
        Probe(1, MOST).encode()[:-1],
        Probe(1, MOST).encode()[:-1] + b"\1",
        Probe(1, MIN_DATAGRAM_BYTES).encode()[:-1],
        b"",
    ],
)
def test_a_probe_of_another_length_or_with_something_in_it_is_none(plaintext: bytes) -> None:
    assert Probe.parse(plaintext) is None


# Limits of the range


@pytest.mark.parametrize(("base", "most"), [(MIN_DATAGRAM_BYTES - 1, MOST), (BASE, 0), (BASE, MAX_DATAGRAM_BYTES + 1)])
def test_a_range_that_no_datagram_has_is_misuse(base: int, most: int) -> None:
    with pytest.raises(LocalError):
        PathMtu(base, most)


@pytest.mark.parametrize("most", [1, 1000, BASE])
def test_what_is_wanted_is_no_more_than_base_and_nothing_is_ever_probed(most: int) -> None:
    mtu = PathMtu(BASE, most)
    mtu.connected(0.0)
    mtu.path_changed(1.0)
    assert not mtu.sent(BASE, 3.0)
    assert not mtu.sent(2000, 2 * RAISE_S)
    mtu.handle_timeout(3 * RAISE_S)
    assert (mtu.size, probes(mtu, 4 * RAISE_S), mtu.next_timeout()) == (most, [], None)
    assert repr(mtu) == f"<PathMtu {most} of {most}>"


# The search


def test_before_a_handshake_nothing_is_probed() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.path_changed(0.0)
    assert not mtu.sent(BASE, 1.0)
    assert (mtu.size, probes(mtu, 2.0), mtu.next_timeout()) == (BASE, [], None)


def test_the_first_probe_is_of_what_is_wanted_and_one_round_trip_later_it_is_in_use() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(5.0)
    assert mtu.next_timeout() == 5.0
    assert probes(mtu, 5.0) == [Probe(0, MOST)]
    assert mtu.size == BASE
    assert mtu.acknowledged(0, MOST, 5.02)
    assert (mtu.size, mtu.is_settled, mtu.next_timeout()) == (MOST, True, None)
    assert mtu.round_trip_s == pytest.approx(0.02)


def test_a_size_is_too_long_after_three_losses_while_base_is_answered() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    assert answer(mtu, 0.0, BASE) == [MOST]
    assert mtu.next_timeout() == MIN_TIMEOUT_S
    mtu.handle_timeout(MIN_TIMEOUT_S - 0.01)
    assert answer(mtu, MIN_TIMEOUT_S - 0.01) == []
    for attempt in range(1, MAX_PROBES):
        mtu.handle_timeout(attempt * MIN_TIMEOUT_S)
        assert answer(mtu, attempt * MIN_TIMEOUT_S, BASE) == [MOST, BASE]
    mtu.handle_timeout(MAX_PROBES * MIN_TIMEOUT_S)
    (lower,) = answer(mtu, MAX_PROBES * MIN_TIMEOUT_S, BASE)
    assert BASE < lower < MOST


def test_an_acknowledgement_after_two_losses_is_in_time() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    for attempt in range(MAX_PROBES - 1):
        mtu.handle_timeout(attempt * MIN_TIMEOUT_S)
        probes(mtu, attempt * MIN_TIMEOUT_S)
    mtu.handle_timeout(2 * MIN_TIMEOUT_S)
    first, _ = probes(mtu, 2 * MIN_TIMEOUT_S)
    assert mtu.acknowledged(*first, 2 * MIN_TIMEOUT_S)
    assert (mtu.size, mtu.is_settled) == (MOST, True)


@given(limit=st.integers(BASE, MOST + 100), most=st.integers(BASE + 1, 9000))
def test_a_search_ends_close_below_the_limit_with_few_probes(limit: int, most: int) -> None:
    mtu, now = settled(limit, most)
    assert mtu.size <= limit
    assert mtu.size == most or mtu.size > min(limit, most) - GAP_BYTES
    candidates = 2 + ceil(log2(most - BASE) / log2(4 / 3))  # a common size may be a quarter off the middle
    assert now <= candidates * MAX_PROBES * MIN_TIMEOUT_S + 1e-6
    assert mtu.next_timeout() is None
    assert not probes(mtu, now + RAISE_S)


@pytest.mark.parametrize("limit", [1464, 1452, 1444, 1432, 1392, 1372])
def test_common_paths_are_used_whole(limit: int) -> None:
    mtu, _ = settled(limit)
    assert mtu.size == limit


def test_where_nobody_answers_nothing_is_learned_and_the_search_waits_for_traffic() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    now = 0.0
    while (at := mtu.next_timeout()) is not None:
        now = at
        mtu.handle_timeout(now)
        assert set(sizes(mtu, now)) <= {MOST, BASE}
    assert now == pytest.approx(MAX_PROBES * MIN_TIMEOUT_S)
    assert not mtu.is_settled
    assert not mtu.sent(BASE, now + RETRY_S - 0.01)
    assert mtu.sent(BASE, now + RETRY_S)
    assert answer(mtu, now + RETRY_S) == [MOST]
    assert mtu.size == MOST


def test_a_new_handshake_wakes_a_search_that_nobody_answered_and_leaves_a_settled_one_alone() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    for attempt in range(MAX_PROBES + 1):
        mtu.handle_timeout(attempt * MIN_TIMEOUT_S)
        probes(mtu, attempt * MIN_TIMEOUT_S)
    mtu.connected(0.5)
    assert answer(mtu, 0.5) == [MOST]
    mtu.connected(120.0)
    assert (mtu.size, probes(mtu, 120.0), mtu.next_timeout()) == (MOST, [], None)


def test_a_late_acknowledgement_heals_what_its_lateness_broke() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    first = probes(mtu, 0.0)[0]
    now = 0.0
    for _ in range(MAX_PROBES):
        now += MIN_TIMEOUT_S
        mtu.handle_timeout(now)
        answer(mtu, now, BASE)
    assert mtu.acknowledged(*first, now + 0.05)
    assert (mtu.size, mtu.is_settled, mtu.next_timeout()) == (MOST, True, None)


def test_late_acknowledgements_of_several_sizes_leave_the_longest_in_use() -> None:
    mtu, now, tried = PathMtu(BASE, 9000), 0.0, dict[int, Probe]()
    mtu.connected(now)
    while len(tried) < 4:
        for probe in probes(mtu, now):
            if probe.size == BASE:
                assert mtu.acknowledged(*probe, now)
            else:
                tried.setdefault(probe.size, probe)
        now += MIN_TIMEOUT_S
        mtu.handle_timeout(now)
    _, second, third, _ = tried.values()
    for late in (third, second):
        assert mtu.acknowledged(*late, now)
        assert mtu.size == late.size
        (longer,) = sizes(mtu, now)
        assert longer > late.size
    assert mtu.acknowledged(*tried[9000], now)
    assert (mtu.size, mtu.is_settled) == (9000, True)


def test_a_confirmation_during_a_search_does_not_disturb_it() -> None:
    mtu, now = settled(1300)
    assert mtu.sent(mtu.size, now + RAISE_S)
    now += RAISE_S
    raised = probes(mtu, now)
    assert sorted(probe.size for probe in raised) == [mtu.size, MOST]
    # A confirmation below the candidate that was sent along proves the size in use, not the candidate.
    (confirmation,) = [probe for probe in raised if probe.size == mtu.size]
    before = mtu.size
    assert mtu.acknowledged(*confirmation, now)
    assert (mtu.size, mtu.is_settled) == (before, False)


def test_timeouts_follow_the_longest_round_trip_of_late_within_bounds() -> None:
    mtu, now = settled()
    assert mtu.timeout_s == MIN_TIMEOUT_S
    for round_trip, timeout in ((0.1, 0.2), (0.01, 0.2 * 0.875), (2.0, MAX_TIMEOUT_S)):
        now += 10.0
        assert mtu.sent(MOST, now)
        (probe,) = probes(mtu, now)
        assert mtu.acknowledged(*probe, now + round_trip)
        assert mtu.timeout_s == pytest.approx(timeout)


def test_numbers_count_up_and_wrap_at_32_bits() -> None:
    mtu, now = settled()
    mtu._next_number = 2**32 - 1
    taken = []
    for step in (1, 2):
        mtu.sent(MOST, now + step)
        taken += probes(mtu, now + step)
        assert mtu.acknowledged(*taken[-1], now + step)
    assert [probe.number for probe in taken] == [2**32 - 1, 0]


# Raise, and other paths


def test_below_what_is_wanted_the_search_begins_anew_after_a_time_if_there_is_traffic() -> None:
    mtu, now = settled(1400)
    assert mtu.size <= 1400
    assert mtu.next_timeout() is None
    mtu.sent(BASE, now + RAISE_S - 1.0)
    assert probes(mtu, now + RAISE_S - 1.0) == []
    assert mtu.sent(BASE, now + RAISE_S)
    assert answer(mtu, now + RAISE_S) == [MOST]
    assert mtu.size == MOST
    assert not mtu.sent(BASE, now + 10 * RAISE_S)


def test_another_path_means_base_and_a_new_search() -> None:
    mtu, now = settled()
    mtu.sent(MOST, now + 1.0)
    (old,) = probes(mtu, now + 1.0)
    mtu.path_changed(now + 1.01)
    assert (mtu.size, mtu.round_trip_s) == (BASE, None)
    assert not mtu.acknowledged(*old, now + 1.02)
    assert mtu.size == BASE
    assert answer(mtu, now + 1.02) == [MOST]
    assert mtu.size == MOST


# The watch


def test_the_size_in_use_is_confirmed_while_datagrams_above_base_are_sent() -> None:
    mtu, now = settled()
    assert not mtu.sent(MOST, now + CONFIRM_S - 0.01)
    assert not mtu.sent(BASE, now + CONFIRM_S)
    assert mtu.sent(BASE + 1, now + CONFIRM_S)
    assert answer(mtu, now + CONFIRM_S) == [MOST]
    assert mtu.next_timeout() is None
    assert not mtu.sent(MOST, now + 2 * CONFIRM_S - 0.01)
    assert mtu.sent(MOST, now + 2 * CONFIRM_S)
    assert sizes(mtu, now + 2 * CONFIRM_S) == [MOST]


def is_black_hole(mtu: PathMtu) -> bool:
    """Whether the size in use was given up, and not only doubted."""
    return mtu.size == BASE and not mtu.is_doubted


def test_while_a_confirmation_is_overdue_data_goes_in_datagrams_that_pass_everywhere() -> None:
    mtu, now = settled()
    now += CONFIRM_S
    mtu.sent(MOST, now)
    (first,) = probes(mtu, now)
    now += MIN_TIMEOUT_S
    mtu.handle_timeout(now)
    assert (mtu.size, mtu.is_doubted, mtu.is_settled) == (BASE, True, False)
    (second,) = probes(mtu, now)
    assert second.size == MOST  # it is the size in use that is in doubt
    assert mtu.acknowledged(*second, now + 0.02)
    assert (mtu.size, mtu.is_doubted, mtu.is_settled) == (MOST, False, True)
    assert first.size == MOST


def test_confirmations_lost_in_a_row_are_a_black_hole_without_further_traffic() -> None:
    mtu, now = settled()
    now += CONFIRM_S
    mtu.sent(MOST, now)
    assert sizes(mtu, now) == [MOST]
    sent_at = [now]
    while not is_black_hole(mtu):
        at = mtu.next_timeout()
        assert at is not None
        now = at
        mtu.handle_timeout(now)
        if not is_black_hole(mtu):
            sent_at += [now for _ in sizes(mtu, now)]
    assert len(sent_at) == MAX_CONFIRMATIONS
    gaps = [after - before for before, after in pairwise(sent_at)]
    assert gaps == pytest.approx([MIN_TIMEOUT_S] + [SUSPECT_S] * (MAX_CONFIRMATIONS - 2))
    assert now == pytest.approx(sent_at[-1] + MIN_TIMEOUT_S)
    assert mtu.size == BASE


def fallen() -> tuple[PathMtu, float, list[Probe]]:
    """After a black hole: the time, and the confirmations that were lost."""
    mtu, now = settled()
    now += CONFIRM_S
    mtu.sent(MOST, now)
    lost = probes(mtu, now)
    while True:
        at = mtu.next_timeout()
        assert at is not None
        now = at
        mtu.handle_timeout(now)
        if is_black_hole(mtu):
            return mtu, now, lost
        lost += probes(mtu, now)


def test_after_a_false_alarm_the_old_size_is_back_after_one_round_trip() -> None:
    mtu, now, _ = fallen()
    assert mtu.next_timeout() == now
    (probe,) = probes(mtu, now)
    assert probe.size == MOST
    assert mtu.acknowledged(*probe, now + 0.03)
    assert (mtu.size, mtu.is_settled) == (MOST, True)


def test_confirmations_acknowledged_after_the_verdict_reverse_it() -> None:
    mtu, now, lost = fallen()
    assert mtu.acknowledged(*lost[0], now)
    assert (mtu.size, mtu.is_settled, probes(mtu, now)) == (MOST, True, [])


def test_a_confirmation_sent_before_the_last_good_one_does_not_reverse_it() -> None:
    mtu, now = settled()
    mtu.sent(MOST, now + 1.0)
    (overtaken,) = probes(mtu, now + 1.0)
    mtu.sent(MOST, now + 1.15)
    (good,) = probes(mtu, now + 1.15)
    assert mtu.acknowledged(*good, now + 1.15)
    mtu.sent(MOST, now + 1.3)
    probes(mtu, now + 1.3)
    while not is_black_hole(mtu):
        at = mtu.next_timeout()
        assert at is not None
        now = at
        mtu.handle_timeout(now)
        probes(mtu, now)
    assert not mtu.acknowledged(*overtaken, now)
    assert mtu.size == BASE


def test_a_real_black_hole_ends_in_a_smaller_size_found_below_the_lost_one() -> None:
    mtu, now, _ = fallen()
    while not mtu.is_settled:
        if not answer(mtu, now, 1380):
            at = mtu.next_timeout()
            assert at is not None
            now = at
            mtu.handle_timeout(now)
    assert 1380 - GAP_BYTES < mtu.size <= 1380


def test_an_acknowledgement_between_losses_begins_the_count_anew() -> None:
    mtu, now = settled()
    for _ in range(3 * MAX_CONFIRMATIONS):
        now += CONFIRM_S
        mtu.handle_timeout(now)
        mtu.sent(MOST, now)
        taken = probes(mtu, now)
        if taken and taken[-1].number % MAX_CONFIRMATIONS == 0:
            assert mtu.acknowledged(*taken[-1], now)
        assert not is_black_hole(mtu)


def test_an_acknowledgement_out_of_order_outlives_those_sent_before_it_only() -> None:
    mtu, now = settled()
    mtu.round_trip_s = 0.4
    taken = []
    for _ in range(3):
        now += CONFIRM_S
        mtu.sent(MOST, now)
        taken += probes(mtu, now)
    assert mtu.acknowledged(*taken[1], now)
    assert mtu.next_timeout() == pytest.approx(now + 0.8)
    assert mtu.acknowledged(*taken[0], now)
    assert mtu.next_timeout() == pytest.approx(now + 0.8)
    assert mtu.acknowledged(*taken[2], now)
    assert mtu.next_timeout() is None


# Hostile acknowledgements


def test_an_acknowledgement_of_what_was_never_probed_is_ignored() -> None:
    mtu = PathMtu(BASE, MOST)
    assert not mtu.acknowledged(0, MOST, 0.0)
    mtu.connected(0.0)
    (probe,) = probes(mtu, 0.0)
    for number, size in ((1, MOST), (0, MOST - 1), (0, 9000), (2**32 - 1, MOST)):
        assert not mtu.acknowledged(number, size, 0.0)
        assert mtu.size == BASE
    assert mtu.acknowledged(*probe, 0.1)
    assert not mtu.acknowledged(*probe, 0.1)


def test_an_acknowledgement_after_the_life_of_its_probe_is_ignored() -> None:
    mtu = PathMtu(BASE, MOST)
    mtu.connected(0.0)
    (probe,) = probes(mtu, 0.0)
    assert not mtu.acknowledged(*probe, PROBE_LIFETIME_S + 0.01)
    assert mtu.size == BASE


@settings(max_examples=200)
@given(data=st.data())
def test_whatever_happens_the_size_is_one_that_was_acknowledged_and_the_state_is_bounded(data: st.DataObject) -> None:
    mtu, now = PathMtu(BASE, MOST), 0.0
    sent: list[Probe] = []
    good = {BASE}
    sizes_of_all = st.integers(BASE - 1, MOST + 1)
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from([0.0, 0.01, SUSPECT_S, CONFIRM_S, 1.0, RAISE_S]))
        match data.draw(st.integers(0, 6)):
            case 0:
                mtu.connected(now)
            case 1:
                mtu.path_changed(now)
            case 2:
                mtu.sent(data.draw(sizes_of_all), now)
            case 3 | 4 if sent:
                probe = data.draw(st.sampled_from(sent))
                if mtu.acknowledged(*probe, now):
                    good.add(probe.size)
            case 5:
                assert not mtu.acknowledged(len(sent), data.draw(sizes_of_all), now)
            case _:
                mtu.handle_timeout(now)
        taken = probes(mtu, now)
        assert len(taken) <= 3
        sent += taken
        assert [probe.number for probe in sent] == list(range(len(sent)))
        assert mtu.size in good
        assert len(mtu._in_flight) <= MAX_IN_FLIGHT
        at = mtu.next_timeout()
        assert at is None or at <= now + MAX_TIMEOUT_S
    # Without traffic, all ends by itself, and soon.
    begun, more = now, 0
    while (at := mtu.next_timeout()) is not None:
        now = max(now, at)
        mtu.handle_timeout(now)
        more += len(probes(mtu, now))
    assert now - begun <= 10.0
    assert more <= 50


# Whole transfers


@dataclass
class Transfer:
    """A bulk transfer over a path: a batch every `tick_s`, a delay either way, losses, and a limit that changes."""

    limit: Callable[[float], int]
    delay_s: float = 0.01
    loss: float = 0.0
    most: int = MOST
    tick_s: float = 0.01
    seed: int = 0
    now: float = 0.0
    probed: list[tuple[float, int]] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)
    longest_excess_s: float = 0.0
    seconds_below: float = 0.0
    black_holes: int = 0

    def __post_init__(self) -> None:
        self.mtu = PathMtu(BASE, self.most)
        self.random = random.Random(self.seed)
        self.acks: list[tuple[float, int, int]] = []
        self.next_batch = 0.0
        self.excess_since = inf
        self.mtu.connected(0.0)
        self.flush()

    def flush(self) -> None:
        while (probe := self.mtu.next_probe(self.now)) is not None:
            self.probed.append((self.now, probe.size))
            passes = probe.size <= self.limit(self.now + self.delay_s)
            if passes and min(self.random.random(), self.random.random()) >= self.loss:
                heapq.heappush(self.acks, (self.now + 2 * self.delay_s, probe.number, probe.size))

    def run(self, until: float) -> None:
        mtu = self.mtu
        while True:
            due = mtu.next_timeout()
            at = min(self.next_batch, self.acks[0][0] if self.acks else inf, inf if due is None else due)
            if at > until:
                return
            if mtu.size < min(self.most, self.limit(self.now)):
                self.seconds_below += at - self.now
            self.now = at
            size, was_doubted = mtu.size, mtu.is_doubted
            if self.acks and self.acks[0][0] <= at:
                _, number, acked = heapq.heappop(self.acks)
                assert mtu.acknowledged(number, acked, at)
            elif due is not None and due <= at:
                mtu.handle_timeout(at)
            else:
                self.next_batch = at + self.tick_s
                mtu.sent(size, at)
            self.flush()
            if mtu.size != size:
                self.changes.append((at, mtu.size))
            self.black_holes += was_doubted and is_black_hole(mtu)
            self.watch_excess()

    def watch_excess(self) -> None:
        if self.mtu.size <= self.limit(self.now):
            self.excess_since = inf
        else:
            self.excess_since = min(self.excess_since, self.now)
            self.longest_excess_s = max(self.longest_excess_s, self.now - self.excess_since)


LIMITS = st.integers(BASE, MOST + 50)


@settings(max_examples=40)
@given(
    limits=st.lists(LIMITS, min_size=1, max_size=4),
    pause=st.floats(6.0, 10.0),
    delay=st.floats(0.0, 0.0375),
    tick=st.floats(0.005, 0.03),
)
def test_a_transfer_finds_each_limit_and_never_exceeds_one_for_long(
    limits: list[int], pause: float, delay: float, tick: float
) -> None:
    transfer = Transfer(lambda now: limits[min(int(now / pause), len(limits) - 1)], delay, tick_s=tick)
    narrowest = MOST
    for place, limit in enumerate(limits):
        transfer.run((place + 1) * pause - 1e-6)
        # What the path has become too wide for is found again by the raise alone, which is far off.
        narrowest = min(narrowest, limit)
        assert narrowest - GAP_BYTES < transfer.mtu.size <= limit
        assert transfer.mtu.is_settled
    assert transfer.longest_excess_s <= NOTICED_S
    searches = len(limits) * 12 * (2 * MAX_PROBES - 1)
    watches = len(limits) * (pause / CONFIRM_S + MAX_CONFIRMATIONS + 1)
    assert len(transfer.probed) <= searches + watches


@settings(max_examples=40)
@given(
    before=st.integers(BASE + 1, MOST),
    delay=st.floats(0.0, 0.0375),
    loss=st.floats(0.0, 0.2),
    drop_at=st.floats(3.0, 4.0),
    seed=st.integers(0, 1000),
)
def test_a_path_that_drops_to_1280_is_noticed_in_time_whatever_it_loses(
    before: int, delay: float, loss: float, drop_at: float, seed: int
) -> None:
    transfer = Transfer(lambda now: before if now < drop_at else BASE, delay, loss, tick_s=0.01, seed=seed)
    transfer.run(10.0)
    assert transfer.mtu.size == BASE
    assert transfer.longest_excess_s <= NOTICED_S


def test_a_drop_from_1500_to_1280_on_a_fast_and_on_a_slow_path() -> None:
    for delay, noticed_s in ((0.0005, 0.31), (0.05, 0.46), (0.25, 1.3)):
        transfer = Transfer(lambda now: MOST if now < 5.0 else BASE, delay)
        transfer.run(15.0)
        assert transfer.changes[0] == (2 * delay, MOST)
        assert len(transfer.changes) == 2
        assert transfer.mtu.size == BASE
        assert transfer.longest_excess_s <= noticed_s


def test_at_five_percent_loss_false_alarms_are_rare_and_doubts_cost_little() -> None:
    alarms, below, hours = 0, 0.0, 4
    for seed in range(hours):
        transfer = Transfer(lambda now: MOST, 0.02, 0.05, tick_s=CONFIRM_S / 2, seed=seed)
        transfer.run(3600.0)
        alarms += transfer.black_holes
        below += transfer.seconds_below
    # Expected: 7.8, once in 31 minutes; by chance more than 16 in one of 300 worlds, but these four are always the same.
    assert 1 <= alarms <= 16
    assert below < 0.06 * hours * 3600  # with datagrams that are a sixth shorter


def test_an_outage_costs_a_round_trip_after_it_and_no_more() -> None:
    is_out = (10.0, 40.0)
    transfer = Transfer(lambda now: 0 if is_out[0] <= now < is_out[1] else MOST, 0.01)
    transfer.run(39.9)
    assert transfer.mtu.size == BASE
    during = [size for at, size in transfer.probed if is_out[0] < at]
    assert set(during) == {BASE, MOST}
    assert len(during) < 6 * (is_out[1] - is_out[0])
    transfer.run(40.0 + RETRY_S + MAX_PROBES * MIN_TIMEOUT_S + 0.02)
    assert transfer.mtu.size == MOST


def test_a_wider_path_is_found_by_the_raise() -> None:
    transfer = Transfer(lambda now: 1400 if now < 100.0 else MOST, tick_s=0.1)
    transfer.run(RAISE_S - 1.0)
    assert transfer.mtu.size <= 1400
    transfer.run(RAISE_S + 10.0)
    assert transfer.mtu.size == MOST
    assert transfer.seconds_below < RAISE_S + 3.0


def test_an_idle_session_is_silent() -> None:
    transfer = Transfer(lambda now: 1400)
    transfer.run(10.0)
    probed = len(transfer.probed)
    transfer.next_batch = inf
    transfer.run(10.0 + 5 * RAISE_S)
    assert transfer.mtu.next_timeout() is None
    assert len(transfer.probed) == probed
