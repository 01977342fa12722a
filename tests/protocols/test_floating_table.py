"""Whom to send to: one holder for each floating address, never an earlier one; and claims and challenges as they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.floating_claims import (
    MAX_FLOATING_BYTES,
    FloatingChallenge,
    FloatingClaim,
    FloatingProblem,
    challenges_prefix,
    decode_challenge,
    decode_floating_claim,
    encode_floating,
    floating_prefix,
)
from holloway.protocols.floating_table import (
    MAX_FLOATING_ADDRESSES,
    FloatingHolder,
    FloatingRefusal,
    FloatingTable,
)

KEY, RUN = "5" * 64, "9" * 16
ONE, TWO = IPv4Address("10.99.2.1"), IPv4Address("10.99.2.2")
CLAIM = FloatingClaim("a", KEY, RUN, 5, 800)
CHALLENGE = FloatingChallenge("b", KEY, RUN, 7, 4711, True)


def holder(name: str, fence: int) -> FloatingHolder:
    return FloatingHolder(name, KEY, fence)


# The table.


def test_another_store_counts_from_the_beginning() -> None:
    table = FloatingTable()
    table.learn(ONE, holder("a", 500))
    table.begin_again()
    assert table.holders() == {}
    assert table.learn(ONE, holder("b", 5)) is None
    assert table.holder(ONE) == holder("b", 5)


def test_a_later_claim_is_believed_and_an_earlier_one_refused_and_counted() -> None:
    table = FloatingTable()
    assert table.holder(ONE) is None
    assert table.learn(ONE, holder("a", 5)) is None
    assert table.learn(ONE, holder("b", 9)) is None
    assert table.learn(ONE, holder("a", 5)) is FloatingRefusal.STALE_FENCE
    assert table.learn(ONE, holder("c", 9)) is FloatingRefusal.SAME_FENCE
    assert table.learn(ONE, holder("b", 9)) is None, "the same claim again"
    assert table.learn(TWO, holder("a", 5)) is None, "each address has a fence of its own"
    assert table.holders() == {ONE: holder("b", 9), TWO: holder("a", 5)}
    assert table.refused == {FloatingRefusal.STALE_FENCE: 1, FloatingRefusal.SAME_FENCE: 1}


def test_a_claim_that_is_gone_does_not_come_back() -> None:
    table = FloatingTable()
    table.forget(ONE, 3)
    assert table.learn(ONE, holder("a", 5)) is None
    table.forget(ONE, 4)
    assert table.holder(ONE) == holder("a", 5), "that was the end of an earlier one"
    table.forget(ONE, 8)
    assert table.holder(ONE) is None
    assert table.learn(ONE, holder("a", 5)) is FloatingRefusal.STALE_FENCE
    assert table.learn(ONE, holder("b", 8)) is FloatingRefusal.SAME_FENCE
    assert table.learn(ONE, holder("b", 9)) is None


def test_a_snapshot_replaces_what_is_older_than_it() -> None:
    table = FloatingTable()
    table.learn(ONE, holder("a", 5))
    table.learn(TWO, holder("a", 9))
    table.keep_only(frozenset(), 7)
    assert table.holders() == {TWO: holder("a", 9)}
    table.keep_only(frozenset({TWO}), 12)
    assert table.holders() == {TWO: holder("a", 9)}


def test_whoever_fills_the_registry_does_not_fill_the_table() -> None:
    table = FloatingTable()
    for number in range(MAX_FLOATING_ADDRESSES):
        assert table.learn(ONE + number, holder("a", 1)) is None
    assert table.learn(ONE - 1, holder("a", 1)) is FloatingRefusal.TOO_MANY
    assert table.learn(ONE, holder("b", 2)) is None
    assert len(table.holders()) == MAX_FLOATING_ADDRESSES


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60))
def test_in_whatever_order_news_comes_the_fence_never_goes_back(news: list[tuple[int, bool]]) -> None:
    """The history: a claim is made at every even revision by the node of that number, and gone at the next odd one."""
    table, newest = FloatingTable(), -1
    for revision, is_snapshot in news:
        if revision % 2 == 0:
            table.learn(ONE, holder(f"n{revision}", revision))
        elif is_snapshot:
            table.keep_only(frozenset(), revision)
        else:
            table.forget(ONE, revision)
        found = table.holder(ONE)
        if found is not None:
            assert found.name == f"n{found.fence}"
            assert found.fence >= newest
            newest = found.fence


# Claims and challenges.


def test_the_form_is_what_other_versions_rely_on() -> None:
    assert json.loads(encode_floating(CLAIM)) == {
        "v": 1,
        "name": "a",
        "key": KEY,
        "run": RUN,
        "priority": 5,
        "answer_ms": 800,
    }
    assert json.loads(encode_floating(CHALLENGE)) == {
        "v": 1,
        "name": "b",
        "key": KEY,
        "run": RUN,
        "priority": 7,
        "fence": 4711,
        "preempts": True,
        "in_touch": False,
    }
    assert decode_floating_claim(encode_floating(CLAIM)) == CLAIM
    assert decode_challenge(encode_floating(CHALLENGE)) == CHALLENGE
    assert floating_prefix("net") == b"/holloway/net/floating/"
    assert challenges_prefix("net") == b"/holloway/net/challenges/"


def fields(record: FloatingClaim | FloatingChallenge, **changes: Any) -> bytes:
    every = json.loads(encode_floating(record)) | changes
    return json.dumps({name: value for name, value in every.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b" " * (MAX_FLOATING_BYTES + 1), FloatingProblem.TOO_BIG),
        (b"[" * 1000, FloatingProblem.NOT_JSON),
        (b"[]", FloatingProblem.NOT_JSON),
        (fields(CLAIM, v=2), FloatingProblem.WRONG_VERSION),
        (fields(CLAIM, v=True), FloatingProblem.WRONG_VERSION),
        (fields(CLAIM, name="a/b"), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, name=1), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, key="5"), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, run=RUN + "9"), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, priority=-1), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, priority=1001), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, priority=True), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, answer_ms=99), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, answer_ms=60_001), FloatingProblem.BAD_FIELD),
        (fields(CLAIM, answer_ms=...), FloatingProblem.BAD_FIELD),
    ],
)
def test_a_hostile_claim_is_refused_for_a_reason(value: bytes, problem: FloatingProblem) -> None:
    assert decode_floating_claim(value) is problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"?", FloatingProblem.NOT_JSON),
        (fields(CHALLENGE, v=3), FloatingProblem.WRONG_VERSION),
        (fields(CHALLENGE, fence=0), FloatingProblem.BAD_FIELD),
        (fields(CHALLENGE, fence=2**63), FloatingProblem.BAD_FIELD),
        (fields(CHALLENGE, fence=1.0), FloatingProblem.BAD_FIELD),
        (fields(CHALLENGE, preempts=1), FloatingProblem.BAD_FIELD),
        (fields(CHALLENGE, preempts=...), FloatingProblem.BAD_FIELD),
        (fields(CHALLENGE, name=None), FloatingProblem.BAD_FIELD),
    ],
)
def test_a_hostile_challenge_is_refused_for_a_reason(value: bytes, problem: FloatingProblem) -> None:
    assert decode_challenge(value) is problem


@given(st.binary(max_size=100) | st.text(max_size=50).map(str.encode))
def test_any_bytes_are_refused_and_nothing_raises(value: bytes) -> None:
    assert isinstance(decode_floating_claim(value), FloatingProblem)
    assert isinstance(decode_challenge(value), FloatingProblem)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FloatingClaim("a", KEY, RUN, 5, 50),
        lambda: FloatingClaim("a", KEY, "run", 5, 800),
        lambda: FloatingChallenge("a", KEY, RUN, 5, 0, False),
    ],
)
def test_what_others_would_refuse_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(LocalError) as refused:
        make()
    assert refused.value.why
    assert refused.value.fix
