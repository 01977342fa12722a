"""Receiver indices: fresh, never a message type, recognised after a restart, bounded."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.indices import MAX_INDICES, IndexTable
from holloway.protocols.suites import FIRST_RECEIVER_INDEX, TOKEN_BYTES

SECRET = bytes(range(32))


def table(secret: bytes = SECRET, seed: int = 0) -> IndexTable[str]:
    return IndexTable(secret, random.Random(seed).randbytes)


def test_indices_are_distinct_owned_and_gone_after_release() -> None:
    indices = table()
    given_out = [indices.allocate(f"peer {number}") for number in range(500)]
    assert len(set(given_out)) == len(indices) == 500
    assert min(given_out) >= FIRST_RECEIVER_INDEX
    assert [indices.owner(index) for index in given_out] == [f"peer {number}" for number in range(500)]
    indices.release(given_out[7])
    indices.release(given_out[7])
    assert indices.owner(given_out[7]) is None
    assert len(indices) == 499


def test_table_is_full_at_its_bound_and_usable_again_after_a_release() -> None:
    indices = table()
    first = indices.allocate("x")
    for _ in range(MAX_INDICES - 1):
        indices.allocate("x")
    with pytest.raises(LocalError, match="no receiver index is free"):
        indices.allocate("x")
    assert len(indices) == MAX_INDICES
    indices.release(first)
    indices.allocate("x")


def test_randomness_that_never_varies_still_gives_distinct_indices() -> None:
    indices: IndexTable[str] = IndexTable(SECRET, bytes)
    halves = [indices.allocate("x") >> 16 for _ in range(10)]
    assert all(later == earlier + 1 for earlier, later in pairwise(halves))
    top: IndexTable[str] = IndexTable(SECRET, lambda n: b"\xff" * n)
    assert [top.allocate("x") >> 16 for _ in range(3)] == [0xFFFF, 0, 1]


def test_no_index_is_a_message_type() -> None:
    # The only half whose index may be small is 0: find a secret for which it is.
    for number in range(10_000):
        secret = number.to_bytes(32, "big")
        if IndexTable[str](secret, bytes)._complete(0) < FIRST_RECEIVER_INDEX:
            break
    else:
        pytest.fail("no such secret among ten thousand")
    assert IndexTable[str](secret, bytes).allocate("x") >> 16 == 1


def test_a_later_life_recognises_the_indices_of_an_earlier_one() -> None:
    earlier, later = table(seed=1), table(seed=2)
    for _ in range(100):
        index = earlier.allocate("x")
        assert later.was_issued(index)
        assert later.owner(index) is None
        assert later.token(index) == earlier.token(index)


def test_another_node_neither_recognises_nor_proves() -> None:
    ours, theirs = table(), table(secret=bytes(32))
    indices = [ours.allocate("x") for _ in range(200)]
    assert sum(theirs.was_issued(index) for index in indices) <= 1
    assert all(theirs.token(index) != ours.token(index) for index in indices)


def test_guessed_indices_are_hardly_ever_ours() -> None:
    indices, rng = table(), random.Random(3)
    assert sum(indices.was_issued(rng.getrandbits(32)) for _ in range(20_000)) <= 5  # 2^-16 each


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_tokens_differ_between_indices(one: int, other: int) -> None:
    indices = table()
    assert len(indices.token(one)) == TOKEN_BYTES
    assert (indices.token(one) == indices.token(other)) == (one == other)


def test_repr_shows_no_secret() -> None:
    assert repr(table()) == "<IndexTable 0 in use>"
