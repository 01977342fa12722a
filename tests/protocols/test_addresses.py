"""Outer addresses as people read them."""

from __future__ import annotations

import pytest

from holloway.protocols.addresses import Address, format_address


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.7", 1099), "192.0.2.7:1099"),
        (("fd00::1", 1099, 0, 0), "[fd00::1]:1099"),
        (("fe80::1", 1099, 0, 3), "[fe80::1%3]:1099"),
        (("fe80::1%eth0", 1099, 0, 3), "[fe80::1%eth0]:1099"),
    ],
)
def test_format(address: Address, text: str) -> None:
    assert format_address(address) == text
