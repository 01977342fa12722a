"""Times as people write them."""

from __future__ import annotations

import pytest

from holloway.protocols.durations import read_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0.25", 0.25), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800), (" 7s ", 7)]
)
def test_a_number_with_or_without_a_unit_is_a_time(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1", "1 d", "2w", "1e9", "nan", "\u0661h", "1d12h", "9" * 40])
def test_anything_else_is_none_and_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="2d"):
        read_duration(text)
