"""Sums that check or postpone a checksum, against `internet_checksum`, which has judges of its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import IP, TCP, UDP, IPv6, Raw, ScapyPacket

from holloway.protocols.checksums import partial_checksum, pseudo_header_sum, sums_to_zero
from holloway.protocols.packets import internet_checksum

LENGTHS = st.one_of(st.integers(0, 40), st.integers(1400, 1501), st.integers(1590, 1610), st.integers(2000, 66_000))


@settings(max_examples=150, derandomize=True, deadline=None)
@given(LENGTHS, st.integers(0, 255), st.integers(1, 2**300), st.integers(0, 0xFFFF))
def test_only_the_right_checksum_sums_to_zero(length: int, byte: int, start: int, guess: int) -> None:
    data = bytes((byte + 7 * n) & 255 for n in range(length))
    right = internet_checksum(data, start)
    assert sums_to_zero(data, start + right)
    assert sums_to_zero(memoryview(data), start + guess) == (guess % 0xFFFF == right % 0xFFFF)
    # The same with the checksum inside, where it comes from: in the first two bytes, zero before.
    if length >= 2:
        whole = internet_checksum(b"\0\0" + data[2:], start).to_bytes(2, "big") + data[2:]
        assert sums_to_zero(whole, start)
        assert not sums_to_zero(whole[:-1] + bytes([whole[-1] ^ 0x10]), start)


@pytest.mark.parametrize("header", [IP(src="10.0.0.1", dst="250.9.8.7"), IPv6(src="fd00::1", dst="fd00::ffff")])
@pytest.mark.parametrize("kind", [TCP(sport=1, dport=2), UDP(sport=1, dport=2)])
@pytest.mark.parametrize("length", [0, 1, 1400])
def test_a_partial_checksum_is_what_the_rest_of_the_packet_turns_into_the_checksum(
    header: ScapyPacket, kind: ScapyPacket, length: int
) -> None:
    packet = bytes(header / kind / Raw(b"\xa7" * length))
    at = 20 if packet[0] >> 4 == 4 else 40
    protocol, field = (6, at + 16) if isinstance(kind, TCP) else (17, at + 6)
    partial = partial_checksum(pseudo_header_sum(packet, protocol, len(packet) - at))
    unfinished = packet[:field] + partial.to_bytes(2, "big") + packet[field + 2 :]
    assert internet_checksum(unfinished[at:]) == int.from_bytes(packet[field : field + 2], "big")


def test_a_partial_checksum_of_nothing_is_nothing() -> None:
    assert partial_checksum(0) == 0
    assert partial_checksum(0xFFFF) == partial_checksum(2 * 0xFFFF) == 0xFFFF
    assert partial_checksum(0x10000) == 1
