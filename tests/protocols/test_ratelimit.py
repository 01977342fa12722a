"""The token bucket of each source, with times that floats hold exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.ratelimit import BURST_TOKENS, REFILL_S, TOKENS_PER_S, RateLimiter

TICK_S = 1 / 64  # 20 tokens a second are 5/16 of a token a tick: exact in binary


class Unbounded:
    """The same buckets, never forgotten."""

    def __init__(self) -> None:
        self.buckets: dict[str, tuple[float, float]] = {}

    def allow(self, source: str, now: float) -> bool:
        tokens, last = self.buckets.get(source, (BURST_TOKENS, now))
        tokens = min(BURST_TOKENS, tokens + (now - last) * TOKENS_PER_S)
        allowed = tokens >= 1
        self.buckets[source] = (tokens - 1 if allowed else tokens, now)
        return allowed


def test_the_numbers_are_those_of_wireguard_go() -> None:
    assert (TOKENS_PER_S, BURST_TOKENS) == (20.0, 5.0)


def test_five_at_once_and_then_one_every_fiftieth_millisecond() -> None:
    limiter = RateLimiter()
    assert [limiter.allow("192.0.2.1", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not limiter.allow("192.0.2.1", 3 * TICK_S)  # 15/16 of a token
    assert limiter.allow("192.0.2.1", 4 * TICK_S)
    assert not limiter.allow("192.0.2.1", 4 * TICK_S)


def test_twenty_a_second_get_through_however_many_are_sent() -> None:
    limiter = RateLimiter()
    granted = sum(limiter.allow("192.0.2.1", tick * TICK_S / 16) for tick in range(64 * 16 * 10))
    assert granted == 5 + 20 * 10 - 1


def test_a_full_bucket_holds_no_more_than_the_burst() -> None:
    limiter = RateLimiter()
    limiter.allow("192.0.2.1", 0.0)
    assert [limiter.allow("192.0.2.1", 1000.0) for _ in range(6)] == [True] * 5 + [False]


def test_sources_do_not_share_a_bucket() -> None:
    limiter = RateLimiter()
    for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"):
        assert [limiter.allow(host, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert len(limiter) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth0"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_of_one_ipv6_site_and_mapped_ipv4_share_a_bucket(one: str, other: str) -> None:
    limiter = RateLimiter()
    assert all(limiter.allow(one, 0.0) for _ in range(5))
    assert not limiter.allow(other, 0.0)
    assert len(limiter) == 1


def test_mapped_ipv4_addresses_do_not_share_one_bucket() -> None:
    limiter = RateLimiter()
    assert all(limiter.allow("::ffff:192.0.2.1", 0.0) for _ in range(5))
    assert limiter.allow("::ffff:192.0.2.2", 0.0)


@given(st.text(alphabet="0123456789abcdefg:.%/ é", max_size=30))
def test_any_text_is_a_source(host: str) -> None:
    limiter = RateLimiter()
    assert [limiter.allow(host, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_while_every_place_is_live_a_new_source_is_refused_and_known_ones_are_served() -> None:
    limiter = RateLimiter(limit=3)
    for host in ("a", "b", "c"):
        assert limiter.allow(host, 0.0)
    assert not limiter.allow("d", REFILL_S / 2)
    assert limiter.allow("a", REFILL_S / 2)
    assert len(limiter) == 3


def test_the_source_idle_longest_makes_room_when_its_bucket_is_full_again() -> None:
    limiter = RateLimiter(limit=2)
    assert all(limiter.allow("a", 0.0) for _ in range(5))
    assert limiter.allow("b", REFILL_S / 2)
    assert not limiter.allow("c", REFILL_S - TICK_S)
    assert limiter.allow("c", REFILL_S)
    assert not limiter.allow("d", REFILL_S)
    assert len(limiter) == 2


def test_a_refused_source_keeps_its_place_in_the_order() -> None:
    limiter = RateLimiter(limit=2)
    assert all(limiter.allow("a", 0.0) for _ in range(5))
    assert limiter.allow("b", 2 * TICK_S)
    assert not limiter.allow("a", 3 * TICK_S)
    assert limiter.allow("c", REFILL_S), "a is the oldest grant and idle"


def test_a_grant_makes_a_source_the_newest() -> None:
    limiter = RateLimiter(limit=2)
    assert limiter.allow("a", 0.0)
    assert limiter.allow("b", TICK_S)
    assert limiter.allow("a", 2 * TICK_S)
    assert limiter.allow("c", TICK_S + REFILL_S), "b is idle, behind it a is not"
    assert not limiter.allow("d", TICK_S + REFILL_S)


def test_a_flood_from_invented_addresses_is_bounded_and_forgotten() -> None:
    limiter = RateLimiter(limit=100)
    granted = [limiter.allow(f"10.0.{n >> 8}.{n & 255}", 0.0) for n in range(1000)]
    assert sum(granted) == len(limiter) == 100
    for _ in range(60):
        limiter.allow("192.0.2.1", 10.0)
    assert len(limiter) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 24)), max_size=80))
def test_forgetting_loses_nothing(calls: list[tuple[str, int]]) -> None:
    limiter, model, now = RateLimiter(limit=4), Unbounded(), 1000.0
    for source, ticks in calls:
        now += ticks * TICK_S
        assert limiter.allow(source, now) is model.allow(source, now)


def test_a_limiter_of_one_place_serves_one_source() -> None:
    limiter = RateLimiter(limit=1)
    assert limiter.allow("a", 0.0)
    assert not limiter.allow("b", 0.0)
    assert limiter.allow("b", REFILL_S)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limiter_that_remembers_nobody_is_misuse(limit: int) -> None:
    with pytest.raises(LocalError, match="no rate limiter"):
        RateLimiter(limit)
