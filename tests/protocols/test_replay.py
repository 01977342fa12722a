"""The replay window against the set of all counters ever seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.replay import WINDOW_SIZE, ReplayWindow

LAST_COUNTER = 2**64 - 1


class EverySeen:
    """The rule itself, with memory without end."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    @property
    def top(self) -> int:
        return max(self.seen, default=-1)

    def is_new(self, counter: int) -> bool:
        return counter > self.top or (self.top - counter < self.size and counter not in self.seen)


# A step is how far a counter lies from the top: in order, at the edges of the window, lagging, or far ahead.
def steps(size: int) -> st.SearchStrategy[int]:
    edges = [1, 1, 1, 2, 3, 0, -1, 1 - size, -size, -size - 1, size - 1, size, size + 1, 2 * size, size // 2]
    return st.one_of(
        st.sampled_from([*edges, 2**32, 2**60]),
        st.integers(-size - 2, size + 2),
        st.integers(1, 2**61),
    )


@pytest.mark.parametrize("size", [64, 256])
@given(data=st.data())
def test_window_agrees_with_the_set_of_all_counters(size: int, data: st.DataObject) -> None:
    window, model = ReplayWindow(size), EverySeen(size)
    for step in data.draw(st.lists(steps(size), max_size=60)):
        counter = min(max(model.top + step, 0), LAST_COUNTER)
        expected = model.is_new(counter)
        assert window.is_new(counter) is expected
        assert window.is_new(counter) is expected, "asking changed the answer"
        assert window.commit(counter) is expected
        if expected:
            model.seen.add(counter)
        assert window.top == model.top
    assert len(window._seen) == size, "memory is not bounded"
    around = range(max(model.top - size - 2, 0), model.top + 3)
    assert [window.is_new(c) for c in around] == [model.is_new(c) for c in around]


def test_default_window_is_at_least_8192_and_ends_exactly_there() -> None:
    window = ReplayWindow()
    assert WINDOW_SIZE >= 8192
    window.commit(100_000)
    assert window.is_new(100_000 - WINDOW_SIZE + 1)
    assert not window.is_new(100_000 - WINDOW_SIZE)


def test_every_counter_in_order_is_new_once_through_several_turns_of_the_ring() -> None:
    window = ReplayWindow(64)
    for counter in range(1000):
        assert window.is_new(counter)
        assert window.commit(counter)
        assert not any(window.is_new(old) for old in range(counter + 1))
    assert window.top == 999


def test_counters_in_reverse_order_are_each_new_once_within_the_window() -> None:
    window = ReplayWindow(64)
    accepted = [c for c in range(200, -1, -1) if window.commit(c)]
    assert accepted == list(range(200, 136, -1))


@pytest.mark.parametrize("gap", [1, 30, 62, 63, 64, 65, 127, 128])
@pytest.mark.parametrize("start", [0, 1, 40, 63])
def test_counters_skipped_by_a_jump_are_new_wherever_it_starts_in_the_ring(start: int, gap: int) -> None:
    window = ReplayWindow(64)
    for counter in range(start + 64):
        window.commit(counter)
    top = start + 63 + gap
    window.commit(top)
    skipped = range(max(start + 64, top - 63), top)
    assert all(window.is_new(c) for c in skipped)
    assert not any(window.is_new(c) for c in range(start + 64) if c not in skipped)


def test_jump_to_the_last_counter_takes_no_loop_and_no_memory() -> None:
    window = ReplayWindow()
    for counter in (0, 2**60, LAST_COUNTER):
        assert window.is_new(counter)
        assert window.commit(counter)
        assert not window.is_new(counter)
    assert window.top == LAST_COUNTER
    assert window.is_new(LAST_COUNTER - 1)
    assert not window.is_new(2**60 + 1)


def test_nothing_is_seen_before_the_first_commit() -> None:
    window = ReplayWindow()
    assert window.top == -1
    assert window.is_new(0)
    assert window.is_new(LAST_COUNTER)
    assert window.top == -1


def test_second_commit_of_one_counter_says_so_and_changes_nothing() -> None:
    window = ReplayWindow()
    window.commit(9)
    assert window.is_new(7)
    assert window.is_new(7)
    assert window.commit(7) is True
    assert window.commit(7) is False
    assert window.commit(9) is False
    assert window.top == 9


def test_counter_zero_may_come_late() -> None:
    window = ReplayWindow()
    window.commit(5)
    assert window.is_new(0)
    assert window.commit(0)
    assert not window.is_new(0)


def test_negative_counter_is_never_new() -> None:
    window = ReplayWindow()
    assert not window.is_new(-1)
    assert not window.commit(-5)
    window.commit(3)
    assert not window.is_new(-1)
    assert window.top == 3


@pytest.mark.parametrize("size", [-64, 0, 32, 63, 100, 8191, 2**21])
def test_size_that_is_no_power_of_two_from_64_to_a_million_is_misuse(size: int) -> None:
    with pytest.raises(LocalError, match="power of two"):
        ReplayWindow(size)


@pytest.mark.parametrize("size", [64, 2**20])
def test_smallest_and_largest_window_end_where_they_say(size: int) -> None:
    window = ReplayWindow(size)
    window.commit(2**21)
    assert window.is_new(2**21 - size + 1)
    assert not window.is_new(2**21 - size)


def test_repr_is_short() -> None:
    window = ReplayWindow()
    window.commit(5)
    assert repr(window) == "ReplayWindow(size=8192, top=5)"


@pytest.mark.parametrize("size", [64, 256])
@given(rows=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 64)), max_size=20))
def test_a_row_is_as_good_as_its_counters_one_by_one(size: int, rows: list[tuple[int, int]]) -> None:
    at_once, singly = ReplayWindow(size), ReplayWindow(size)
    for ahead, count in rows:
        first = singly.top + ahead
        at_once.commit_row(first, count)
        assert all(singly.commit(counter) for counter in range(first, first + count))
        assert (at_once.top, at_once._seen) == (singly.top, singly._seen)
