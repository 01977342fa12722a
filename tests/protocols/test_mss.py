"""MSS clamping, compared with scapy: what it writes has the checksum that scapy computes, and nothing else differs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import (
    IP,
    TCP,
    UDP,
    IPOption,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    Raw,
    ScapyPacket,
    parsed,
    with_fresh_checksums,
)

from holloway.protocols.mss import clamp_mss, clamp_super_packet
from holloway.protocols.packets import SuperPacket
from holloway.protocols.virtio import MAX_SEGMENT_BYTES

MTU = 1300
FITS = {4: MTU - 40, 6: MTU - 60}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def ip(family: int) -> ScapyPacket:
    return IP(src="10.0.0.1", dst="10.0.0.2") if family == 4 else IPv6(src="fd00::1", dst="fd00::2")


def syn(family: int, options: Any = (("MSS", 1460),), flags: str = "S", below: ScapyPacket | None = None) -> bytes:
    return bytes((ip(family) if below is None else below) / TCP(sport=1, dport=2, flags=flags, options=list(options)))


def with_raw_options(family: int, options: bytes, flags: str = "S", payload: bytes = b"") -> bytes:
    """A SYN with these bytes as TCP options, padded to whole words, and right checksums."""
    options += bytes(-len(options) % 4)
    tcp = bytes(TCP(sport=1, dport=2, flags=flags, dataofs=5 + len(options) // 4, chksum=0)) + options + payload
    packet = bytearray(bytes(ip(family) / Raw(tcp)))
    at = len(packet) - len(tcp)
    # scapy does not know that the payload is TCP, and does not sum options that it could not read.
    packet[9 if family == 4 else 6] = 6
    words = bytes(packet[12:20] if family == 4 else packet[8:40]) + (6).to_bytes(2, "big") + len(tcp).to_bytes(2, "big")
    packet[at + 16 : at + 18] = slow_checksum(words + tcp).to_bytes(2, "big")
    if family == 4:
        packet[10:12] = bytes(2)
        packet[10:12] = slow_checksum(bytes(packet[:20])).to_bytes(2, "big")
    return bytes(packet)


def slow_checksum(data: bytes) -> int:
    """RFC 1071 as its text has it, a word at a time."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def mss_of(packet: bytes) -> list[int]:
    return [value for name, value in parsed(packet)[TCP].options if name == "MSS"]


@FAMILIES
@pytest.mark.parametrize("flags", ["S", "SA", "SEC"])
def test_a_syn_that_names_more_than_fits_names_what_fits(family: int, flags: str) -> None:
    packet = syn(family, [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)], flags)
    clamped = clamp_mss(packet, MTU)
    assert mss_of(clamped) == [FITS[family]]
    assert clamped == with_fresh_checksums(clamped)
    assert len(clamped) == len(packet)
    assert sum(new != old for new, old in zip(clamped, packet, strict=True)) <= 4


@FAMILIES
@given(mss=st.integers(0, 0xFFFF), mtu=st.integers(0, 70_000))
def test_mss_is_never_raised_and_what_fits_comes_back_itself(family: int, mss: int, mtu: int) -> None:
    packet = syn(family, [("MSS", mss)])
    clamped = clamp_mss(packet, mtu)
    fits = mtu - (40 if family == 4 else 60)
    if mss <= fits or fits < 1:
        assert clamped is packet
    else:
        assert mss_of(clamped) == [fits]
        assert clamped == with_fresh_checksums(clamped)


@settings(max_examples=200)
@given(
    family=st.sampled_from([4, 6]),
    before=st.lists(
        st.sampled_from([b"\1", b"\4\2", b"\3\3\7", b"\x08\x0a" + bytes(range(8)), b"\xfe\4\xff\xff", b"\2\4\x05\xb4"]),
        max_size=4,
    ).filter(lambda options: sum(map(len, options)) <= 36),
    mss=st.integers(FITS[4] + 1, 0xFFFF),
    payload=st.binary(max_size=9),
)
def test_the_option_may_be_anywhere_even_across_two_words(
    family: int, before: list[bytes], mss: int, payload: bytes
) -> None:
    packet = with_raw_options(family, b"".join(before) + b"\2\4" + mss.to_bytes(2, "big"), payload=payload)
    clamped = clamp_mss(packet, MTU)
    assert mss_of(clamped) == [FITS[family]] * (1 + before.count(b"\2\4\x05\xb4"))
    assert clamped == with_fresh_checksums(clamped)
    assert clamped.endswith(payload)


@FAMILIES
@pytest.mark.parametrize(
    "options",
    [
        b"",  # no option: stands for the default, which fits
        b"\1\1\1\1",
        b"\0\2\4\xff",  # after the end of the list
        b"\0\0\0\0\2\4\xff\xff",
        b"\1\1\1\2",  # the kind alone
        b"\1\1\2\4",  # cut off before its value
        b"\1\2\4\xff",  # cut off within its value
        b"\2\3\xff\xff",  # of another length
        b"\2\6\xff\xff\xff\xff\0\0",
        b"\2\0\xff\xff",  # lengths that would never end, or step back
        b"\5\1\2\4\xff\xff\0\0",
        b"\5\xff\2\4\xff\xff\0\0",  # longer than the list
        b"\2\4\x04\xbc",  # 1212 fits
    ],
)
def test_lists_without_an_option_to_lower_come_back_themselves(family: int, options: bytes) -> None:
    packet = with_raw_options(family, options)
    assert clamp_mss(packet, MTU) is packet


@FAMILIES
def test_a_carry_that_makes_another_carry_is_added_too(family: int) -> None:
    options, fits = b"\1\2\4\xff\0", FITS[family]
    at = (20 if family == 4 else 40) + 16
    empty = with_raw_options(family, options, payload=bytes(2))
    # Such a payload that old sum, old option and new one, all with their bytes where they count, add up to 0x1FFFF.
    wanted = 0x10000 + 0x00FF - int.from_bytes(fits.to_bytes(2, "little"), "big")
    filling = (wanted - (0xFFFF - int.from_bytes(empty[at : at + 2], "big"))) % 0xFFFF
    packet = with_raw_options(family, options, payload=filling.to_bytes(2, "big"))
    assert int.from_bytes(packet[at : at + 2], "big") == 0xFFFF - wanted
    clamped = clamp_mss(packet, MTU)
    assert mss_of(clamped) == [fits]
    assert clamped == with_fresh_checksums(clamped)


@FAMILIES
@pytest.mark.parametrize("options", [b"\2\4\xff\xff", b"\1\1\1\2", b"\1\1\2\4"])
@pytest.mark.parametrize("words", [0, 4, 7, 15])
def test_a_tcp_header_longer_than_its_packet_or_too_short_comes_back_itself(
    family: int, options: bytes, words: int
) -> None:
    packet = bytearray(with_raw_options(family, options))
    packet[-len(options) - 8] = words << 4
    whole = bytes(packet)
    assert clamp_mss(whole, MTU) is whole


@FAMILIES
def test_an_option_before_a_malformed_one_is_lowered(family: int) -> None:
    clamped = clamp_mss(with_raw_options(family, b"\2\4\xff\xff\5\0\2\4\xff\xff"), MTU)
    assert clamped[-12:-8] == b"\2\4" + FITS[family].to_bytes(2, "big")
    assert clamped[-8:] == b"\5\0\2\4\xff\xff\0\0"


@FAMILIES
@pytest.mark.parametrize("flags", ["A", "", "FA", "R", "PA"])
def test_what_is_no_syn_comes_back_itself(family: int, flags: str) -> None:
    packet = syn(family, flags=flags)
    assert clamp_mss(packet, MTU) is packet


@FAMILIES
def test_what_is_not_tcp_comes_back_itself(family: int) -> None:
    packet = bytes(ip(family) / UDP(sport=1, dport=2) / Raw(b"\2" * 60))
    assert clamp_mss(packet, MTU) is packet


@pytest.mark.parametrize(
    ("family", "below"),
    [
        (4, IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption(b"\x94\x04\0\0"), IPOption(b"\1\1\1\0")])),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))])),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(addresses=[], segleft=0)),
    ],
)
def test_headers_between_are_stepped_over(family: int, below: ScapyPacket) -> None:
    clamped = clamp_mss(syn(family, below=below), MTU)
    assert mss_of(clamped) == [FITS[family]]
    assert clamped == with_fresh_checksums(clamped)
    acknowledgement = syn(family, flags="A", below=below)
    assert clamp_mss(acknowledgement, MTU) is acknowledgement


@pytest.mark.parametrize(
    ("family", "below"),
    [
        (4, IP(src="10.0.0.1", dst="10.0.0.2", flags="MF")),
        (4, IP(src="10.0.0.1", dst="10.0.0.2", frag=8)),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(offset=0, m=1)),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=0, m=1)),
        (6, IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(addresses=["fd00::3"], segleft=1)),
    ],
)
def test_fragments_and_packets_on_a_detour_come_back_themselves(family: int, below: ScapyPacket) -> None:
    packet = syn(family, below=below)
    assert clamp_mss(packet, MTU) is packet


@FAMILIES
def test_a_wrong_checksum_stays_as_wrong_as_it_was(family: int) -> None:
    right = syn(family)
    at = (20 if family == 4 else 40) + 16
    wrong = right[:at] + ((int.from_bytes(right[at : at + 2], "big") + 1) % 0xFFFF).to_bytes(2, "big") + right[at + 2 :]
    clamped, fresh = clamp_mss(wrong, MTU), clamp_mss(right, MTU)
    assert clamped[:at] + clamped[at + 2 :] == fresh[:at] + fresh[at + 2 :]
    assert clamped != with_fresh_checksums(clamped)


@FAMILIES
def test_a_syn_of_the_local_tcp_keeps_its_unfinished_checksum_and_its_segments_are_right(family: int) -> None:
    data = syn(family)
    at = (20 if family == 4 else 40) + 16
    unfinished = data[:at] + b"\x12\x34" + data[at + 2 :]
    clamped = clamp_super_packet(SuperPacket(unfinished, MAX_SEGMENT_BYTES), MTU)
    assert clamp_super_packet(SuperPacket(memoryview(unfinished), MAX_SEGMENT_BYTES), MTU) == clamped
    assert clamped.segment_size == MAX_SEGMENT_BYTES
    assert clamped.data[at : at + 2] == b"\x12\x34"
    assert clamped.segments() == [clamp_mss(data, MTU)]


@FAMILIES
def test_a_super_packet_with_nothing_to_change_comes_back_itself(family: int) -> None:
    packet = SuperPacket(syn(family, flags="A") + bytes(3000), 1400)
    assert clamp_super_packet(packet, MTU) is packet


@settings(max_examples=400)
@given(data=st.data(), mtu=st.integers(-10, 70_000))
def test_hostile_bytes_never_raise_and_nothing_beside_option_and_checksum_changes(
    data: st.DataObject, mtu: int
) -> None:
    family = data.draw(st.sampled_from([4, 6]))
    packet = bytearray(with_raw_options(family, data.draw(st.binary(max_size=40))))
    for _ in range(data.draw(st.integers(0, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    mangled = bytes(packet[: data.draw(st.integers(0, len(packet)))] if data.draw(st.booleans()) else packet)
    clamped = clamp_mss(mangled, mtu)
    assert len(clamped) == len(mangled)
    assert clamped[:20] == mangled[:20]
    assert (clamped is mangled) == (clamped == mangled)


@given(st.binary(max_size=120))
def test_noise_never_raises(noise: bytes) -> None:
    assert len(clamp_mss(noise, MTU)) == len(noise)
