"""Captures: read by scapy, and by tcpdump where it is installed, and made of the datagrams of real runs."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import PcapNgReader
from scapy_oracle import IP, UDP, IPv6, ScapyPacket, parsed, with_fresh_checksums

from holloway.protocols.addresses import Address
from holloway.protocols.errors import LocalError
from holloway.protocols.packets import internet_checksum
from holloway.simulations.capture import MAX_PACKET_BYTES, Capture
from holloway.simulations.clocks import WALL_START_NS

FIRST: Address = ("192.0.2.1", 1099)
SECOND: Address = ("198.51.100.2", 20_000)
FIRST6: Address = ("fe80::1%eth0", 1099, 0, 3)
SECOND6: Address = ("2001:db8::2", 53, 0, 0)
INNER = bytes.fromhex("4500001c00000000401166350a4d00010a4d00020007000800080000")
PORTS = st.integers(0, 65_535)


def read(data: bytes) -> list[ScapyPacket]:
    """The packets as scapy reads them, each below the header of four bytes that says its family."""
    reader = PcapNgReader(io.BytesIO(data))  # type: ignore[arg-type]  # a file will do
    found = []
    while True:
        try:
            found.append(reader.read_packet(size=1 << 17))
        except EOFError:
            return found


def raw(packet: ScapyPacket) -> bytes:
    return bytes(packet.original)[4:]


def captured(datagram: bytes, source: Address, destination: Address) -> ScapyPacket:
    file = io.BytesIO()
    Capture(file).wire(0, source, destination, datagram)
    (packet,) = read(file.getvalue())
    return packet


@settings(deadline=None)
@given(st.binary(max_size=1500), st.ip_addresses(v=4), st.ip_addresses(v=4), PORTS, PORTS)
def test_a_datagram_on_the_wire_is_an_ipv4_packet_with_right_checksums(
    datagram: bytes, source: object, destination: object, port: int, other_port: int
) -> None:
    packet = captured(datagram, (str(source), port), (str(destination), other_port))
    assert (packet[IP].src, packet[IP].dst) == (str(source), str(destination))
    assert (packet[UDP].sport, packet[UDP].dport) == (port, other_port)
    whole = raw(packet)
    assert whole[28:] == datagram
    assert with_fresh_checksums(whole) == whole


@settings(deadline=None)
@given(st.binary(max_size=1500), st.ip_addresses(v=6), st.ip_addresses(v=6), PORTS, PORTS)
def test_a_datagram_on_the_wire_is_an_ipv6_packet_with_a_right_checksum(
    datagram: bytes, source: object, destination: object, port: int, other_port: int
) -> None:
    packet = captured(datagram, (str(source), port, 0, 0), (str(destination), other_port, 0, 0))
    whole = raw(packet)
    assert bytes(packet.original)[:4] == b"\x18\0\0\0"  # scapy knows this family by name, and goes no further
    assert whole[40 + 8 :] == datagram
    assert parsed(whole)[IPv6].plen == len(datagram) + 8
    assert with_fresh_checksums(whole) == whole


def test_a_checksum_that_comes_out_as_zero_is_written_as_all_ones() -> None:
    zeroes = captured(b"\0\0", FIRST, SECOND)[UDP].chksum
    datagram = zeroes.to_bytes(2, "big")  # added to the sum it makes it 65535, whose complement is 0
    whole = raw(captured(datagram, FIRST, SECOND))
    assert whole[26:28] == b"\xff\xff"
    assert internet_checksum(whole[12:20] + bytes((0, 17)) + whole[24:26] + whole[20:]) == 0


def test_a_link_local_address_loses_its_scope() -> None:
    packet = parsed(raw(captured(b"hello", FIRST6, SECOND6)))
    assert (packet[IPv6].src, packet[IPv6].dst, packet[UDP].sport, packet[UDP].dport) == (
        "fe80::1",
        "2001:db8::2",
        1099,
        53,
    )


def test_times_are_virtual_nanoseconds_after_the_start_of_the_wall_clock() -> None:
    file = io.BytesIO()
    capture = Capture(file)
    times = [0, 1, 1_500_000_001, 90 * 10**9 + 999_999_999]
    for at_ns in times:
        capture.wire(at_ns, FIRST, SECOND, b"x")
    seen = [packet.time for packet in read(file.getvalue())]  # scapy's time is a decimal
    assert [round((each - WALL_START_NS // 10**9) * 10**9) for each in seen] == times


def test_the_wire_and_each_node_are_interfaces_of_their_own() -> None:
    file = io.BytesIO()
    capture = Capture(file)
    capture.wire(1, FIRST, SECOND, b"sealed")
    capture.inside(2, "a", INNER, is_entering=True)
    capture.inside(3, "b", INNER)
    capture.inside(4, "a", INNER)
    packets = read(file.getvalue())
    assert [packet.sniffed_on for packet in packets] == ["wire", "a inside", "b inside", "a inside"]
    assert [packet.direction for packet in packets] == [2, 2, 1, 1]  # 1 is inbound, out of the tunnel and into the node
    assert [raw(packet) for packet in packets[1:]] == [INNER] * 3


def test_the_same_calls_give_the_same_bytes() -> None:
    files = io.BytesIO(), io.BytesIO()
    for file in files:
        capture = Capture(file)
        capture.inside(7, "a", INNER)
        capture.wire(8, FIRST6, SECOND6, b"again")
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize(
    ("at_ns", "source", "destination", "size"),
    [
        (0, FIRST, SECOND6, 1),
        (0, ("no address", 1), SECOND, 1),
        (0, ("192.0.2.1", 65_536), SECOND, 1),
        (0, FIRST, SECOND, 65_508),
        (0, FIRST6, SECOND6, 65_528),
        (-1, FIRST, SECOND, 1),
    ],
)
def test_what_no_datagram_can_be_is_refused_and_nothing_is_written(
    at_ns: int, source: Address, destination: Address, size: int
) -> None:
    file = io.BytesIO()
    capture = Capture(file)
    before = file.getvalue()
    with pytest.raises(LocalError):
        capture.wire(at_ns, source, destination, bytes(size))
    assert file.getvalue() == before


def test_a_packet_larger_than_any_is_refused_and_the_largest_is_not() -> None:
    file = io.BytesIO()
    capture = Capture(file)
    with pytest.raises(LocalError):
        capture.inside(0, "a", bytes(MAX_PACKET_BYTES + 1))
    capture.wire(0, FIRST, SECOND, bytes(65_507))
    capture.wire(0, FIRST6, SECOND6, bytes(65_527))
    assert [len(raw(packet)) for packet in read(file.getvalue())] == [65_535, MAX_PACKET_BYTES]


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is missing: apt-get install tcpdump")
def test_tcpdump_reads_it_and_finds_every_checksum_right(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    with path.open("wb") as file:
        capture = Capture(file)
        capture.wire(1_000_000_002, FIRST, SECOND, b"one")
        capture.wire(2_000_000_003, ("fd00::1", 1099, 0, 0), ("fd00::2", 1099, 0, 0), b"three")
        capture.inside(3_000_000_004, "a", INNER)
    words = ["tcpdump", "-r", str(path), "-n", "-vv", "-tt", "--nano"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/usr/sbin:/bin"}
    )
    assert "192.0.2.1.1099 > 198.51.100.2.20000: [udp sum ok] UDP, length 3" in done.stdout
    assert "fd00::1.1099 > fd00::2.1099: [udp sum ok] UDP, length 5" in done.stdout
    assert "10.77.0.1.7 > 10.77.0.2.8" in done.stdout
    assert f"{WALL_START_NS // 10**9 + 1}.000000002 " in done.stdout
    assert "bad" not in done.stdout
