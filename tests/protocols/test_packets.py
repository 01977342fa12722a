"""Inner packets: reading them, and cutting super-packets up, with scapy as the judge of every packet made."""

from __future__ import annotations

from collections.abc import Callable

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

from holloway.protocols.packets import (
    MAX_SEGMENTS,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SuperPacket,
    UnfinishedPacket,
    destination,
    internet_checksum,
    source,
    split_packets,
    total_length,
    transport,
    whole_packets,
)

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
KINDS: list[Callable[[bytes], bytes | memoryview]] = [bytes, memoryview]


def text_of(length: int) -> bytes:
    """Payload in which every place is told from its neighbours."""
    return bytes((n * 7 + n // 251) & 255 for n in range(length))


IPV4_HEADERS = st.builds(
    lambda number, tos, options, df: IP(
        src="10.0.0.1", dst="10.9.8.7", id=number, tos=tos, flags=2 * df, options=options, ttl=61
    ),
    st.one_of(st.sampled_from([0, 0xFFFD, 0xFFFF]), st.integers(0, 0xFFFF)),
    st.integers(0, 255),
    st.sampled_from([[], [IPOption(b"\x94\x04\x00\x00")], [IPOption(b"\x01")] * 7]),
    st.booleans(),
)
EXTENSIONS = st.lists(
    st.sampled_from(
        [
            IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0\0\0\0")]),
            IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]),
            IPv6ExtHdrRouting(type=2, addresses=["fd00::9"], segleft=0),
        ]
    ),
    max_size=3,
)


def ipv6_header(label: int, extensions: list[ScapyPacket]) -> ScapyPacket:
    header = IPv6(src="fd00::1", dst="fd00::2", fl=label, hlim=61)
    for extension in extensions:
        header = header / extension
    return header


IPV6_HEADERS = st.builds(ipv6_header, st.integers(0, 2**20 - 1), EXTENSIONS)
HEADERS = st.one_of(IPV4_HEADERS, IPV6_HEADERS)
TCP_HEADERS = st.builds(
    lambda seq, flags, options: TCP(sport=4242, dport=443, seq=seq, ack=77, flags=flags, options=options),
    st.one_of(st.sampled_from([0, 2**32 - 1, 2**32 - 1000]), st.integers(0, 2**32 - 1)),
    st.integers(0, 255),
    st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (5, 6))], [("NOP", None)] * 40, [("MSS", 9)]]),
)


def flow_fields(packet: ScapyPacket) -> tuple[object, ...]:
    """What no cutting changes: both addresses, and the fields of IP that are not a length, a number or a checksum."""
    if packet.version == 4:
        return (packet.src, packet.dst, packet.tos, packet.flags, packet.frag, packet.ttl, packet.proto, packet.options)
    return (packet.src, packet.dst, packet.tc, packet.fl, packet.hlim, packet.nh)


def cut_and_judge(data: bytes, size: int, kind: type[ScapyPacket]) -> list[ScapyPacket]:
    """The segments as scapy reads them, after what holds for TCP and UDP alike has been asserted."""
    whole = parsed(data)
    payload = bytes(whole[kind].payload)
    segments = SuperPacket(data, size).segments()
    assert len(segments) == max(1, -(-len(payload) // size))
    read = []
    for index, segment in enumerate(segments):
        assert total_length(segment) == len(segment)
        assert with_fresh_checksums(segment) == segment
        packet = parsed(segment)
        assert flow_fields(packet) == flow_fields(whole)
        if packet.version == 4:
            assert packet.id == (whole.id + index) & 0xFFFF
        read.append(packet)
    parts = [bytes(packet[kind].payload) for packet in read]
    assert b"".join(parts) == payload
    assert all(len(part) == size for part in parts[:-1])
    return read


@settings(max_examples=60)
@given(HEADERS, TCP_HEADERS, st.integers(0, 900), st.integers(90, 400), st.booleans())
def test_tcp_segments_are_what_scapy_would_have_made(
    header: ScapyPacket, tcp: ScapyPacket, length: int, size: int, partial: bool
) -> None:
    packet = header / tcp / Raw(text_of(length)) if length else header / tcp
    if partial:
        packet[TCP].chksum = 0x1234  # a device with offloads leaves a partial sum here
    whole = parsed(bytes(packet))
    segments = cut_and_judge(bytes(packet), size, TCP)
    flags = int(whole[TCP].flags)
    for index, segment in enumerate(segments):
        expected = flags
        if segment is not segments[-1]:
            expected &= ~(FIN | PSH)
        if index:
            expected &= ~CWR
        got = segment[TCP]
        assert int(got.flags) == expected
        assert got.seq == (whole[TCP].seq + index * size) % 2**32
        same = ("sport", "dport", "ack", "dataofs", "window", "urgptr", "options")
        assert [getattr(got, name) for name in same] == [getattr(whole[TCP], name) for name in same]


@settings(max_examples=40)
@given(HEADERS, st.integers(0, 900), st.integers(90, 400))
def test_udp_segments_are_what_scapy_would_have_made(header: ScapyPacket, length: int, size: int) -> None:
    packet = header / UDP(sport=53, dport=5353, chksum=0) / Raw(text_of(length))
    for segment in cut_and_judge(bytes(packet), size, UDP):
        assert (segment[UDP].sport, segment[UDP].dport) == (53, 5353)
        assert segment[UDP].len == len(segment[UDP])


@pytest.mark.parametrize("header", [IP(src="10.0.0.1", dst="10.0.0.2", id=65530), IPv6(src="fd00::1", dst="fd00::2")])
def test_a_super_packet_of_64_kilobytes_becomes_whole_segments(header: ScapyPacket) -> None:
    tcp = TCP(flags=FIN | PSH | ACK | CWR, seq=2**32 - 30_000, options=[("NOP", None), ("NOP", None), ("EOL", None)])
    data = bytes(header / tcp / Raw(text_of(65_000)))
    segments = cut_and_judge(data, 1368, TCP)
    assert len(segments) == 48
    assert [int(s[TCP].flags) for s in segments] == [ACK | CWR] + [ACK] * 46 + [ACK | FIN | PSH]


def test_udp_checksum_that_comes_out_as_zero_is_sent_as_65535() -> None:
    def built(payload: bytes) -> bytes:
        return bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(payload))

    balancing = parsed(built(b"\0\0"))[UDP].chksum
    data = built(balancing.to_bytes(2, "big"))
    assert data[26:28] == b"\xff\xff"
    assert SuperPacket(data, 100).segments() == [data]


def test_a_packet_that_fits_in_one_segment_comes_back_alone_with_its_flags_and_its_checksum() -> None:
    data = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=5) / TCP(flags=FIN | PSH | CWR | ACK) / Raw(b"abc"))
    spoilt = data[:36] + b"\xde\xad" + data[38:]
    assert SuperPacket(spoilt, 3).segments() == [data]
    assert SuperPacket(spoilt, 65_535).segments() == [data]


V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")
BODY = Raw(bytes(300))


def with_tcp_header_words(words: int) -> bytes:
    data = bytearray(bytes(V4 / TCP() / BODY))
    data[32] = words << 4
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(V4 / TCP() / BODY)[:-1],
        bytes(V4 / TCP() / BODY) + b"\0",
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags=1) / TCP() / BODY),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", frag=3) / TCP() / BODY),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", proto=47) / BODY),
        bytes(V6 / IPv6ExtHdrFragment() / TCP() / BODY),
        bytes(V6 / IPv6ExtHdrRouting(type=2, addresses=["fd00::9"], segleft=1) / TCP() / BODY),
        bytes(V6 / IPv6ExtHdrHopByHop() / IPv6(src="fd00::1", dst="fd00::2")),
        bytes(IPv6(nh=0)),
        bytes(IPv6(nh=60) / Raw(b"\x06")),
        bytes(IPv6(nh=43) / Raw(b"\x06\x00\x02")),
        bytes(IPv6(nh=0) / Raw(b"\x06\x00")),
        bytes(IPv6(nh=0) / Raw(b"\x06\x01" + bytes(6))),
        bytes(IPv6(nh=60) / Raw((b"\x3c\x00" + bytes(6)) * 9)),
        bytes(IP(proto=6) / Raw(bytes(19))),
        bytes(IP(proto=17) / Raw(bytes(7))),
        with_tcp_header_words(4),
        bytes(IP(proto=6) / Raw(bytes(12) + b"\xf0" + bytes(46))),
    ],
)
def test_what_cannot_be_cut_becomes_no_packets(data: bytes) -> None:
    assert SuperPacket(data, 100).segments() == []


@pytest.mark.parametrize("size", [-5, 0])
def test_a_segment_size_below_one_makes_no_packets(size: int) -> None:
    assert SuperPacket(bytes(V4 / TCP() / BODY), size).segments() == []
    assert SuperPacket(bytes(V4 / TCP()), size).segments() == []


def test_number_of_segments_is_bounded() -> None:
    data = bytes(V4 / UDP() / Raw(bytes(MAX_SEGMENTS)))
    assert len(SuperPacket(data, 1).segments()) == MAX_SEGMENTS
    data = bytes(V4 / UDP() / Raw(bytes(MAX_SEGMENTS + 1)))
    assert SuperPacket(data, 1).segments() == []
    assert len(SuperPacket(data, 2).segments()) == MAX_SEGMENTS // 2 + 1


def test_repr_of_a_super_packet_shows_no_payload() -> None:
    data = bytes(V4 / TCP() / Raw(b"secret"))
    assert repr(SuperPacket(data, 100)) == "SuperPacket(46 bytes, segment_size=100)"


@pytest.mark.parametrize("view", KINDS)
def test_addresses_are_raw_bytes_of_the_family(view: Callable[[bytes], bytes | memoryview]) -> None:
    four, six = view(bytes(V4 / UDP())), view(bytes(V6 / UDP()))
    assert (source(four), destination(four)) == (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    assert (source(six), destination(six)) == (b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2")
    assert type(source(four)) is type(destination(six)) is bytes
    for cut, whole in ((19, four), (39, six)):
        assert source(whole[:cut]) is None
        assert destination(whole[:cut]) is None
    for version in (0, 1, 5, 7, 15):
        other = view(bytes([version << 4]) + bytes(60))
        assert source(other) is None
        assert destination(other) is None


@pytest.mark.parametrize("view", KINDS)
def test_total_length_is_the_packets_own_at_any_offset(view: Callable[[bytes], bytes | memoryview]) -> None:
    four, six = bytes(V4 / UDP() / Raw(b"abc")), bytes(V6 / UDP() / Raw(b"abcd"))
    data = view(four + six + four)
    assert total_length(data) == len(four) == 31
    assert total_length(data, 31) == len(six) == 52
    assert total_length(data, 83) == 31
    assert total_length(data, 84) == 0
    assert total_length(data, 114) == 0
    assert total_length(data, 2000) == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (bytes(V4)[:19], "shorter than a header"),
        (bytes(V6)[:39], "shorter than a header"),
        (b"\x44" + bytes(V4)[1:], "fewer than five words of header"),
        (b"\x46" + bytes(V4)[1:], "header longer than the packet"),
        (b"\x45\0\0\x13" + bytes(V4)[4:], "total length below the header"),
        (b"\x45\0\0\x15" + bytes(V4)[4:], "longer than the data"),
        (bytes(V6)[:4] + b"\0\1" + bytes(V6)[6:], "longer than the data"),
        (b"\x55" + bytes(V4)[1:], "version 5"),
        (b"\x70" + bytes(V6)[1:], "version 7"),
    ],
)
def test_total_length_of_a_malformed_packet_is_zero(data: bytes, why: str) -> None:
    assert total_length(data) == 0, why
    assert split_packets(data) is None, why


@pytest.mark.parametrize("view", [*KINDS, bytearray])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=12), st.integers(1, 60))
def test_packets_back_to_back_come_apart_and_a_cut_or_a_rest_is_refused(
    view: Callable[[bytes], bytes | bytearray | memoryview], shapes: list[tuple[bool, int]], cut: int
) -> None:
    packets = [
        (b"\x45\0" + (20 + n).to_bytes(2, "big") + bytes(16 + n))
        if is_four
        else (b"\x60\0\0\0" + n.to_bytes(2, "big") + bytes(34 + n))
        for is_four, n in shapes
    ]
    data = b"".join(packets)
    got = split_packets(view(data))
    assert got == packets
    assert all(type(packet) is bytes for packet in got)
    if packets:
        shortest = min(cut, len(packets[-1]) - 1)
        assert split_packets(view(data[:-shortest])) is None
        assert split_packets(view(data + bytes(cut))) is None


def test_transport_finds_the_header_behind_options_and_extensions() -> None:
    assert transport(bytes(V4 / TCP())) == (PROTOCOL_TCP, 20)
    assert transport(bytes(IP(options=[IPOption(b"\x94\x04\x00\x00")]) / UDP())) == (PROTOCOL_UDP, 24)
    assert transport(bytes(V6 / UDP())) == (PROTOCOL_UDP, 40)
    chain = V6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"")])
    assert transport(memoryview(bytes(chain / TCP()))) == (PROTOCOL_TCP, 56)
    eight = bytes(IPv6(nh=60) / Raw((b"\x3c\x00" + bytes(6)) * 7 + b"\x11\x00" + bytes(6) + bytes(8)))
    assert transport(eight) is None, "one more than may be walked through"
    assert transport(bytes(V6 / IPv6ExtHdrFragment() / UDP())) is None


def words_summed_one_by_one(data: bytes, start: int) -> int:
    """RFC 1071, section 4.1, in plain Python."""
    total = start
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=9), st.integers(1, 8000)),
        st.builds(lambda byte, n: byte * n, st.sampled_from([b"\0", b"\xff"]), st.integers(0, 66_000)),
    ),
    st.one_of(st.sampled_from([0, 1, 0xFFFF, 0xFFFE]), st.integers(0, 2**300)),
)
def test_checksum_is_the_one_of_rfc_1071(data: bytes, start: int) -> None:
    assert internet_checksum(data, start) == words_summed_one_by_one(data, start)
    assert internet_checksum(memoryview(data), start) == internet_checksum(bytearray(data), start)


def test_checksum_of_the_example_in_rfc_1071_section_3() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert internet_checksum(b"") == internet_checksum(bytes(999)) == 0xFFFF
    assert internet_checksum(b"\xff" * 1400) == 0


# Bytes that get some way in: a right version and length, a protocol worth a look, or a whole packet with a few bytes hit.
def dressed(body: bytes, first: int, protocol: int) -> bytes:
    data = bytearray(body)
    data[0] = first
    if first >> 4 == 4:
        data[2:4] = len(data).to_bytes(2, "big")
        data[6:8] = bytes(2)
        data[9] = protocol
    else:
        data[4:6] = (len(data) - 40).to_bytes(2, "big")
        data[6] = protocol
    return bytes(data)


def hit(packet: bytes, hits: list[tuple[int, int]]) -> bytes:
    data = bytearray(packet)
    for at, value in hits:
        data[at % len(data)] = value
    return bytes(data)


HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        dressed,
        st.binary(min_size=40, max_size=200),
        st.sampled_from([0x45, 0x46, 0x4F, 0x60, 0x6F]),
        st.sampled_from([0, 6, 17, 43, 44, 60, 1, 58]),
    ),
    st.builds(
        hit,
        st.sampled_from(
            [
                bytes(V4 / TCP() / BODY),
                bytes(V6 / UDP() / BODY),
                bytes(V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP() / BODY),
            ]
        ),
        st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4),
    ),
)


@settings(max_examples=400)
@given(HOSTILE, st.integers(0, 220), st.integers(-1, 220))
def test_no_bytes_make_a_function_raise_or_say_what_is_not_so(data: bytes, offset: int, size: int) -> None:
    for address in (source(data), destination(data), source(memoryview(data)), destination(memoryview(data))):
        assert address is None or (len(address) in (4, 16) and address in data)
    length = total_length(data, offset)
    assert length == 0 or 20 <= length <= len(data) - offset
    packets = split_packets(data)
    assert packets is None or b"".join(packets) == data
    found = transport(data)
    assert found is None or (packets == [data] and 20 <= found[1] <= len(data))
    segments = SuperPacket(data, size).segments()
    for segment in segments:
        assert transport(segment) == found
        assert (source(segment), destination(segment)) == (source(data), destination(data))
    if segments and found:
        header = found[1] + (8 if found[0] == PROTOCOL_UDP else (data[found[1] + 12] >> 4) * 4)
        assert b"".join(segment[header:] for segment in segments) == data[header:]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("payload", [b"", b"odd", b"\xff" * 1001])
def test_an_unfinished_packet_is_finished_by_summing_what_it_covers(
    version: int, protocol: int, payload: bytes
) -> None:
    header = (
        bytes(12) + b"\x50" + bytes(7) if protocol == 6 else bytes(4) + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    )
    length = len(header) + len(payload)
    if version == 4:
        ip = b"\x45\0" + (20 + length).to_bytes(2, "big") + bytes(4) + bytes((64, protocol, 0, 0)) + bytes(range(8))
    else:
        ip = b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((protocol, 64)) + bytes(range(32))
    addresses = ip[12:20] if version == 4 else ip[8:40]
    pseudo = int.from_bytes(addresses, "big") + protocol + length
    at = len(ip) + (16 if protocol == 6 else 6)
    partial = (pseudo % 0xFFFF).to_bytes(2, "big")
    whole = ip + header + payload
    packet = UnfinishedPacket(whole[:at] + partial + whole[at + 2 :])
    made = packet.finished()
    assert type(made) is bytes
    assert made[:at] + made[at + 2 :] == whole[:at] + whole[at + 2 :]
    assert internet_checksum(made[len(ip) :], pseudo) == 0
    assert whole_packets([packet, made]) == [made, made]


def test_an_unfinished_packet_that_is_malformed_stays_as_it_is() -> None:
    assert UnfinishedPacket(b"junk").finished() == b"junk"


def test_a_checksum_that_comes_to_zero_is_sent_as_ones() -> None:
    ip = b"\x45\0\0\x1e" + bytes(4) + b"\x40\x11\0\0" + bytes(8)
    pseudo = 17 + 10
    filler = (0xFFFF - pseudo - 10).to_bytes(2, "big")  # with it everything sums to 65535
    packet = UnfinishedPacket(ip + b"\0\0\0\0\0\x0a" + pseudo.to_bytes(2, "big") + filler)
    assert packet.finished()[26:28] == b"\xff\xff"
