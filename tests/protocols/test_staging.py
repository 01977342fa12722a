"""Packets before there is a key: bounded, newest kept, super-packets cut up."""

from __future__ import annotations

from session_world import inner_packet

from holloway.protocols.packets import SuperPacket
from holloway.protocols.staging import STAGED_PACKETS, Staging, unfold


def test_the_newest_packets_are_kept_in_order_and_the_rest_counted() -> None:
    staging = Staging()
    packets = [b"%d" % number for number in range(300)]
    assert staging.put(packets[:100]) == 0
    assert staging.put(packets[100:130]) == 2
    assert staging.put(packets[130:]) == 170
    assert len(staging) == STAGED_PACKETS == 128
    assert staging.take() == packets[-128:]
    assert len(staging) == 0
    assert staging.take() == []


def test_super_packets_become_their_segments_in_place() -> None:
    udp = bytes.fromhex("0001000200000000")
    header = bytes.fromhex("4500011600000000401100000a0000010a000002")
    whole, malformed = unfold(
        [inner_packet(0), SuperPacket(header + udp + b"x" * 250, 100), SuperPacket(b"junk", 100), inner_packet(1)]
    )
    assert malformed == 1
    assert whole[0] == inner_packet(0)
    assert whole[-1] == inner_packet(1)
    assert [len(packet) for packet in whole[1:-1]] == [128, 128, 78]
