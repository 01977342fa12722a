"""The order in which packets of the host reach the sessions."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import trio.testing
from session_world import inner_packet

from holloway.actors.router import Router
from holloway.actors.tun_reader import TunReader
from holloway.protocols.express import SHORT_BYTES
from holloway.protocols.packets import Packet, SuperPacket, UnfinishedPacket
from holloway.simulations.ports import SimulatedTun


class Peer:
    def __init__(self, name: str, log: list[tuple[str, list[Packet]]]) -> None:
        self.name, self._log = name, log

    def offer_packets(self, packets: list[Packet]) -> None:
        self._log.append((self.name, packets))

    def begin_sending(self) -> Peer:
        self.turns += 1
        return self

    def take(self, packet: SuperPacket) -> bool:
        assert self.turns == 1
        if self.is_usual:
            self._log.append((f"{self.name} at once", [packet]))
        return self.is_usual

    def close(self) -> None:
        self.turns -= 1

    is_usual, turns = True, 0


def packet_to(last: int, size: int = 84) -> bytes:
    whole = bytearray(inner_packet(1, size))
    whole[16:20] = bytes((10, 0, 0, last))
    return bytes(whole)


def reader(log: list[tuple[str, list[Packet]]], router: Router | None = None) -> TunReader:
    router = router or Router([])
    for last in (2, 3, 4):
        peer: Any = Peer(f"peer {last}", log)
        router.assign(peer, (ip_network(f"10.0.0.{last}"),))
    return TunReader(SimulatedTun("hw0", 1420), router)


def test_whoever_is_sent_least_comes_first_and_packets_keep_their_order() -> None:
    log: list[tuple[str, list[Packet]]] = []
    bulk: list[Packet] = [SuperPacket(packet_to(2, 60_000), 1368) for _ in range(3)]
    middling: list[Packet] = [packet_to(3, 1000), packet_to(3, 900)]
    ping = packet_to(4)
    reader(log).offer([*bulk, *middling, ping])
    assert log == [("peer 4", [ping]), ("peer 3", middling), ("peer 2", bulk)]


class Device(SimulatedTun):
    """One that has more."""

    def __init__(self, following: list[Packet]) -> None:
        super().__init__("hw0", 1420)
        self._following = following

    def more(self) -> Packet | None:
        return self._following.pop(0) if self._following else None


@pytest.mark.parametrize("is_usual", [True, False])
def test_of_a_bulk_flow_each_packet_goes_all_the_way_and_none_overtakes(
    monkeypatch: pytest.MonkeyPatch, is_usual: bool
) -> None:
    monkeypatch.setattr(Peer, "is_usual", is_usual)
    log: list[tuple[str, list[Packet]]] = []
    router = Router([])
    tun = reader(log, router)
    long = [SuperPacket(packet_to(last, 60_000), 1368) for last in (2, 2, 4, 9, 9, 2)]
    short, ack, ping = SuperPacket(packet_to(2, 9_000), 1368), packet_to(2, 52), packet_to(3)
    following: list[Packet] = [long[1], ping, short, *long[2:]]
    tun.carry([ack, long[0]], Device(following))
    way = " at once" * is_usual
    assert log == [
        ("peer 2", [ack]),
        ("peer 2" + way, [long[0]]),
        ("peer 2" + way, [long[1]]),
        ("peer 3", [ping]),
        ("peer 2", [short]),
        ("peer 4" + way, [long[2]]),
        ("peer 2" + way, [long[5]]),
    ]
    assert router.drops == {"no_route": 2}, "each one that nobody gets is counted"


def test_an_empty_packet_behind_a_bulk_flow_is_counted_too() -> None:
    log: list[tuple[str, list[Packet]]] = []
    router = Router([])
    tun = reader(log, router)
    long = SuperPacket(packet_to(2, 60_000), 1368)
    tun.carry([long], Device([long, b"", long]))
    assert [name for name, _ in log] == ["peer 2 at once"] * 3
    assert router.drops == {"not_ip": 1}


def test_a_destination_is_not_taken_for_a_part_of_an_address_of_the_other_family() -> None:
    log: list[tuple[str, list[Packet]]] = []
    router = Router([])
    tun = reader(log, router)
    other: Any = Peer("other", log)
    router.assign(other, (ip_network("fd00::/16"),))
    header = (
        bytes([0x60, 0, 0, 0, 0xEA, 0x38, 6, 64]) + b"\xfd" * 8 + bytes((10, 0, 0, 2)) + bytes(4) + b"\xfd" + bytes(15)
    )
    six, four = SuperPacket(header + bytes(59_960), 1368), SuperPacket(packet_to(2, 60_000), 1368)
    tun.carry([six], Device([four, six, four]))
    assert [name for name, _ in log] == ["other at once", "peer 2 at once"] * 2


class Answering(Peer):
    """One whose turn ends with a look for answers."""

    def __init__(self, name: str, log: list[tuple[str, list[Packet]]], tun: TunReader) -> None:
        super().__init__(name, log)
        self._tun = tun

    def offer_packets(self, packets: list[Packet]) -> None:
        super().offer_packets(packets)
        self._tun.take_answers()


def test_what_the_host_sends_later_overtakes_nothing_that_is_handed_on() -> None:
    log: list[tuple[str, list[Packet]]] = []
    router = Router([])
    tun = reader(log, router)
    port = tun.port
    assert isinstance(port, SimulatedTun)
    for last in (2, 3):
        peer: Any = Answering(f"peer {last}", log, tun)
        router.assign(peer, (ip_network(f"10.0.0.{last}"),))
    long, later = SuperPacket(packet_to(2, 60_000), 1368), packet_to(2, 90)
    port.inject([later])
    tun.carry([packet_to(2), packet_to(3), long], Device([]))
    assert ("peer 2", [later]) not in log
    assert log[-1] == ("peer 2 at once", [long])
    tun.offer([packet_to(2), packet_to(3)])
    assert ("peer 2", [later]) not in log
    tun.take_answers()
    assert log[-1] == ("peer 2", [later])


def test_nothing_more_is_asked_for_after_packets_that_are_no_bulk() -> None:
    log: list[tuple[str, list[Packet]]] = []
    later: list[Packet] = [packet_to(3)]
    reader(log).carry([packet_to(2)], Device(later))
    assert len(log) == len(later) == 1


async def test_what_the_host_answers_at_once_is_taken_without_waiting(autojump_clock: trio.testing.MockClock) -> None:
    log: list[tuple[str, list[Packet]]] = []
    tun = reader(log)
    port = tun.port
    assert isinstance(port, SimulatedTun)
    tun.take_answers()
    assert log == [], "there was none"
    answer = packet_to(3)
    port.inject([answer])
    assert tun.write([packet_to(2)]), "a lone packet may be answered"
    tun.take_answers()
    assert log == [("peer 3", [answer])]
    assert not tun.write([packet_to(2)] * 3), "a bulk flow brings its own"
    assert len(await port.collect()) == 4


def test_superseded_acknowledgements_stay_here_and_are_counted() -> None:
    log: list[tuple[str, list[Packet]]] = []

    def acknowledgement(number: int) -> bytes:
        packet = bytearray(packet_to(2, 40))
        packet[9], packet[28:32], packet[32:34] = 6, number.to_bytes(4, "big"), b"\x50\x10"
        return bytes(packet)

    router = Router([])
    tun = reader(log, router)
    first, second, third = (acknowledgement(number) for number in (100, 200, 300))
    tun.offer([first])
    tun.offer([second, third, packet_to(3)])
    assert log == [("peer 2", [first]), ("peer 2", [third]), ("peer 3", [packet_to(3)])]
    assert router.superseded == 1
    assert not router.drops


class Picky(Peer):
    """One that takes by the sparse lane what is short."""

    def offer_lone(self, packet: bytes, *, is_sparse: bool = False, count: int = 1) -> bool:
        is_taken = len(packet) < 100 * count and self.is_usual
        if is_taken:
            self._log.append((f"{self.name} {'sparse' if is_sparse else 'alone'}", [packet]))
        return is_taken


def udp_to(last: int) -> bytes:
    """With a wrong checksum."""
    whole = bytearray(packet_to(last, 40))
    whole[9] = 17
    whole[20:28] = bytes((0, 7, 0, 7, 0, 20, 1, 2))
    return bytes(whole)


@pytest.mark.parametrize("is_usual", [True, False])
def test_what_is_sparse_goes_by_its_lane_one_by_one_or_all_of_it_by_the_other(
    monkeypatch: pytest.MonkeyPatch, is_usual: bool
) -> None:
    monkeypatch.setattr(Peer, "is_usual", is_usual)
    log: list[tuple[str, list[Packet]]] = []
    router = Router([])
    tun = reader(log, router)
    four: Any = Picky("four", log)
    six: Any = Picky("six", log)
    router.assign(four, (ip_network("10.0.0.5"),))
    router.assign(six, (ip_network("fd00::/8"),))
    in_six = bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + b"\xfd" * 32 + bytes((0, 7, 0, 7, 0, 8, 0, 0))
    unfinished = UnfinishedPacket(udp_to(5))
    nowhere, malformed = packet_to(9), b"\x30"
    long = packet_to(5, SHORT_BYTES - 100)
    packets: list[Packet] = [packet_to(5), in_six, unfinished, long, nowhere, malformed]
    tun.offer_sparse(packets)
    finished = unfinished.finished()
    assert finished != unfinished
    if is_usual:
        assert log == [
            ("four sparse", [packet_to(5) + finished]),
            ("six sparse", [in_six]),
            ("four", [long]),
        ]
    else:
        assert sorted(log) == [("four", [packet_to(5), finished, long]), ("six", [in_six])]
    assert router.drops == {"no_route": 1, "not_ip": 1}, "counted once"
    log.clear()
    for packet in packets:
        tun.offer_sparse_lone(packet)
    assert [name for name, _ in log] == [f"{name}{' sparse' * is_usual}" for name in ("four", "six", "four")] + ["four"]
    assert router.drops == {"no_route": 2, "not_ip": 2}


@pytest.mark.parametrize("answers_sparse", [True, False])
def test_an_answer_goes_by_the_lane_that_it_was_found_in(answers_sparse: bool) -> None:
    log: list[tuple[str, list[Packet]]] = []
    device, router = SimulatedTun("hw0", 1420), Router([])
    device.answers_sparse = answers_sparse
    peer: Any = Picky("peer", log)
    router.assign(peer, (ip_network("10.0.0.5"),))
    TunReader(device, router).answer_lone(packet_to(5))
    assert log == [("peer sparse" if answers_sparse else "peer alone", [packet_to(5)])]
