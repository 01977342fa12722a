"""The sparse lane: records that may overtake all others under their key, and what neither lane loses by that."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy_oracle import IP, TCP
from session_world import World, inner_packet, sealed, watched
from super_packets import super_packet

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.events import DropReason
from holloway.protocols.express import SHORT_BYTES
from holloway.protocols.journal import Journal
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.packets import total_length
from holloway.protocols.record_keys import SPARSE_WINDOW, RecordKeys
from holloway.protocols.record_size import REPORT_GRACE_S, REPORT_S
from holloway.protocols.record_wire import HEADER, HEADER_BYTES, SPARSE_MARK, RecordKind
from holloway.protocols.records import bundles
from holloway.protocols.replay import WINDOW_SIZE
from holloway.protocols.session import Session
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD
from holloway.simulations.deflate import Deflate

FORTH, BACK = bytes(range(32)), bytes(range(32, 64))
HOME: Address = ("192.0.2.7", 1099)
ELSEWHERE: Address = ("192.0.2.8", 1099)
ROOM = 1420
PACKET = inner_packet(1)
modest = settings(deadline=None, max_examples=60, derandomize=True)


def end(*, is_sender: bool, terms: Terms = SEALED) -> RecordKeys:
    keys = (FORTH, BACK, 1001, 2002) if is_sender else (BACK, FORTH, 2002, 1001)
    return RecordKeys(
        watched(AES_GCM, set()),
        DerivedKeys(*keys, b"t" * 16, terms=terms),
        Journal(),
        is_initiator=is_sender,
        created_at=0.0,
        expires_at=180.0,
        epoch=1,
        codec=Deflate() if Terms.LZ4 in terms else None,
    )


def ends(terms: Terms = SEALED) -> tuple[RecordKeys, RecordKeys]:
    return end(is_sender=True, terms=terms), end(is_sender=False, terms=terms)


def sparse(keys: RecordKeys, packet: bytes = PACKET) -> bytes:
    datagram = keys.seal_sparse(packet)
    assert datagram is not None
    return datagram


def take(keys: RecordKeys, datagram: bytes, now: float = 0.0, source: Address = HOME) -> list[bytes]:
    return [bytes(each) for record in keys.open(lone(datagram, source), HOME, now) for each in record.packets]  # type: ignore[arg-type]


def drops(keys: RecordKeys) -> Counter[DropReason]:
    return keys._journal.drops


# Records.


@pytest.mark.parametrize("terms", [SEALED, Terms.CLEAR, Terms.LZ4, Terms.CLEAR | Terms.LZ4])
def test_what_is_sealed_is_opened_once_by_either_way(terms: Terms) -> None:
    sender, receiver = ends(terms)
    first, second = sparse(sender), sparse(sender)
    assert take(receiver, first) == [PACKET]
    assert receiver.open_lone(second, 0.0) == (None if Terms.LZ4 in terms else PACKET)
    assert take(receiver, second) == ([PACKET] if Terms.LZ4 in terms else [])
    for again in (first, second):
        assert receiver.open_lone(again, 0.0) is None
        assert take(receiver, again) == []
    assert set(drops(receiver)) == {DropReason.REPLAYED}
    assert not receiver.is_waiting
    assert HEADER.unpack_from(first)[2] & SPARSE_MARK


def test_a_key_without_that_term_refuses_plain_text_by_name() -> None:
    sender, _ = ends(Terms.CLEAR)
    _, receiver = ends()
    assert take(receiver, sparse(sender)) == []
    assert drops(receiver) == {DropReason.PLAINTEXT_REFUSED: 1}


@modest
@given(st.lists(st.sampled_from(["sparse", "short", "long", "report"]), max_size=40), st.randoms(use_true_random=False))
def test_no_nonce_is_used_twice_and_all_arrive_however_they_overtake_each_other(
    kinds: list[str], dice: random.Random
) -> None:
    """The cipher of `watched` refuses a nonce that it has seen."""
    sender, receiver = ends()
    sender._size._size, sender._size._heard_at = 8, 0.0
    ordinary: list[Arrival] = []
    express: list[Arrival] = []
    expected: list[bytes] = []
    for serial, kind in enumerate(kinds):
        packet = inner_packet(serial)
        if kind == "sparse":
            express.append(lone(sparse(sender, packet), HOME))
            expected.append(packet)
        elif kind == "short":
            ordinary += [lone(each, HOME) for each in sealed(sender, [packet], ROOM)]
            expected.append(packet)
        elif kind == "long":
            pieces = sealed(sender, [super_packet(8 * 1300, 1300, serial=serial)], ROOM)
            ordinary.append(Arrival(HOME, b"".join(pieces), len(pieces[0])))
        else:
            ordinary += [lone(run.datagrams()[0], HOME) for run in sender.seal_report(0.0)]
    arrivals = [(dice.random(), each) for each in express]
    waits = dice.random()
    arrivals += [(waits + (1 - waits) * at / max(1, len(ordinary)), each) for at, each in enumerate(ordinary)]
    found = []
    for _, arrival in sorted(arrivals, key=lambda each: each[0]):
        found += [each for record in receiver.open(arrival, HOME, 0.0) for each in record.packets]
    assert sorted(each for each in found if isinstance(each, bytes)) == sorted(expected)
    assert not drops(receiver)
    assert len(found) == sum(kind != "report" for kind in kinds)


def test_what_has_overtaken_everything_is_no_loss_to_those_it_has_overtaken() -> None:
    """More than the window, and than the meter remembers, and later than a record may be."""
    sender, receiver = ends()
    waiting = [sealed(sender, [inner_packet(serial)], ROOM)[0] for serial in range(WINDOW_SIZE + 100)]
    for serial in range(SPARSE_WINDOW + 100):
        assert take(receiver, sparse(sender, inner_packet(serial))) == [inner_packet(serial)]
    assert receiver.report_due_at is None, "nothing of it is reported"
    for serial, datagram in enumerate(waiting):
        assert take(receiver, datagram, now=5.0) == [inner_packet(serial)]
    report = receiver._meter.report(6.0)
    assert (report.records, report.lost) == (len(waiting), 0)
    assert not drops(receiver)
    assert take(receiver, sparse(sender)) == [PACKET]


def test_what_is_late_within_the_lane_has_a_window_of_its_own() -> None:
    sender, receiver = ends()
    datagrams = [sparse(sender, inner_packet(serial)) for serial in range(SPARSE_WINDOW + 1)]
    assert take(receiver, datagrams[-1]) == [inner_packet(SPARSE_WINDOW)]
    assert take(receiver, datagrams[1]) == [inner_packet(1)]
    assert take(receiver, datagrams[0]) == []
    assert drops(receiver) == {DropReason.REPLAYED: 1}


@pytest.mark.parametrize("bit", range(8 * 40))
def test_a_datagram_that_was_altered_is_dropped_for_a_reason_and_changes_nothing(bit: int) -> None:
    sender, receiver = ends()
    take(receiver, sparse(sender))
    good = sparse(sender)
    altered = bytearray(good)
    altered[bit // 8] ^= 1 << bit % 8
    before = receiver.newest, receiver._sparse_window.top, receiver.report_due_at
    with suppress(InvalidTag):
        assert receiver.open_lone(bytes(altered), 0.0) is None
    assert take(receiver, bytes(altered)) == []
    assert (receiver.newest, receiver._sparse_window.top, receiver.report_due_at) == before
    assert drops(receiver).total() == 1 or receiver.next_expiry() is not None
    assert take(receiver, good) == [PACKET]


@pytest.mark.parametrize("length", range(len(PACKET) + 32))
def test_a_datagram_that_was_cut_is_dropped(length: int) -> None:
    sender, receiver = ends()
    assert take(receiver, sparse(sender)[:length]) == []
    assert drops(receiver).total() == 1


@pytest.mark.parametrize("kind", [kind for kind in RecordKind if kind is not RecordKind.PACKETS])
def test_no_record_of_another_kind_takes_the_lane(kind: RecordKind) -> None:
    sender, receiver = ends()
    index, _, _, word = HEADER.unpack_from(sparse(sender))
    header = HEADER.pack(index, 0, kind | SPARSE_MARK, word)
    assert take(receiver, header + sender._seal.encrypt(header[4:], PACKET, None)) == []
    assert drops(receiver) == {DropReason.MALFORMED: 1}


def test_an_authentic_record_that_holds_no_packets_is_dropped() -> None:
    sender, receiver = ends()
    records = receiver.open(lone(sparse(sender, b"\x45 is no packet"), HOME), HOME, 0.0)
    assert [record.packets for record in records] == [()]
    assert drops(receiver) == {DropReason.MALFORMED: 1}


def test_runs_may_have_datagrams_of_both_lanes() -> None:
    sender, receiver = ends()
    datagrams = []
    for serial in range(0, 12, 3):
        datagrams += [sparse(sender, inner_packet(serial)), *sealed(sender, [inner_packet(serial + 1)], ROOM)]
        datagrams.append(sparse(sender, inner_packet(serial + 2)))
    arrival = Arrival(HOME, b"".join(datagrams), len(datagrams[0]))
    found = [each for record in receiver.open(arrival, HOME, 0.0) for each in record.packets]
    assert found == [inner_packet(serial) for serial in range(12)]
    assert not drops(receiver)


def test_a_key_with_too_many_counters_used_seals_nothing_for_the_lane() -> None:
    sender, receiver = ends()
    sender._sparse_sent = AES_GCM.rekey_after_messages - 1
    assert not sender.is_worn
    assert take(receiver, sparse(sender)) == [PACKET]
    assert sender.seal_sparse(PACKET) is None
    assert sender.is_worn
    assert sealed(sender, [PACKET], ROOM)


# Where the peer is.


def test_the_newest_of_all_tells_where_the_peer_is_by_whichever_lane_it_came() -> None:
    """Records arrive in another order than they were sealed in: what is newer than all before it is found in any."""
    sender = end(is_sender=True)
    dice = random.Random(1)
    for _ in range(300):
        receiver = end(is_sender=False)
        sealed_in_order = [
            sparse(sender) if dice.random() < 0.5 else sealed(sender, [PACKET], ROOM)[0]
            for _ in range(dice.randint(1, 12))
        ]
        order = list(range(len(sealed_in_order)))
        dice.shuffle(order)
        newest_so_far = -1
        for place in order:
            before = receiver.newest
            if dice.random() < 0.5 or receiver.open_lone(sealed_in_order[place], 0.0) is None:
                assert take(receiver, sealed_in_order[place]) == [PACKET]
            assert (receiver.newest > before) is (place > newest_so_far)
            newest_so_far = max(newest_so_far, place)


@pytest.mark.parametrize("others", [0, 1, 0xFFFF, 0x10000, 0x1FFFFFF])
def test_a_record_of_the_lane_says_how_many_of_the_other_were_sealed_before_it(others: int) -> None:
    sender, receiver = ends()
    sender._sent = others
    datagram = sparse(sender)
    _, number, _, word = HEADER.unpack_from(datagram)
    assert (word & 0xFFF) << 16 | number == others
    before = receiver.newest
    assert take(receiver, datagram) == [PACKET]
    assert receiver.newest > before
    if others:
        sender._sent = others - 1
        before = receiver.newest
        assert take(receiver, sealed(sender, [PACKET], ROOM)[0]) == [PACKET]
        assert receiver.newest == before
    sender._sent = others
    assert take(receiver, sealed(sender, [PACKET], ROOM)[0]) == (
        [PACKET] if others < AES_GCM.reject_after_messages else []
    )
    assert receiver.newest > before


def lone_sparse(world: World, node: str, serial: int) -> bytes | None:
    session = world.nodes[node].session
    return session.send_lone(inner_packet(serial), world.now, is_sparse=True)


def test_what_was_held_back_moves_nothing_and_what_is_new_does() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(1.0)
    a, b = world.nodes["a"], world.nodes["b"]
    before = b.session.endpoint
    held_back, at_once = lone_sparse(world, "a", 7), lone_sparse(world, "a", 8)
    serials = world.send(a, 20)
    while world.lost(serials, b):
        world.run(0.01)
    world.run(1.0)
    later = lone_sparse(world, "a", 9)
    for datagram, endpoint in ((held_back, before), (later, ELSEWHERE), (at_once, ELSEWHERE)):
        assert datagram is not None
        b.session.receive([lone(datagram, ELSEWHERE)], world.now)
        assert b.session.endpoint == endpoint
    assert b.session.packets_to_deliver() == [inner_packet(7), inner_packet(9), inner_packet(8)]


def test_what_stood_in_a_queue_while_the_peer_moved_moves_it_not_back() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(1.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    a.send([inner_packet(1)], world.now)
    (standing,) = a.runs_to_send()
    express = lone_sparse(world, "a", 2)
    assert express is not None
    b.receive([lone(express, ELSEWHERE)], world.now)
    assert b.endpoint == ELSEWHERE
    b.receive([lone(standing.datagrams()[0], b_sees(world))], world.now)
    assert b.endpoint == ELSEWHERE
    assert b.packets_to_deliver() == [inner_packet(2), inner_packet(1)]


@pytest.mark.parametrize("is_sparse", [True, False])
def test_what_was_sealed_under_the_key_before_moves_it_not_back(*, is_sparse: bool) -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(6.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    a.send([inner_packet(1)], world.now)
    (standing,) = a.runs_to_send()
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(0.5)
    assert (a.epoch, b.epoch) == (2, 2)
    datagram = a.send_lone(inner_packet(2), world.now, is_sparse=is_sparse)
    assert datagram is not None
    b.receive([lone(datagram, ELSEWHERE)], world.now)
    b.receive([lone(standing.datagrams()[0], b_sees(world))], world.now)
    assert b.endpoint == ELSEWHERE
    assert b.packets_to_deliver() == [inner_packet(2), inner_packet(1)]


def test_who_still_seals_under_the_key_before_is_followed() -> None:
    """The initiator has new keys, of which the responder has not heard."""
    world = World(AES_GCM)
    world.establish()
    world.run(1.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    world.network.loss = 1.0
    a.rekey(world.now + 10)
    (initiation,) = a.runs_to_send()
    assert world.b.demux is not None
    found = world.b.demux.sort([lone(initiation.datagrams()[0], b_sees(world))], world.now + 10)
    for _, opened, source in found.initiations:
        b.receive_initiation(opened, source, world.now + 10)
    (response,) = b.runs_to_send()
    a.receive([lone(response.datagrams()[0], world.b.address)], world.now + 10)
    assert (a.epoch, b.epoch) == (2, 1)
    b.send([inner_packet(1)], world.now + 10)
    (moved,) = b.runs_to_send()
    a.receive([lone(moved.datagrams()[0], ELSEWHERE)], world.now + 10)
    assert a.packets_to_deliver() == [inner_packet(1)]
    assert a.endpoint == ELSEWHERE


# What takes the general way.


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_what_the_short_way_does_not_take_the_lane_does_not_take(suite: object) -> None:
    world = World(suite)  # type: ignore[arg-type]
    assert lone_sparse(world, "a", 0) is None, "there is no key"
    world.establish()
    world.run(1.0)
    session: Session = world.nodes["a"].session
    taken = lone_sparse(world, "a", 0)
    assert (taken is None) is (suite is WIREGUARD)
    for packet in (b"", inner_packet(1, SHORT_BYTES + 1), super_packet(2600, 1300)):
        assert session.send_lone(packet, world.now, is_sparse=True) is None
    assert session._ring.current is not None
    world.now = session._ring.current.expires_at
    assert lone_sparse(world, "a", 0) is None, "the key is too old"


def test_the_lane_goes_on_while_the_key_wants_a_successor_which_it_asks_for() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(1.0)
    session = world.nodes["a"].session
    assert session._ring.current is not None
    assert lone_sparse(world, "a", 0) is not None
    assert not session.has_more_to_send
    world.now = session._ring.current.created_at + 120.001
    assert session.send_lone(PACKET, world.now) is None, "the other lane takes the general way"
    assert lone_sparse(world, "a", 0) is not None
    assert session.has_more_to_send
    assert lone_sparse(world, "a", 0) is None, "an initiation is to be sent first"
    assert len(session.runs_to_send()) == 1
    assert lone_sparse(world, "a", 0) is not None
    assert not session.has_more_to_send, "once is enough"


def test_which_key_the_peer_uses_is_known_by_what_has_come_and_not_by_when_it_was_made() -> None:
    """After two handshakes at once the peer may begin with the one made last, and go on with the other."""
    world = World(AES_GCM)
    world.establish()
    world.run(6.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    ring = b._ring
    before = ring.current
    assert before is not None
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(0.5)
    after = ring.current
    assert after is not None
    assert after is not before
    assert ring.is_outdated(before)
    assert not ring.is_outdated(after)
    after.heard_as, before.heard_as = before.heard_as, after.heard_as
    assert not ring.is_outdated(before)
    assert not ring.is_outdated(after), "it is in use"
    after.heard_as = 0
    assert ring.hear(after)
    assert ring.is_outdated(before)
    heard = after.heard_as
    assert ring.hear(before)
    assert ring.hear(after)
    assert after.heard_as == heard, "the first time counts"
    assert a.epoch == b.epoch == 2


def test_the_timers_hear_of_the_lane_as_of_any_other_packet() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(30.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    packets, size = a.transmitted.packets, a.transmitted.bytes
    datagram = lone_sparse(world, "a", 3)
    assert datagram is not None
    assert (a.transmitted.packets, a.transmitted.bytes) == (packets + 1, size + len(datagram))
    heard = b.received.packets, b.received.bytes
    assert b.receive_lone(lone(datagram, b_sees(world)), world.now) == inner_packet(3)
    assert (b.received.packets, b.received.bytes) == (heard[0] + 1, heard[1] + len(datagram))
    assert b.last_received_at == world.now
    due = b.next_timeout()
    assert due is not None
    assert due <= world.now + 10.1, "a keepalive is owed"
    assert b._timers.soonest_s > REPORT_S + REPORT_GRACE_S
    assert b.receive_lone(lone(datagram, b_sees(world)), world.now) is None


def b_sees(world: World) -> Address:
    return world.nodes["a"].address


def test_the_header_of_a_sparse_datagram_is_the_ordinary_one_but_for_its_mark() -> None:
    sender, _ = ends()
    ordinary, express = sealed(sender, [PACKET], ROOM)[0], sparse(sender)
    index, _, kind, word = HEADER.unpack_from(ordinary)
    assert HEADER.unpack_from(express) == (index, 1, kind | SPARSE_MARK, word)  # one of the other has been sealed
    assert ordinary[HEADER_BYTES:] != express[HEADER_BYTES:]


@modest
@given(st.lists(st.integers(20, 700), max_size=30), st.sets(st.integers(0, 29)))
def test_bundles_keep_packets_whole_and_in_order_and_leave_alone_what_is_not_as_long_as_it_says(
    lengths: list[int], wrong: set[int]
) -> None:
    packets = [inner_packet(serial, max(64, size)) + bytes(serial in wrong) for serial, size in enumerate(lengths)]
    packets[:0] = [b""] * (len(wrong) % 2)
    made = bundles(packets, SHORT_BYTES)
    assert [packet for bundle in made for packet in bundle] == packets
    for bundle in made:
        assert len(bundle) == 1 or sum(map(len, bundle)) <= SHORT_BYTES
        assert len(bundle) == 1 or all(total_length(packet) == len(packet) for packet in bundle)
    for before, after in pairwise(made):
        is_shared = all(0 < len(packet) == total_length(packet) for packet in (*before, *after))
        assert not is_shared or sum(map(len, before)) + len(after[0]) > SHORT_BYTES, "as few as hold them"


def test_several_packets_share_a_datagram_and_are_counted_each() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(1.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    packets = [inner_packet(serial) for serial in range(5)]
    before = a.transmitted.packets, b.received.packets
    datagram = a.send_lone(b"".join(packets), world.now, is_sparse=True, count=len(packets))
    assert datagram is not None
    assert b.receive_lone(lone(datagram, b_sees(world)), world.now) == b""
    assert b.packets_to_deliver() == packets
    assert (a.transmitted.packets, b.received.packets) == (before[0] + 5, before[1] + 5)


def test_on_a_narrow_path_the_lane_goes_on_and_the_mss_is_lowered() -> None:
    world = World()
    world.network.limit = 1300
    world.establish()
    world.run(20.0)
    a, b = world.nodes["a"].session, world.nodes["b"].session
    assert a._tunnel.path.size < a._tunnel.widest
    syn = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="S", options=[("MSS", 1380)]))
    for packet in (inner_packet(1), syn):
        datagram = a.send_lone(packet, world.now, is_sparse=True)
        assert datagram is not None
        assert a.send_lone(packet + packet, world.now, is_sparse=True, count=2) is None
        b.receive([lone(datagram, b_sees(world))], world.now)
    first, second = b.packets_to_deliver()
    assert first == inner_packet(1)
    assert isinstance(second, bytes)
    assert dict(IP(second)[TCP].options)["MSS"] <= a._tunnel.room - 40
    assert len(second) == len(syn)
