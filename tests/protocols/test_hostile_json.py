"""JSON of others, field by field: what comes out is what was promised, or ValueError, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.hostile_json import (
    MAX_INTEGER,
    base64_text,
    compact,
    hexadecimal,
    integer,
    listed,
    object_of,
    octets,
    read_object,
    text,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


def test_what_is_written_is_read() -> None:
    fields = {"a": "x", "b": 7, "c": base64_text(b"\0\1"), "d": "00ff", "e": ["y", "z"]}
    read = read_object(compact(fields), 100)
    assert (text(read, "a", 1), integer(read, "b", 7, 7), octets(read, "c", 2)) == ("x", 7, b"\0\1")
    assert hexadecimal(read, "d", 2) == b"\0\xff"
    assert listed(read, "e", 2, str) == ("y", "z")
    assert object_of(fields) is fields


@pytest.mark.parametrize("value", ["", "[]", "1", "{", "[" * 50_000, '{"a":' * 20_000, b"\xff", "9" * 5000, '{"a":1}x'])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_object(value, 200_000)


def test_what_is_too_long_is_refused_unread() -> None:
    assert read_object("{}", 2) == {}
    with pytest.raises(ValueError, match="too long"):
        read_object("{} ", 2)


@pytest.mark.parametrize("value", [None, 1, "xy", "\u00e9", "\ud800", ["x"], True])
def test_a_text_is_short_and_ascii(value: Any) -> None:
    with pytest.raises(ValueError, match="a: not a text"):
        text({"a": value}, "a", 1)


@pytest.mark.parametrize("value", [None, True, 1.0, "1", 0, 3, -1, [1]])
def test_a_whole_number_is_one_and_in_its_bounds(value: Any) -> None:
    with pytest.raises(ValueError, match="a: not a whole number"):
        integer({"a": value}, "a", 1, 2)


@pytest.mark.parametrize("value", ["AAA", "AAAA\n", " AAAA", "AA-_", "AB==", "AAAAAAAA", "====", None, 1])
def test_bytes_have_one_base64_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^a: "):
        octets({"a": value}, "a", 3)


def test_bytes_are_counted_before_and_after() -> None:
    assert octets({"a": "AAA="}, "a", 2) == b"\0\0"
    with pytest.raises(ValueError, match="too long"):
        octets({"a": "AAAA"}, "a", 2)


@pytest.mark.parametrize("value", ["0", "00", "0000 ", "00 00", "FFFF", "zzzz", "00000", None])
def test_hexadecimal_has_one_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        hexadecimal({"a": value}, "a", 2)


@pytest.mark.parametrize("value", [None, {}, "xy", [1, 2, 3]])
def test_a_list_is_short(value: Any) -> None:
    with pytest.raises(ValueError, match="a: not a list"):
        listed({"a": value}, "a", 2, str)


@given(json_values)
def test_any_value_is_what_was_promised_or_refused(value: Any) -> None:
    fields = {"a": value}
    for read, kind in [
        (lambda: text(fields, "a", 9), str),
        (lambda: integer(fields, "a", 0, MAX_INTEGER), int),
        (lambda: octets(fields, "a", 9), bytes),
        (lambda: hexadecimal(fields, "a", 2), bytes),
        (lambda: listed(fields, "a", 9, object_of), tuple),
    ]:
        try:
            assert isinstance(read(), kind)
        except ValueError:
            continue
