"""Super-packets and batches for tests of records, and what a kernel would see of them packet by packet."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from session_world import inner_packet

from holloway.protocols.coalescing import Checksums, coalesce
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.record_wire import (
    Record,
    RecordKind,
)
from holloway.protocols.records import packets_of, super_packets_of


def text_of(length: int) -> bytes:
    return bytes((n * 7 + n // 251) & 255 for n in range(length))


def super_packet(
    payload: int,
    size: int,
    *,
    version: int = 4,
    tcp: bool = True,
    serial: int = 0,
    flags: int = 0x18,
    options: int = 12,
) -> SuperPacket:
    """A super-packet as a device gives it: lengths right, transport checksum unfinished, IP checksum not there at all."""
    text = text_of(payload)
    if tcp:
        words = 5 + options // 4
        sequence = (0xFFFF_F000 + serial * 100_000) & 0xFFFF_FFFF
        head = struct.pack(">HHIIBBHHH", 443, 4000 + serial, sequence, 7, words << 4, flags, 512, 1, 0)
        head += b"\x01" * options
    else:
        head = struct.pack(">HHHH", 443, 4000 + serial, (8 + payload) & 0xFFFF, 0)
    if version == 4:
        total = 20 + len(head) + payload
        number = (0xFFF0 + serial * 500) & 0xFFFF
        ip = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, total, number, 0x4000, 64, 6 if tcp else 17, 0, b"\n\0\0\1", b"\n\0\0\2"
        )
    else:
        ip = struct.pack(">IHBB16s16s", 6 << 28, len(head) + payload, 6 if tcp else 17, 64, b"\xfd" * 16, b"\xfc" * 16)
    return SuperPacket(ip + head + text, size)


def segments_of(packet: Packet) -> list[bytes]:
    return packet.segments() if isinstance(packet, SuperPacket) else [packet]


def one_by_one(record: Record) -> list[bytes]:
    """Every packet that a kernel would see of a record, in order."""
    if record.kind is RecordKind.SUPER_PACKETS:
        supers = super_packets_of(record.plaintext, record.datagrams)
        assert supers is not None
        return [segment for packet in supers for segment in packet.segments()]
    packets = packets_of(record.plaintext, record.datagrams)
    assert packets is not None
    if record.kind is RecordKind.UNFINISHED:
        return [segment for packet in packets for segment in segments_of(coalesce([packet], Checksums.GOOD)[0])]
    return packets


@st.composite
def batches(draw: st.DrawFn) -> list[Packet]:
    kinds = draw(st.lists(st.sampled_from(["plain", "tcp", "udp", "lone"]), max_size=6))
    batch: list[Packet] = []
    for serial, kind in enumerate(kinds):
        version = draw(st.sampled_from([4, 6]))
        if kind == "plain":
            batch.append(inner_packet(serial, draw(st.integers(36, 1600))))
        elif kind == "lone":
            batch.append(
                super_packet(
                    draw(st.integers(0, 1300)), 0xFFFE, version=version, tcp=draw(st.booleans()), serial=serial
                )
            )
        else:
            size = draw(st.sampled_from([100, 536, 1208, 1368, 1500]))
            payload = draw(st.integers(0, 65_535 - 72 if size > 500 else 20_000))
            flags = draw(st.sampled_from([0x10, 0x18, 0x19, 0x98, 0xD9]))
            options = draw(st.sampled_from([0, 12, 40]))
            batch.append(
                super_packet(
                    min(payload, 65_535 - 20 - 20 - options) if kind == "tcp" else min(payload, 65_535 - 28),
                    size,
                    version=version,
                    tcp=kind == "tcp",
                    serial=serial,
                    flags=flags,
                    options=options,
                )
            )
    return batch
