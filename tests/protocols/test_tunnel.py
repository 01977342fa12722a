"""How long datagrams of a session are: searches, narrow paths and what they mean to senders, through whole sessions."""

from __future__ import annotations

import pytest
from scapy_oracle import IP, TCP, IPv6, parsed
from session_world import LATENCY_S, Node, World, inner_packet, name_of, sealed_record
from super_packets import super_packet

from holloway.protocols.arrivals import lone
from holloway.protocols.checksums import partial_checksum, pseudo_header_sum
from holloway.protocols.events import DropReason
from holloway.protocols.packets import (
    IPV4_HEADER_BYTES,
    PROTOCOL_UDP,
    Packet,
    SuperPacket,
    UnfinishedPacket,
    destination,
    internet_checksum,
    whole_packets,
)
from holloway.protocols.path_mtu import BASE_DATAGRAM_BYTES, GAP_BYTES, RAISE_S, PathMtu, Probe, ProbeAck
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_wire import Record, RecordKind
from holloway.protocols.runs import flatten
from holloway.protocols.session_config import DEFAULT_MTU
from holloway.protocols.states import State
from holloway.protocols.suites import WIREGUARD
from holloway.protocols.timers import Deadline
from holloway.protocols.too_big import too_big
from holloway.protocols.tunnel import OVERHEAD_BYTES, TOO_BIG_INTERVAL_S, clamped
from holloway.protocols.virtio import UDP_CHECKSUM_AT

BASE, MOST = BASE_DATAGRAM_BYTES, DEFAULT_MTU + OVERHEAD_BYTES
NARROW = 1300
SEARCH_S = 10.0
"""Longer than any search takes with the latency of these worlds."""
NOTICED_S = 0.6


def path_of(node: Node) -> PathMtu:
    return node.session._tunnel.path


def sizes(world: World) -> tuple[int, int]:
    return path_of(world.a).size, path_of(world.b).size


def keys_of(node: Node) -> RecordKeys:
    keys = node.session._ring.current
    assert isinstance(keys, RecordKeys)
    return keys


def settled(limit: int = MOST) -> World:
    """A session whose searches are over, on a path that bears datagrams of `limit` bytes."""
    world = World()
    world.network.limit = limit
    world.establish()
    world.run(SEARCH_S)
    assert path_of(world.a).is_settled
    assert path_of(world.b).is_settled
    return world


def sent_by(world: World, node: Node, start: int = 0) -> list[bytes]:
    return [datagram for datagram, source, _ in world.captured[start:] if source == node.address]


def named(datagrams: list[bytes], name: str) -> list[bytes]:
    return [datagram for datagram in datagrams if name_of(datagram) == name]


# The search.


def test_the_wanted_size_is_in_use_one_round_trip_after_the_handshake_in_both_directions() -> None:
    world = World()
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(2 * LATENCY_S + 0.001)
    assert world.a.session.state is State.ESTABLISHED
    assert sizes(world) == (BASE, BASE)
    world.run(2 * LATENCY_S)
    assert sizes(world) == (MOST, BASE)
    world.run(LATENCY_S)
    assert sizes(world) == (MOST, MOST)
    assert world.a.session._tunnel.room == DEFAULT_MTU
    for node in (world.a, world.b):
        assert Deadline.PATH not in node.session._timers._times, "nothing more is awaited"
        assert [len(probe) for probe in named(sent_by(world, node), "probe")] == [MOST]
        assert len(named(sent_by(world, node), "probe ack")) == 1
        assert node.session.drops == {}


@pytest.mark.parametrize("limit", [BASE, BASE + 8, 1300, 1400, 1451])
def test_the_limit_of_a_path_is_found_while_packets_pass_it(limit: int) -> None:
    world = World()
    world.network.limit = limit
    serials = []
    world.establish()
    for _ in range(int(SEARCH_S / 0.02)):
        serials += world.send(world.a, 2, 1400)
        world.send(world.b)
        world.run(0.02)
    world.run(LATENCY_S)
    for size in sizes(world):
        assert limit - GAP_BYTES < size <= limit
    assert not world.lost(serials, world.b), "the search puts no packet at stake"
    assert world.a.session.drops == world.b.session.drops == {}


@pytest.mark.parametrize("phase_s", [0.0, 0.04, 0.08, 0.12])
def test_a_path_that_gets_narrower_under_bulk_traffic_is_noticed_in_time(phase_s: float) -> None:
    world = World()
    world.network.latency_s = 0.03
    world.establish()
    world.run(1.0)

    def bulk(until: float) -> list[int]:
        serials: list[int] = []
        while world.now < until and path_of(world.a).size > BASE:
            serials += world.send(world.a, 4, DEFAULT_MTU)
            world.run(0.005)
        return serials

    assert not world.lost(bulk(world.now + 1.0 + phase_s)[:-100], world.b)
    assert sizes(world) == (MOST, MOST)
    world.network.limit, began = BASE, world.now
    lost = bulk(world.now + 5.0)
    assert world.now - began <= NOTICED_S
    assert world.lost(lost, world.b), "the path was narrow"
    start, serials = len(world.captured), []
    for _ in range(1000):
        serials += world.send(world.a, 4, DEFAULT_MTU)
        world.run(0.005)
    world.run(1.0)
    assert max(map(len, named(sent_by(world, world.a, start), "data"))) <= BASE
    assert not world.lost(serials, world.b)


def test_a_path_that_gets_wider_is_used_after_the_raise_timer_and_by_a_new_session_at_once() -> None:
    world = settled(NARROW)
    world.network.limit = MOST
    world.run(RAISE_S)
    assert sizes(world) < (NARROW, NARROW), "an idle session does not look"
    world.send(world.a)
    world.run(4 * LATENCY_S)
    world.send(world.a)
    world.run(1.0)
    assert path_of(world.a).size == MOST
    world = settled(NARROW)
    world.network.limit = MOST
    world.restart(world.b)
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(1.0)
    assert path_of(world.b).size == MOST
    assert path_of(world.a).size < NARROW, "to whom it is the same path under another key"


@pytest.mark.parametrize("limit", [MOST, NARROW, BASE])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_an_idle_session_sends_nothing_after_the_search(limit: int, loss: float) -> None:
    world = settled(limit)
    world.network.loss = loss
    world.send(world.a)
    world.send(world.b)
    world.run(60.0)
    start = len(world.captured)
    world.run(600.0)
    assert len(world.captured) == start
    world.run_until_quiet()
    assert world.a.session.next_timeout() is world.b.session.next_timeout() is None


def test_when_the_peer_is_elsewhere_the_search_begins_anew_from_base() -> None:
    world = settled()
    world.roam(world.a)
    world.network.limit = NARROW
    world.send(world.a)
    world.run(LATENCY_S + 0.001)
    assert sizes(world) == (MOST, BASE)
    start = len(world.captured)
    world.send(world.b, 1, DEFAULT_MTU)
    assert max(map(len, sent_by(world, world.b, start))) <= BASE
    world.run(SEARCH_S)
    assert NARROW - GAP_BYTES < path_of(world.b).size <= NARROW
    world.network.limit = MOST
    world.roam(world.a)
    world.send(world.a)
    world.run(4 * LATENCY_S)
    assert path_of(world.b).size == MOST
    # Whoever is heard where he was known to be has not moved.
    path_of(world.b).round_trip_s = 0.123
    world.send(world.a)
    world.run(LATENCY_S + 0.001)
    assert (path_of(world.b).size, path_of(world.b).round_trip_s) == (MOST, 0.123)


# What is not sent.


def test_packets_that_are_all_malformed_are_no_traffic() -> None:
    world = settled()
    start = len(world.captured)
    at = world.a.session.next_timeout()
    world.do(world.a, lambda session: session.send([SuperPacket(b"\x45 nothing", 10)], world.now))
    assert len(world.captured) == start
    assert world.a.session.next_timeout() == at, "no answer is awaited"
    assert world.a.session.drops == {DropReason.MALFORMED: 1}
    assert world.a.session.transmitted.packets == 0


def test_nothing_is_left_to_send_once_a_session_is_closed() -> None:
    world = settled()
    world.a.session.send([plain(4, 100)], world.now)
    world.a.session.close()
    assert world.a.session.runs_to_send() == []


# The wireguard suite.


def test_a_session_of_the_wireguard_suite_sends_no_probe_and_its_room_is_the_mtu() -> None:
    world = World(WIREGUARD)
    world.network.limit = NARROW
    world.establish()
    world.run(1.0)
    for _ in range(100):
        world.send(world.a, 1, DEFAULT_MTU)
        world.run(0.05)
    assert sizes(world) == (MOST, MOST)
    assert world.a.session._tunnel.room == DEFAULT_MTU
    assert Deadline.PATH not in world.a.session._timers._times
    assert world.probes == []
    assert {len(datagram) for datagram in named(sent_by(world, world.a), "data")} == {MOST}, (
        "for the network to fragment"
    )


# Hostile peers.


def arrive(world: World, *datagrams: bytes) -> list[bytes]:
    """Datagrams from `a` reach `b`; what `b` sends at once."""
    start = len(world.captured)
    for datagram in datagrams:
        world.arrive(datagram, world.a.address, world.b.address)
    return sent_by(world, world.b, start)


def sealed(node: Node, kind: RecordKind, plaintext: bytes, datagrams: int = 1) -> list[bytes]:
    """A record under the current key of `node`."""
    keys = keys_of(node)
    counter = keys._first_out + keys._take_counters(1)
    return sealed_record(keys._seal, keys.remote_index, counter, Record(kind, plaintext, datagrams))


def test_a_probe_is_answered_with_its_number_and_size_and_a_malformed_one_is_counted() -> None:
    world = settled()
    (answer,) = arrive(world, *sealed(world.a, RecordKind.PROBE, Probe(77, 900).encode()))
    (heard,) = keys_of(world.a).open(lone(answer, world.b.address), None, world.now)
    assert (heard.kind, ProbeAck.parse(heard.plaintext)) == (RecordKind.PROBE_ACK, ProbeAck(77, 900))
    for plaintext in (b"", Probe(1, 900).encode()[:-1], Probe(1, 900).encode()[:-1] + b"x"):
        assert arrive(world, *sealed(world.a, RecordKind.PROBE, plaintext)) == []
    assert world.b.session.drops == {DropReason.PROBE_MALFORMED: 3}
    assert world.b.session.last_received_at == world.now, "a peer that errs is heard"


def test_a_probe_that_came_in_several_datagrams_is_not_answered() -> None:
    world = settled()
    pieces = sealed(world.a, RecordKind.PROBE, Probe(77, 900).encode(), 2)
    assert len(pieces) == 2
    assert arrive(world, *pieces) == []
    assert world.b.session.drops == {DropReason.PROBE_MALFORMED: 1}


def test_an_acknowledgement_of_nothing_is_counted_and_changes_nothing() -> None:
    world = settled(NARROW)
    before = sizes(world)
    for plaintext in (ProbeAck(9999, MOST).encode(), ProbeAck(0, MOST).encode(), b"", bytes(7)):
        assert arrive(world, *sealed(world.a, RecordKind.PROBE_ACK, plaintext)) == []
    assert world.b.session.drops == {DropReason.PROBE_UNKNOWN: 4}
    assert sizes(world) == before


# Keys.


def test_probes_and_their_answers_are_sealed_under_the_current_key_only() -> None:
    world = settled()
    old = keys_of(world.b)
    late = sealed(world.a, RecordKind.PROBE, Probe(77, 900).encode())
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(LATENCY_S + 0.001)
    assert world.b.session._ring.next is not None
    start = len(world.captured)
    world.send(world.b, 1, DEFAULT_MTU)  # a confirmation is due
    (probe,) = named(sent_by(world, world.b, start), "probe")
    assert int.from_bytes(probe[:4], "little") == old.remote_index
    world.run(1.0)
    assert world.b.session.epoch == 2
    answers = named(arrive(world, *late), "probe ack")
    assert [int.from_bytes(answer[:4], "little") for answer in answers] == [keys_of(world.b).remote_index]
    assert keys_of(world.b).remote_index != old.remote_index


@pytest.mark.parametrize("left", range(6))
def test_a_key_with_few_counters_left_seals_as_many_probes_and_no_more(left: int) -> None:
    world = World()
    world.network.limit = NARROW
    world.establish()
    path = path_of(world.a)
    assert not path.is_settled, "the second probe goes with one of base"
    keys = keys_of(world.a)
    keys._limit = keys._sent + left
    world.run(SEARCH_S)
    assert keys._sent == keys._limit
    assert Deadline.PATH not in world.a.session._timers._times
    assert arrive_at_a(world, Probe(77, 900)) == [], "nor an answer"
    assert world.a.session.drops == {}


def arrive_at_a(world: World, probe: Probe) -> list[bytes]:
    start = len(world.captured)
    (datagram,) = sealed(world.b, RecordKind.PROBE, probe.encode())
    world.arrive(datagram, world.b.address, world.a.address)
    return sent_by(world, world.a, start)


# Narrow paths.


def plain(family: int, length: int) -> bytes:
    """A whole packet of `length` bytes that may not be fragmented, as TCP sends it."""
    payload = length - (52 if family == 4 else 72)
    (packet,) = super_packet(payload, 2000, version=family).segments()
    assert len(packet) == length
    return packet


def syn(family: int, mss: int = 1380, flags: str = "S") -> bytes:
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if family == 4 else IPv6(src="fd00::1", dst="fd00::2")
    return bytes(ip / TCP(sport=1, dport=2, flags=flags, options=[("MSS", mss)]))


def mss_of(packet: bytes) -> int:
    return dict(parsed(packet)[TCP].options)["MSS"]


@pytest.mark.parametrize("family", [4, 6])
def test_on_a_narrow_path_a_long_packet_is_spread_and_its_sender_told_now_and_then(family: int) -> None:
    world = settled(NARROW)
    room = world.a.session._tunnel.room
    assert NARROW - GAP_BYTES < room + OVERHEAD_BYTES <= NARROW
    long = plain(family, DEFAULT_MTU)
    answerer = destination(long)
    assert answerer is not None
    answer = too_big(long, room, answerer)
    assert answer is not None
    assert int.from_bytes(answer[26:28] if family == 4 else answer[44:48], "big") == max(room, 1280 * (family == 6))
    world.segments_sent[answer] = 2
    start = len(world.captured)
    world.send_segments(world.a, [long] * 3)
    assert len(named(sent_by(world, world.a, start), "data")) == 6
    world.send_segments(world.a, [long])
    assert world.segments_delivered["a"] == [answer], "one for all of them"
    world.run(TOO_BIG_INTERVAL_S)
    world.send_segments(world.a, [long])
    assert world.segments_delivered["a"] == [answer] * 2
    world.run(1.0)
    assert world.segments_delivered["b"] == [long] * 5
    assert world.segments_delivered["a"] == [answer] * 2
    assert world.a.session.received.packets == 0, "it is not the peer's"
    assert world.a.session.drops == world.b.session.drops == {}


@pytest.mark.parametrize(
    "packet", [inner_packet(0, DEFAULT_MTU), plain(4, 1200), plain(6, 1280), b"\x45no packet" * 200, b""]
)
def test_no_sender_is_told_who_may_fragment_or_sends_no_more_than_fits_or_than_the_least(packet: bytes) -> None:
    world = settled(BASE)
    told: list[Packet] = []

    def turn(session) -> None:  # type: ignore[no-untyped-def]
        session.send([packet, packet], world.now)
        told.extend(session.packets_to_deliver())

    world.segments_sent[packet] = 2
    world.do(world.a, turn)
    assert told == []


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("sender", ["a", "b"])
def test_on_a_narrow_path_connections_agree_on_segments_that_fit(family: int, flags: str, sender: str) -> None:
    """Also where only one side clamps: here `b` has a session of its own for which the path is wide."""
    world = settled(NARROW)
    path_of(world.b)._size = MOST
    room = world.a.session._tunnel.room
    fits = room - (40 if family == 4 else 60)
    expected = clamped(syn(family, flags=flags), room)
    assert isinstance(expected, bytes)
    assert mss_of(expected) == fits
    world.segments_sent[expected] += 2
    source, target = (world.a, world.b) if sender == "a" else (world.b, world.a)
    world.send_segments(source, [syn(family, flags=flags)])
    # As the device gives it: the checksum unfinished.
    unfinished = bytearray(syn(family, flags=flags))
    at = 20 if family == 4 else 40
    pseudo = bytes(unfinished[12:20] if family == 4 else unfinished[8:40]) + bytes((0, 6, 0, len(unfinished) - at))
    unfinished[at + 16 : at + 18] = (0xFFFF - internet_checksum(pseudo)).to_bytes(2, "big")
    world.send_segments(source, [SuperPacket(bytes(unfinished), 1000)])
    world.run(1.0)
    assert world.segments_delivered[target.name] == [expected] * 2
    small = syn(family, 500)
    world.send_segments(source, [small])
    world.run(1.0)
    assert world.segments_delivered[target.name][2:] == [small]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("is_tcp", [True, False])
def test_super_packets_pass_a_narrow_path_without_an_answer(family: int, is_tcp: bool) -> None:
    world = settled(NARROW)
    packets: list[Packet] = [super_packet(20_000, 1340, version=family, tcp=is_tcp, serial=n) for n in range(3)]
    segments = world.send_segments(world.a, packets)
    assert max(map(len, segments)) > world.a.session._tunnel.room
    world.run(1.0)
    assert world.segments_delivered["b"] == segments
    assert world.segments_delivered["a"] == []
    assert max(map(len, named(sent_by(world, world.a), "data"))) <= NARROW


def test_on_a_wide_path_and_while_a_search_is_under_way_nobody_is_told_anything() -> None:
    for limit in (MOST, NARROW):
        world = World()
        world.network.limit = limit
        world.establish()
        assert path_of(world.a).is_settled == path_of(world.b).is_settled == (limit == MOST)
        for node, other in ((world.a, world.b), (world.b, world.a)):
            for family in (4, 6):
                sent = [plain(family, DEFAULT_MTU), syn(family)]
                world.send_segments(node, sent)
                world.run(2 * LATENCY_S)
                assert world.segments_delivered[other.name][-2:] == sent
        assert world.segments_delivered["a"] + world.segments_delivered["b"] == 2 * [
            packet for family in (4, 6) for packet in (plain(family, DEFAULT_MTU), syn(family))
        ]


def test_whole_and_unfinished_packets_of_one_turn_are_all_delivered_in_order() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    whole = super_packet(40, 1000, serial=1).segments()[0]
    other = super_packet(40, 1000, tcp=False, serial=2).segments()[0]
    partial = partial_checksum(pseudo_header_sum(other, PROTOCOL_UDP, len(other) - IPV4_HEADER_BYTES))
    field = IPV4_HEADER_BYTES + UDP_CHECKSUM_AT
    unfinished = UnfinishedPacket(other[:field] + partial.to_bytes(2, "big") + other[field + 2 :])
    batch = [whole, unfinished, whole, unfinished]
    world.a.session.send(batch, world.now)
    arrivals = [lone(datagram, world.a.address) for datagram in flatten(world.a.session.runs_to_send())]
    assert len(arrivals) == len(batch)
    world.b.session.receive(arrivals, world.now)
    assert whole_packets(world.b.session.packets_to_deliver()) == [whole, other, whole, other]
    assert world.b.session.packets_to_deliver() == []
