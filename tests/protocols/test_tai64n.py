"""TAI64N stamps, with values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.tai64n import LAST_WALL_NS, TAI64N_BYTES, WHITENED_NS, tai64n

NS_PER_S = 1_000_000_000
TIMES = st.integers(0, LAST_WALL_NS)


@pytest.mark.parametrize(
    ("wall_ns", "stamp"),
    [
        (0, "400000000000000a 00000000"),
        (WHITENED_NS - 1, "400000000000000a 00000000"),
        (WHITENED_NS, "400000000000000a 01000000"),
        (NS_PER_S - 1, "400000000000000a 3b000000"),
        (NS_PER_S, "400000000000000b 00000000"),
        # date -u -d @1700000000 is 2023-11-14T22:13:20; 1700000000 is 0x6553f100.
        (1_700_000_000 * NS_PER_S + 123_456_789, "400000006553f10a 07000000"),
        # 2106-02-07, the first second beyond 32 bits.
        (4_294_967_296 * NS_PER_S, "400000010000000a 00000000"),
        # 2262-04-11: 2^63 - 1 ns are 9223372036.854775807 s, and 9223372036 is 0x225c17d04.
        (2**63 - 1, "4000000225c17d0e 32000000"),
    ],
)
def test_golden_stamps(wall_ns: int, stamp: str) -> None:
    assert tai64n(wall_ns) == bytes.fromhex(stamp)


@given(TIMES)
def test_a_stamp_is_12_bytes_whose_low_24_bits_are_clear(wall_ns: int) -> None:
    stamp = tai64n(wall_ns)
    assert len(stamp) == TAI64N_BYTES
    assert stamp[9:] == bytes(3)


@given(TIMES, TIMES)
def test_stamps_order_as_bytes_as_their_times_do(a: int, b: int) -> None:
    earlier, later = sorted((a, b))
    assert tai64n(earlier) <= tai64n(later)


@given(st.integers(0, LAST_WALL_NS - WHITENED_NS))
def test_a_stamp_is_newer_after_one_whitening_interval(wall_ns: int) -> None:
    assert tai64n(wall_ns) < tai64n(wall_ns + WHITENED_NS)


@pytest.mark.parametrize("wall_ns", [-1, 2**63, 2**70])
def test_a_clock_outside_1970_to_2262_is_misuse(wall_ns: int) -> None:
    with pytest.raises(LocalError, match="wall clock"):
        tai64n(wall_ns)
