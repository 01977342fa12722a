"""Packets before there is a key: bounded in number and bytes, newest kept, nothing cut up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import inner_packet
from super_packets import super_packet

from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS, Staging


def length(packet: Packet) -> int:
    return len(packet.data) if isinstance(packet, SuperPacket) else len(packet)


def test_the_newest_packets_are_kept_in_order_and_the_rest_come_back() -> None:
    staging = Staging()
    packets: list[Packet] = [b"%d" % number for number in range(300)]
    assert staging.put(packets[:100]) == ([], [])
    assert staging.put(packets[100:130]) == (packets[:2], [])
    assert staging.put(packets[130:]) == (packets[2:172], [])
    assert len(staging) == STAGED_PACKETS == 128
    assert staging.peek() == tuple(packets[-128:])
    assert staging.take() == packets[-128:]
    assert (len(staging), staging.held_bytes) == (0, 0)
    assert staging.take() == []


def test_a_super_packet_is_one_packet_and_stays_whole() -> None:
    staging = Staging()
    batch: list[Packet] = [inner_packet(0), super_packet(60_000, 1368), SuperPacket(b"junk", 100), inner_packet(1)]
    assert staging.put(batch) == ([], [])
    assert len(staging) == 4
    assert staging.take() == batch


def test_old_packets_make_room_by_bytes_as_well() -> None:
    staging = Staging()
    supers: list[Packet] = [super_packet(65_535 - 52, 1368, serial=n) for n in range(20)]
    assert staging.put(supers) == (supers[:4], [])
    assert len(staging) == 16
    assert staging.held_bytes == 16 * 65_535 <= STAGED_BYTES
    # A small one still fits, one byte too much takes the oldest away.
    assert staging.put([bytes(STAGED_BYTES - 16 * 65_535)]) == ([], [])
    assert staging.held_bytes == STAGED_BYTES
    assert staging.put([b"x"]) == (supers[4:5], [])


@pytest.mark.parametrize("size", [STAGED_BYTES, STAGED_BYTES + 1])
def test_what_is_longer_than_all_the_room_there_is_comes_back_itself(size: int) -> None:
    staging = Staging()
    staging.put([b"before"])
    too_much = bytes(size)
    pushed_out = [b"before"] + [too_much] * (size > STAGED_BYTES)
    assert staging.put([too_much]) == (pushed_out, [])
    assert staging.held_bytes <= STAGED_BYTES


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 200_000), max_size=60), max_size=8))
def test_nothing_is_lost_but_what_comes_back_and_both_bounds_hold(sizes: list[list[int]]) -> None:
    staging = Staging()
    handed_in: list[Packet] = []
    came_back: list[Packet] = []
    for turn in sizes:
        packets: list[Packet] = [bytes(size) for size in turn]
        handed_in += packets
        displaced = staging.put(packets)
        assert displaced.by_memory == []
        came_back += displaced.by_bounds
        assert len(staging) <= STAGED_PACKETS
        assert staging.held_bytes == sum(map(length, staging.peek())) <= STAGED_BYTES
    assert came_back + staging.take() == handed_in
