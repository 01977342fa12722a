"""Acknowledgements of one batch: what a TCP sender learns from those that are kept is what it would have learnt from all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import IP, TCP, UDP, IPOption, IPv6, IPv6ExtHdrDestOpt, Raw, parsed
from super_packets import super_packet

from holloway.protocols.acknowledgements import Row, without_superseded
from holloway.protocols.packets import Packet, UnfinishedPacket

STAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (7, 9))]


def ack(
    number: int, *, family: int = 4, flags: str = "A", stamps: bool = True, payload: bytes = b"", **more: Any
) -> bytes:
    """An acknowledgement as a kernel makes it; `more` are fields of scapy's TCP, and `tos`, `ttl`."""
    network = {each: more.pop(each) for each in ("tos", "frag", "far") if each in more}
    far = network.pop("far", 2)
    fields = {"sport": 5201, "dport": 40_000, "seq": 77, "window": 500, "options": STAMPS if stamps else []} | more
    tcp = TCP(ack=number % 2**32, flags=flags, **fields) / Raw(payload)
    if family == 4:
        return bytes(IP(src="10.9.0.1", dst=f"10.9.0.{far}", **network) / tcp)
    return bytes(IPv6(src="fd99::1", dst=f"fd99::{far}", tc=network.get("tos", 0)) / tcp)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("stamps", [True, False])
def test_of_a_row_the_last_is_kept(family: int, stamps: bool) -> None:
    row = [ack(number * 60_000, family=family, stamps=stamps) for number in range(1, 9)]
    assert without_superseded(row) == row[-1:]
    assert without_superseded([UnfinishedPacket(each) for each in row]) == row[-1:]


def test_numbers_go_round() -> None:
    row = [ack(2**32 - 5), ack(5)]
    assert without_superseded(row) == row[1:]
    assert without_superseded(row[::-1]) == row[::-1], "the later one is older"


def test_duplicates_at_the_end_stay() -> None:
    row = [ack(100), ack(200), ack(200), ack(200, window=501)]
    assert without_superseded(row) == row[1:]


SPECIAL = {
    "payload": ack(150, payload=b"x"),
    "of another connection": ack(150, sport=5202),
    "to another host": ack(150, far=3),
    "of another class": ack(150, tos=4),
    "sack": ack(150, options=[*STAMPS, ("NOP", None), ("NOP", None), ("SAck", (300, 400))]),
    "sack alone": ack(150, options=[("NOP", None), ("NOP", None), ("SAck", (300, 400))]),
    "with urgent data": ack(150, flags="AU"),
    "ece": ack(150, flags="AE"),
    "cwr": ack(150, flags="AC"),
    "fin": ack(150, flags="AF"),
    "push": ack(150, flags="AP"),
    "reset": ack(150, flags="AR"),
    "accurate ecn": ack(150, reserved=1),
    "another place in the stream": ack(150, seq=78),
    "a fragment": ack(150, frag=5),
    "with ip options": bytes(IP(src="10.9.0.1", dst="10.9.0.2", options=[IPOption(b"\x01")]) / TCP(bytes(32))),
    "with an extension header": bytes(IPv6(src="fd99::1", dst="fd99::2") / IPv6ExtHdrDestOpt() / TCP(bytes(20))),
    "udp": bytes(IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=5201, dport=40_000) / Raw(bytes(24))),
    "garbage": bytes(52),
    "longer than it says": ack(150)[:-1] + b"xx",
    "shorter than it says": ack(150)[:40],
}


@pytest.mark.parametrize("what", SPECIAL)
def test_nothing_special_is_left_out(what: str) -> None:
    special = SPECIAL[what]
    for row in ([special, ack(200)], [special, ack(200), ack(300)]):
        assert special in without_superseded(row)


@pytest.mark.parametrize(
    "what", [each for each in SPECIAL if not each.startswith(("of another", "to another", "another"))]
)
def test_what_comes_before_something_special_stays(what: str) -> None:
    row = [ack(100), SPECIAL[what], ack(200)]
    assert without_superseded(row) == row


def superseded_as_they_come(packets: Sequence[bytes], skip: int = 10) -> list[bytes]:
    """What is left of them when each is looked at alone, as a device does it."""
    row, kept, is_row = Row(skip), list[bytes](), False
    for packet in packets:
        data = bytes(skip) + packet
        if len(data) != row.length:
            kept.append(packet)
            is_row = False
            continue
        if row.supersedes(data) and is_row:
            kept.pop()
        kept.append(packet)
        is_row = True
    return kept


@pytest.mark.parametrize("what", SPECIAL)
def test_nothing_special_is_left_out_as_they_come(what: str) -> None:
    special = SPECIAL[what]
    for row in ([special, ack(200)], [special, special, ack(200)], [ack(50), special, ack(200), ack(300)]):
        kept = superseded_as_they_come(row)
        assert kept.count(special) == row.count(special)
        assert set(without_superseded(row)) <= set(kept)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 2), st.sampled_from(["A", "A", "A", "AE"])), max_size=20))
def test_what_is_left_out_as_they_come_is_left_out_anyway(row: list[tuple[int, int, str]]) -> None:
    packets = [ack(number * 1000, sport=port, flags=flags) for number, port, flags in row]
    kept = superseded_as_they_come(packets)
    assert list(without_superseded(kept)) == list(without_superseded(packets))
    if len({(port, flags) for _, port, flags in row}) == 1 and row[0][2] == "A":
        assert kept == list(without_superseded(packets))


def test_several_connections_may_take_turns() -> None:
    one, other = [ack(n * 100) for n in range(4)], [ack(n * 100, sport=5202) for n in range(4)]
    row = [each for pair in zip(one, other, strict=True) for each in pair]
    assert without_superseded(row) == [one[-1], other[-1]]


def test_super_packets_are_kept_where_they_are() -> None:
    row: list[Packet] = [ack(100), super_packet(3000, 1368), ack(200), ack(300)]
    assert without_superseded(row) == [row[0], row[1], row[3]]


def acknowledged(packets: Sequence[bytes]) -> tuple[object, ...]:
    """What the sender of the data knows afterwards, by scapy: how far all came, the last window, the duplicates of the end."""
    highest, last, duplicates = 0, None, 0
    for packet in packets:
        tcp = parsed(packet)[TCP]
        duplicates = duplicates + 1 if tcp.ack == highest else 0
        highest, last = max(highest, tcp.ack), (tcp.ack, tcp.window)
    return highest, last, duplicates


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([4, 6]),
            st.integers(1, 3),
            st.booleans(),
            st.sampled_from(["A", "A", "A", "AE"]),
        ),
        max_size=20,
    )
)
def test_a_sender_learns_as_much(row: list[tuple[int, int, int, bool, str]]) -> None:
    packets = [
        ack(number * 1000, family=family, sport=port, stamps=stamps, flags=flags)
        for number, family, port, stamps, flags in row
    ]
    kept = list(without_superseded(packets))
    left = iter(packets)
    assert all(any(each is packet for packet in left) for each in kept), "in order, and nothing else"
    for family in (4, 6):
        for port in (1, 2, 3):
            its = [
                [each for each in batch if each[0] >> 4 == family and parsed(each)[TCP].sport == port]
                for batch in (packets, kept)
            ]
            assert acknowledged(its[0]) == acknowledged(its[1])


@given(st.lists(st.binary(max_size=80) | st.sampled_from(list(SPECIAL.values())), max_size=8))
def test_any_bytes_are_only_looked_at(packets: list[bytes]) -> None:
    kept = without_superseded(packets)
    assert [each for each in packets if len(each) not in (40, 52, 60, 72)] == [
        each for each in kept if len(each) not in (40, 52, 60, 72)
    ]
