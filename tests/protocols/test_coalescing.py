"""Coalescing against the plain way, packet by packet.

The judge is a segmenter of this file's own, which cuts a joined packet as its virtio header says, as the kernel would.
Cut again, the packets of every flow must be the ones that went in, in their order, byte for byte. One difference is
legitimate: where IPv4 forbids fragmenting, the identification means nothing (RFC 6864), and runs that all have the same
one are numbered when they are cut.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scapy_oracle import parsed, with_fresh_checksums

from holloway.protocols.coalescing import MAX_JOINED_BYTES, MAX_JOINED_DATAGRAMS, MIN_SEGMENT_BYTES, Checksums, coalesce
from holloway.protocols.packets import MAX_SEGMENTS, Packet, SuperPacket, internet_checksum
from holloway.protocols.virtio import OffloadedPacket

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
TCP_TYPES = {4: 1, 6: 4}  # VIRTIO_NET_HDR_GSO_TCPV4 and _TCPV6
UDP_TYPE = 5


@dataclass(frozen=True)
class Made:
    """One TCP or UDP packet, built here from the RFCs alone."""

    version: int = 4
    is_tcp: bool = True
    port: int = 1000
    target: int = 443
    tos: int = 0
    ttl: int = 64
    label: int = 7
    number: int = 100
    fragment: int = 0x4000  # flags and offset
    options: bytes = b""  # of IPv4
    extension: bytes = b""  # of IPv6: one destination-options header
    sequence: int = 10_000
    acknowledged: int = 5
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    tcp_options: bytes = b""
    payload: bytes = b""

    def bytes(self) -> bytes:
        if self.is_tcp:
            words = (20 + len(self.tcp_options)) // 4 << 4
            head = (
                self.port,
                self.target,
                self.sequence % 2**32,
                self.acknowledged,
                words,
                self.flags,
                self.window,
                0,
                self.urgent,
            )
            segment = struct.pack(">HHIIBBHHH", *head) + self.tcp_options + self.payload
        else:
            segment = struct.pack(">HHHH", self.port, self.target, 8 + len(self.payload), 0) + self.payload
        protocol = 6 if self.is_tcp else 17
        if self.version == 4:
            addresses = b"\x0a\0\0\1\x0a\0\0\2"
            words = 0x40 | (20 + len(self.options)) // 4
            length = 20 + len(self.options) + len(segment)
            head4 = struct.pack(
                ">BBHHHBBH", words, self.tos, length, self.number % 2**16, self.fragment, self.ttl, protocol, 0
            )
            header = patched(head4 + addresses + self.options, 10, internet_checksum(head4 + addresses + self.options))
        else:
            addresses = b"\xfd" + bytes(14) + b"\1\xfd" + bytes(14) + b"\2"
            first = 6 << 28 | self.tos << 20 | self.label
            following = 60 if self.extension else protocol
            header = struct.pack(">IHBB", first, len(self.extension) + len(segment), following, self.ttl) + addresses
            header += bytes([protocol]) + self.extension[1:] if self.extension else b""
        pseudo = addresses + struct.pack(">HH", protocol, len(segment))
        checksum = internet_checksum(pseudo + segment)
        return header + patched(segment, 16 if self.is_tcp else 6, checksum if self.is_tcp else checksum or 0xFFFF)


def patched(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + number.to_bytes(2, "big") + data[at + 2 :]


def spoilt(packet: bytes, at: int, by: int = 1) -> bytes:
    at %= len(packet)
    return packet[:at] + bytes([packet[at] ^ by]) + packet[at + 1 :]


def text_of(length: int, start: int = 0) -> bytes:
    return bytes((n * 31 + n // 256 + start) & 255 for n in range(length))


def run_of(count: int, base: Made, size: int = 100, *, last: int | None = None) -> list[Made]:
    """`count` packets as one sender's offloads would cut them, the last with `last` bytes."""
    made = []
    for index in range(count):
        length = last if last is not None and index == count - 1 else size
        made.append(
            replace(
                base,
                number=base.number + index,
                sequence=base.sequence + index * size,
                payload=text_of(length, index),
            )
        )
    return made


def cut(packet: Packet) -> list[bytes]:
    """What the kernel would make of a packet written to a device: the segmenter that judges.

    A lone packet's partial checksum is finished; one that is to be verified is, and nothing comes of a wrong one. Nothing
    here is shared with the code it judges but RFC 1071's sum.
    """
    if isinstance(packet, bytes):
        return [packet]
    assert isinstance(packet, OffloadedPacket)
    data = packet.data
    flags, kind, _, size, start, offset = struct.unpack("=BBHHHH", packet.virtio)
    is_four = data[0] >> 4 == 4
    length_at, length_less = (2, 0) if is_four else (4, 40)
    assert int.from_bytes(data[length_at : length_at + 2], "big") == len(data) - length_less
    addresses = data[12:20] if is_four else data[8:40]
    if flags:
        assert flags == 1
        pseudo = internet_checksum(addresses + struct.pack(">HH", {16: 6, 6: 17}[offset], len(data) - start))
        assert int.from_bytes(data[start + offset : start + offset + 2], "big") == 0xFFFF - pseudo, "partial checksum"
    else:
        assert (start, offset) == (0, 0)
        assert kind in TCP_TYPES.values(), "a device refuses the others"
        start, offset = 20 if is_four else 40, 16
        if internet_checksum(addresses + struct.pack(">HH", 6, len(data) - start) + data[start:]):
            return []
    if kind == 0:
        return [patched(data, start + offset, internet_checksum(data[start:]) or 0xFFFF * (offset == 6))]
    is_tcp = offset == 16
    assert kind == (TCP_TYPES[4 if is_four else 6] if is_tcp else UDP_TYPE)
    assert start == (20 if is_four else 40)
    header = data[: start + ((data[start + 12] >> 4) * 4 if is_tcp else 8)]
    payload = data[len(header) :]
    assert 0 < size < len(payload)
    packets = []
    for index, at in enumerate(range(0, len(payload), size)):
        piece = payload[at : at + size]
        one = bytearray(header + piece)
        struct.pack_into(">H", one, length_at, len(one) - length_less)
        if is_four:
            struct.pack_into(">H", one, 4, (int.from_bytes(header[4:6], "big") + index) % 2**16)
            one[10:12] = b"\0\0"
            struct.pack_into(">H", one, 10, internet_checksum(one[:20]))
        if is_tcp:
            struct.pack_into(">I", one, start + 4, (int.from_bytes(header[start + 4 : start + 8], "big") + at) % 2**32)
            if at + size < len(payload):
                one[start + 13] &= ~(FIN | PSH)
        else:
            struct.pack_into(">H", one, start + 4, 8 + len(piece))
        one[start + offset : start + offset + 2] = b"\0\0"
        segment = addresses + struct.pack(">HH", 6 if is_tcp else 17, len(one) - start) + bytes(one[start:])
        struct.pack_into(">H", one, start + offset, internet_checksum(segment) or 0xFFFF * (not is_tcp))
        packets.append(bytes(one))
    return packets


def flow_of(packet: bytes) -> bytes:
    """Family, addresses, protocol and ports; nothing for what does not say."""
    if len(packet) >= 24 and packet[0] >> 4 == 4 and not packet[6] & 0x3F and not packet[7]:
        at = (packet[0] & 15) * 4
        if packet[9] in (6, 17) and len(packet) >= at + 4 and at >= 20:
            return packet[9:10] + packet[12:20] + packet[at : at + 4]
    if len(packet) >= 52 and packet[0] >> 4 == 6 and packet[6] == 60:
        return packet[40:41] + packet[8:40] + packet[48:52]
    if len(packet) >= 44 and packet[0] >> 4 == 6 and packet[6] in (6, 17):
        return packet[6:7] + packet[8:44]
    return b""


def without_idle_number(packet: bytes) -> bytes:
    """The packet with the identification gone if it means nothing, and its IP checksum reduced to right or wrong."""
    if len(packet) < 20 or packet[0] != 0x45 or not packet[6] & 0x40:
        return packet
    verdict = b"ok" if internet_checksum(packet[:20]) == 0 else packet[10:12] + packet[4:6]
    return packet[:4] + packet[6:10] + verdict + packet[12:]


def by_flow(packets: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """The packets of every flow in their order, and among them all those that belong to no flow in particular."""
    flows = {flow_of(packet) for packet in packets}
    found = defaultdict(list)
    for packet in packets:
        own = flow_of(packet)
        for flow in {own} if own else flows:
            found[flow].append(without_idle_number(packet))
    return found


def assert_equivalent(packets: Sequence[bytes], checksums: Checksums = Checksums.VERIFY) -> list[Packet]:
    joined = coalesce(packets, checksums)
    again = [one for packet in joined for one in cut(packet)]
    assert by_flow(again) == by_flow(packets)
    assert len(again) == len(packets)
    assert all(len(p.data) <= MAX_JOINED_BYTES for p in joined if isinstance(p, SuperPacket))
    return joined


def with_partial_checksums(packets: Sequence[bytes]) -> list[bytes]:
    """The packets as a device with offloads gives them to their sender."""
    left = []
    for packet in packets:
        at, addresses = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
        offset, protocol = (16, 6) if packet[9 if at == 20 else 6] == 6 else (6, 17)
        pseudo = 0xFFFF - internet_checksum(addresses + struct.pack(">HH", protocol, len(packet) - at))
        left.append(patched(packet, at + offset, pseudo))
    return left


def sizes(joined: Sequence[Packet]) -> list[int]:
    """How many packets each one stands for."""
    return [len(cut(packet)) for packet in joined]


TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(7) + b"\x09"
BASES = [
    Made(),
    Made(tcp_options=TIMESTAMPS),
    Made(fragment=0),
    Made(version=6),
    Made(version=6, tcp_options=TIMESTAMPS, tos=2),
    Made(is_tcp=False),
    Made(is_tcp=False, fragment=0),
    Made(is_tcp=False, version=6),
]
bases = pytest.mark.parametrize(
    "base", BASES, ids=lambda b: f"{'tcp' if b.is_tcp else 'udp'}{b.version}-{b.fragment:x}"
)


@bases
@pytest.mark.parametrize("last", [100, 99, 1])
def test_a_run_of_one_flow_becomes_one_packet(base: Made, last: int) -> None:
    packets = [made.bytes() for made in run_of(9, base, last=last)]
    (whole,) = assert_equivalent(packets)
    assert isinstance(whole, OffloadedPacket)
    assert whole.segment_size == 100
    assert cut(whole) == whole.segments() == packets
    assert [with_fresh_checksums(packet) for packet in packets] == packets, "scapy agrees with how they were made"


@bases
def test_checksums_left_partial_by_our_own_sender_stay_so(base: Made) -> None:
    packets = [made.bytes() for made in run_of(9, base, last=50)]
    left = with_partial_checksums(packets)
    (whole,) = coalesce(left, Checksums.GOOD)
    assert cut(whole) == packets
    assert coalesce(left) == left, "they are not right, and are not made right unless the caller vouches for them"
    for mixed in (left[:1], packets[:1], left[-1:], packets[-1:]):
        (lone,) = coalesce(mixed, Checksums.GOOD)
        assert isinstance(lone, OffloadedPacket)
        assert cut(lone) == lone.segments() == (packets[:1] if len(mixed[0]) == len(packets[0]) else packets[-1:])
    assert sizes(coalesce([*left[:3], *packets[3:]], Checksums.GOOD)) == [9]


@bases
@pytest.mark.parametrize(("size", "last"), [(100, 100), (100, 51), (99, 99), (99, 50), (99, 1), (1401, 12)])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_for_the_kernel_to_verify_tcp_gets_the_checksum_that_its_packets_had(
    base: Made, size: int, last: int, count: int
) -> None:
    packets = [made.bytes() for made in run_of(count, base, size, last=last)]
    (whole,) = assert_equivalent(packets, Checksums.LET_KERNEL_VERIFY)
    assert isinstance(whole, OffloadedPacket)
    assert whole.virtio[0] == (0 if base.is_tcp else 1)
    assert cut(whole) == whole.segments() == packets
    if base.is_tcp:
        assert with_fresh_checksums(whole.data) == whole.data, "scapy finds the same checksum"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.parametrize("where", [-1, -2, "checksum"])
def test_for_the_kernel_to_verify_a_wrong_packet_takes_its_run_with_it_and_is_not_put_right(
    version: int, wrong: int, where: str | int
) -> None:
    packets = [m.bytes() for m in run_of(4, Made(version=version), 101)]
    at = where if isinstance(where, int) else (20 if version == 4 else 40) + 16
    packets[wrong] = spoilt(packets[wrong], at, 0x40)
    (whole,) = coalesce(packets, Checksums.LET_KERNEL_VERIFY)
    assert cut(whole) == []
    datagrams = [m.bytes() for m in run_of(4, Made(version=version, is_tcp=False))]
    datagrams[wrong] = spoilt(datagrams[wrong], -1)
    joined = assert_equivalent(datagrams, Checksums.LET_KERNEL_VERIFY)
    assert any(packet is datagrams[wrong] for packet in joined)


def test_what_has_no_checksum_to_finish_is_left_as_it_is_when_checksums_are_good() -> None:
    ping = b"\x45\0\0\x1c" + bytes(5) + b"\1" + bytes(18)
    short = b"\x45\0\0\x1c" + bytes(5) + b"\6" + bytes(18)
    fragment = Made(fragment=0x2000, payload=bytes(40)).bytes()
    packets = [b"", ping, short, fragment, Made(payload=bytes(9)).bytes()[:-1]]
    assert all(got is packet for got, packet in zip(coalesce(packets, Checksums.GOOD), packets, strict=True))


@bases
def test_flows_that_take_turns_are_joined_each(base: Made) -> None:
    flows = [[made.bytes() for made in run_of(5, replace(base, port=port))] for port in (1, 2, 3)]
    packets = [packet for turn in zip(*flows, strict=True) for packet in turn]
    joined = assert_equivalent(packets)
    assert [cut(packet) for packet in joined] == flows


def test_tcp_and_udp_between_the_same_ports_are_two_flows() -> None:
    tcp, udp = ([made.bytes() for made in run_of(3, Made(is_tcp=is_tcp))] for is_tcp in (True, False))
    joined = assert_equivalent([tcp[0], udp[0], tcp[1], udp[1], udp[2], tcp[2]])
    assert [cut(packet) for packet in joined] == [tcp, udp]


def test_push_and_a_shorter_packet_end_a_run_and_are_its_last() -> None:
    made = run_of(9, Made())
    pushed = [m.bytes() for m in (*made[:3], replace(made[3], flags=ACK | PSH), *made[4:])]
    joined = assert_equivalent(pushed)
    assert [cut(packet) for packet in joined] == [pushed[:4], pushed[4:]]
    first = parsed(joined[0].data if isinstance(joined[0], SuperPacket) else b"")
    assert int(first["TCP"].flags) == ACK | PSH
    shorter = [m.bytes() for m in (*run_of(4, Made(), last=60), *run_of(5, Made(sequence=10_360, number=104)))]
    assert sizes(assert_equivalent(shorter)) == [4, 5]
    longer = [m.bytes() for m in (*run_of(1, Made(), 60), *run_of(5, Made(sequence=10_060, number=101)))]
    assert sizes(assert_equivalent(longer)) == [1, 5]
    assert sizes(assert_equivalent([replace(made[0], flags=ACK | PSH).bytes(), made[1].bytes()])) == [1, 1]
    datagrams = [m.bytes() for m in run_of(4, Made(is_tcp=False), last=60)]
    datagrams += [m.bytes() for m in run_of(2, Made(is_tcp=False, number=104))]
    assert sizes(assert_equivalent(datagrams)) == [4, 2]


CHANGES: dict[str, dict[str, object]] = {
    "acknowledgement": {"acknowledged": 6},
    "window": {"window": 501},
    "urgent pointer": {"urgent": 1},
    "timestamp": {"tcp_options": TIMESTAMPS[:-1] + b"\x0a"},
    "no options": {"tcp_options": b""},
    "congestion mark": {"tos": 3},
    "another DSCP": {"tos": 0x20},
    "ttl": {"ttl": 63},
    "gap": {"sequence": 10_301},
    "again": {"sequence": 10_200},
    "another port": {"port": 999},
    "SYN": {"flags": ACK | SYN},
    "FIN": {"flags": ACK | FIN},
    "RST": {"flags": ACK | RST},
    "URG": {"flags": ACK | URG},
    "ECE": {"flags": ACK | ECE},
    "CWR": {"flags": ACK | CWR},
    "no ACK": {"flags": 0},
    "no payload": {"payload": b""},
    "label": {"version": 6, "label": 8},
    "extension header": {"version": 6, "extension": b"\x06\0\1\4\0\0\0\0"},
    "identification": {"version": 4, "number": 105},
    "fragmenting allowed": {"version": 4, "fragment": 0},
    "reserved bit": {"version": 4, "fragment": 0xC000},
    "IP options": {"version": 4, "options": b"\x94\x04\0\0"},
    "first fragment": {"version": 4, "fragment": 0x2000},
    "later fragment": {"version": 4, "fragment": 0x0001},
}


@pytest.mark.parametrize("why", CHANGES)
@pytest.mark.parametrize("version", [4, 6])
def test_one_that_differs_is_not_joined_and_is_not_overtaken(why: str, version: int) -> None:
    change = CHANGES[why]
    if change.get("version", version) != version:
        return
    made = run_of(7, Made(version=version, tcp_options=TIMESTAMPS))
    odd = replace(made[3], **change).bytes()  # type: ignore[arg-type]
    packets = [m.bytes() for m in made]
    packets[3] = odd
    joined = assert_equivalent(packets)
    if why == "another port":
        assert sizes(joined) == [3, 1, 3]
        return
    assert [cut(packet) for packet in joined] == [packets[:3], [odd], packets[4:]]
    assert joined[1] is odd


def test_the_rest_of_a_flow_with_options_or_marks_of_its_own_is_left_as_it_is_or_joined_among_itself() -> None:
    options = [m.bytes() for m in run_of(3, Made(options=b"\x94\x04\0\0"))]
    extension = [m.bytes() for m in run_of(3, Made(version=6, extension=b"\x06\0\1\4\0\0\0\0"))]
    reserved = [m.bytes() for m in run_of(3, Made(fragment=0xC000))]
    for lone in (options, extension, reserved):
        assert assert_equivalent(lone) == lone
    marked = [m.bytes() for m in run_of(3, Made(tos=3))]
    assert sizes(assert_equivalent(marked)) == [3]


def test_identifications_that_stay_the_same_are_joined_only_where_they_mean_nothing() -> None:
    for is_tcp in (True, False):
        same = [replace(m, number=0) for m in run_of(5, Made(is_tcp=is_tcp), last=40)]
        assert sizes(assert_equivalent([m.bytes() for m in same])) == [5]
        fragmentable = [replace(m, fragment=0).bytes() for m in same]
        assert assert_equivalent(fragmentable) == fragmentable
    mixed = [replace(m, number=n).bytes() for m, n in zip(run_of(5, Made()), (3, 4, 4, 4, 5), strict=True)]
    assert sizes(assert_equivalent(mixed)) == [2, 2, 1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_tcp", [True, False])
@pytest.mark.parametrize("wrong", range(5))
@pytest.mark.parametrize("where", ["payload", "checksum"])
def test_a_packet_with_a_wrong_checksum_comes_out_as_it_went_in(
    version: int, is_tcp: bool, wrong: int, where: str
) -> None:
    packets = [m.bytes() for m in run_of(5, Made(version=version, is_tcp=is_tcp))]
    at = (20 if version == 4 else 40) + (16 if is_tcp else 6)
    packets[wrong] = spoilt(packets[wrong], -1 if where == "payload" else at)
    joined = assert_equivalent(packets)
    assert any(packet is packets[wrong] for packet in joined)
    assert max(sizes(joined)) == max(wrong, 4 - wrong)


def test_errors_that_cancel_each_other_are_still_found() -> None:
    packets = [m.bytes() for m in run_of(2, Made())]
    packets = [spoilt(packets[0], -1, packets[0][-1] ^ 0x10), spoilt(packets[1], -1, packets[1][-1] ^ 0x11)]
    assert assert_equivalent(packets) == packets


@pytest.mark.parametrize("at", [10, 11])
@pytest.mark.parametrize("wrong", range(4))
def test_a_wrong_ip_checksum_is_never_put_right(wrong: int, at: int) -> None:
    packets = [m.bytes() for m in run_of(4, Made(fragment=0))]
    packets[wrong] = spoilt(packets[wrong], at)
    for good in (False, True):
        joined = assert_equivalent(packets, Checksums.GOOD if good else Checksums.VERIFY)
        assert any(cut(packet) == [packets[wrong]] for packet in joined)


def test_ip_checksums_that_are_all_wrong_alike_are_not_put_right() -> None:
    packets = [m.bytes() for m in run_of(4, Made(is_tcp=False))]
    packets = [patched(packet, 10, int.from_bytes(packet[10:12], "big") + 7) for packet in packets]
    assert assert_equivalent(packets) == packets
    assert [cut(packet) for packet in coalesce(packets, Checksums.GOOD)] == [[packet] for packet in packets]


def test_a_datagram_without_a_checksum_is_not_given_one() -> None:
    for version in (4, 6):
        at = 26 if version == 4 else 46
        packets = [m.bytes() for m in run_of(6, Made(version=version, is_tcp=False))]
        packets[2] = patched(packets[2], at, 0)
        for good in (False, True):
            joined = assert_equivalent(packets, Checksums.GOOD if good else Checksums.VERIFY)
            assert sizes(joined) == [2, 1, 3]
            assert joined[1] is packets[2]


def test_a_datagram_whose_length_is_not_its_own_is_not_joined() -> None:
    for version in (4, 6):
        at = 24 if version == 4 else 44
        packets = [m.bytes() for m in run_of(4, Made(version=version, is_tcp=False))]
        for wrong in range(4):
            odd = [*packets]
            odd[wrong] = patched(packets[wrong], at, 107)
            for good in (False, True):
                assert any(
                    packet is odd[wrong]
                    for packet in assert_equivalent(odd, Checksums.GOOD if good else Checksums.VERIFY)
                )
        odd = [patched(packet, at, 107) for packet in packets]
        assert coalesce(odd, Checksums.GOOD) == odd


def test_sequence_numbers_identifications_and_ip_checksums_wrap_without_leaking_into_their_neighbours() -> None:
    wrapping = [m.bytes() for m in run_of(6, Made(sequence=2**32 - 300))]
    assert sizes(assert_equivalent(wrapping)) == [3, 3]
    numbered = [m.bytes() for m in run_of(6, Made(number=0xFFFD))]
    assert sizes(assert_equivalent(numbered)) == [3, 3]
    low = next(n for n in range(2**16) if Made(number=n, payload=bytes(100)).bytes()[10:12] == b"\0\2")
    assert sizes(assert_equivalent([m.bytes() for m in run_of(6, Made(number=low))])) == [3, 3]
    high = next(n for n in range(2**16) if Made(number=n, payload=bytes(100)).bytes()[10:12] == b"\xff\xf0")
    assert sizes(assert_equivalent([m.bytes() for m in run_of(2, Made(number=high), last=50)])) == [1, 1]


def test_a_header_with_a_carry_from_one_field_to_the_next_is_not_taken_for_the_next_header() -> None:
    made = run_of(3, Made(sequence=2**32 - 200))
    next_port = [made[0].bytes(), made[1].bytes(), replace(made[2], target=444).bytes()]
    assert sizes(assert_equivalent(next_port)) == [2, 1]
    packets = [m.bytes() for m in run_of(3, Made(number=0xFFFE))]
    length, checksum = len(packets[2]), int.from_bytes(packets[1][10:12], "big")
    carried = patched(patched(packets[2], 2, length + 1), 10, checksum - 1)
    assert carried[4:6] == b"\0\0"
    assert sizes(assert_equivalent([*packets[:2], carried])) == [2, 1]
    low = next(n for n in range(2**16) if Made(number=n, payload=bytes(100)).bytes()[10:12] == b"\0\1")
    packets = [m.bytes() for m in run_of(3, Made(number=low))]
    borrowed = patched(packets[2][:9] + b"\5" + packets[2][10:], 10, 0xFFFF)
    assert coalesce([*packets[:2], borrowed])[1:] == [borrowed]


def test_a_joined_packet_keeps_within_65535_bytes_and_the_kernels_number_of_datagrams() -> None:
    packets = [m.bytes() for m in run_of(100, Made(), 1400)]
    joined = assert_equivalent(packets)
    assert sizes(joined) == [46, 46, 8]
    assert 65_535 - 1400 < len(joined[0].data if isinstance(joined[0], SuperPacket) else b"") <= 65_535
    datagrams = [m.bytes() for m in run_of(150, Made(is_tcp=False), 10)]
    assert sizes(assert_equivalent(datagrams)) == [MAX_JOINED_DATAGRAMS] * 2 + [22]
    tiny = [m.bytes() for m in run_of(5, Made(), MIN_SEGMENT_BYTES - 1)]
    assert assert_equivalent(tiny) == tiny
    small = [m.bytes() for m in run_of(5, Made(), MIN_SEGMENT_BYTES)]
    assert sizes(assert_equivalent(small)) == [5]
    assert MAX_JOINED_BYTES // MIN_SEGMENT_BYTES < MAX_SEGMENTS
    assert coalesce([]) == []


# A sender's packets, as a network may deliver them: each action makes one packet of a flow, or spoils its last one.
FLOWS = [
    replace(base, port=1000 + index, number=number, sequence=sequence)
    for index, (base, number, sequence) in enumerate(
        [
            (BASES[0], 100, 2**32 - 500),
            (BASES[1], 0xFFFC, 7),
            (BASES[2], 5, 9),
            (BASES[4], 0, 0),
            (BASES[5], 77, 0),
            (BASES[6], 0xFFFE, 0),
            (BASES[7], 0, 0),
        ]
    )
]
ACTIONS = [
    *["next"] * 14,
    *[
        "short",
        "push",
        "push short",
        "lose",
        "repeat",
        "mark",
        "unmark",
        "window",
        "acknowledge",
        "tick",
        "same number",
    ],
    *["number", "FIN", "SYN", "RST", "URG", "ECE", "CWR", "empty", "options", "extension", "fragment", "unsummed"],
    *["bad payload", "bad checksum", "bad ip checksum", "bad length", "cut", "ttl", "noise", "ping"],
]
SIZE = 48


class Sender:
    """One flow's source: makes a packet for an action, and remembers where it is."""

    def __init__(self, base: Made) -> None:
        self.now = base
        self.latest = b""
        self.count = 0

    def packet(self, action: str) -> bytes:
        self.count += 1
        size = {"short": 20, "push short": 20, "empty": 0}.get(action, SIZE)
        flags = {"push": PSH, "push short": PSH, "FIN": FIN, "SYN": SYN, "RST": RST, "URG": URG, "ECE": ECE, "CWR": CWR}
        match action:
            case "mark":
                self.now = replace(self.now, tos=self.now.tos | 3)
            case "unmark":
                self.now = replace(self.now, tos=2)
            case "window":
                self.now = replace(self.now, window=self.now.window + 1)
            case "acknowledge":
                self.now = replace(self.now, acknowledged=self.now.acknowledged + 1)
            case "tick" if self.now.tcp_options:
                self.now = replace(self.now, tcp_options=TIMESTAMPS[:-1] + bytes([self.count & 255]))
            case "ttl":
                self.now = replace(self.now, ttl=self.now.ttl ^ 1)
            case "same number":
                self.now = replace(self.now, number=self.now.number - 1)
            case "number":
                self.now = replace(self.now, number=self.now.number + 5)
            case _:
                pass  # it concerns this one packet alone
        made = replace(self.now, payload=text_of(size, self.count), flags=ACK | flags.get(action, 0))
        if action == "options" and made.version == 4:
            made = replace(made, options=b"\x94\x04\0\0")
        if action == "extension" and made.version == 6:
            made = replace(made, extension=b"\x06\0\1\4\0\0\0\0")
        if action == "fragment":
            made = replace(made, fragment=0x2000)
        self.now = replace(self.now, number=self.now.number + 1, sequence=self.now.sequence + size)
        packet = made.bytes()
        at = 20 if made.version == 4 else 40
        match action:
            case "repeat" if self.latest:
                return self.latest
            case "unsummed" if not made.is_tcp:
                packet = patched(packet, at + 6, 0)
            case "bad payload":
                packet = spoilt(packet, -1)
            case "bad checksum":
                packet = spoilt(packet, at + (17 if made.is_tcp else 7))
            case "bad ip checksum" if made.version == 4:
                packet = spoilt(packet, 11)
            case "bad length":
                packet = spoilt(packet, 3 if made.version == 4 else 5)
            case "cut":
                packet = packet[: at + 9]
            case "noise":
                packet = packet[: self.count % 50]
            case "ping":
                packet = b"\x45\0\0\x1c" + bytes(5) + b"\1" + bytes(18)
            case _:
                pass  # it was made so, or is an ordinary one
        self.latest = packet
        return packet


SCRIPTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS), st.integers(1, 4)), max_size=40)
SWAPS = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 4)), max_size=4)


def delivered(
    flows: Sequence[Made], script: Sequence[tuple[int, str, int]], swaps: Sequence[tuple[int, int]]
) -> list[bytes]:
    """The packets of all senders in the order of their arrival."""
    senders = [Sender(base) for base in flows]
    packets = []
    for which, action, times in script:
        sender = senders[which % len(senders)]
        for _ in range(times):
            packet = sender.packet(action)
            if action != "lose":
                packets.append(packet)
    for place, distance in swaps:
        if packets:
            packets.insert((place + distance) % len(packets), packets.pop(place % len(packets)))
    return packets


@settings(max_examples=250, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(FLOWS), min_size=1, max_size=3, unique=True), SCRIPTS, SWAPS)
def test_what_the_kernel_sees_is_what_it_would_have_seen_one_by_one(
    flows: list[Made], script: list[tuple[int, str, int]], swaps: list[tuple[int, int]]
) -> None:
    packets = delivered(flows, script, swaps)
    joined = assert_equivalent(packets)
    event(f"joined: {min(3, len(packets) - len(joined))}")


SOUND = [action for action in ACTIONS if not action.startswith("bad") and action not in {"noise", "cut", "ping"}]


@settings(max_examples=120, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from(FLOWS), min_size=1, max_size=3, unique=True),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(SOUND), st.integers(1, 4)), max_size=40),
    SWAPS,
    st.booleans(),
)
def test_whoever_verifies_the_kernel_sees_the_same(
    flows: list[Made], script: list[tuple[int, str, int]], swaps: list[tuple[int, int]], is_kernel: bool
) -> None:
    packets = delivered(flows, script, swaps)
    assert_equivalent(packets, Checksums.LET_KERNEL_VERIFY if is_kernel else Checksums.VERIFY)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from(FLOWS), min_size=1, max_size=3, unique=True),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(SOUND), st.integers(1, 4)), max_size=40),
    SWAPS,
    st.booleans(),
)
def test_with_checksums_vouched_for_the_kernel_sees_whole_packets_however_partial_they_were(
    flows: list[Made], script: list[tuple[int, str, int]], swaps: list[tuple[int, int]], is_partial: bool
) -> None:
    packets = delivered(flows, script, swaps)
    plain = [p for p in packets if flow_of(p) and (p[0] == 0x45 or p[6] in (6, 17))]
    unsummed = [
        p for p in plain if p[9 if p[0] == 0x45 else 6] == 17 and p[26 if p[0] == 0x45 else 46 :][:2] == b"\0\0"
    ]
    given_in = [
        p if p in unsummed or p not in plain or not is_partial else with_partial_checksums([p])[0] for p in packets
    ]
    again = [one for packet in coalesce(given_in, Checksums.GOOD) for one in cut(packet)]
    assert by_flow(again) == by_flow(packets)


SEEDS = [m.bytes() for base in BASES for m in run_of(3, base)]


@settings(max_examples=250, derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(SEEDS),
            st.builds(
                lambda packet, at, by: spoilt(packet, at, by),
                st.sampled_from(SEEDS),
                st.integers(0, 80),
                st.integers(0, 255),
            ),
            st.builds(lambda packet, length: packet[:length], st.sampled_from(SEEDS), st.integers(0, 100)),
        ),
        max_size=30,
    ),
    st.sampled_from(Checksums),
)
def test_hostile_packets_raise_nothing_and_none_is_lost_or_made_up(packets: list[bytes], checksums: Checksums) -> None:
    joined = coalesce(packets, checksums)
    assert len(joined) <= len(packets)
    assert sum(len(p.data if isinstance(p, SuperPacket) else p) for p in joined) <= sum(map(len, packets))
    again = [one for packet in joined for one in cut(packet)]
    assert again == [] or set(map(len, again)) <= set(map(len, packets))
    match checksums:
        case Checksums.VERIFY:
            assert_equivalent(packets)
        case Checksums.LET_KERNEL_VERIFY:
            assert set(map(without_idle_number, again)) <= set(map(without_idle_number, packets))
        case Checksums.GOOD:
            assert len(again) == len(packets)
