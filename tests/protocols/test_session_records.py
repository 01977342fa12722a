"""Records that span datagrams, through whole sessions: what arrives, what moves, what falls silent, what is forgotten."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_world import LATENCY_S, Node, World, name_of, sealed
from super_packets import batches, super_packet

from holloway.protocols import record_keys
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.events import DropReason, KeyExpired
from holloway.protocols.packets import Packet, SuperPacket, count_packets, whole_packets
from holloway.protocols.reassembly import LIFETIME_S
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_size import REPORT_GRACE_S, REPORT_LIFETIME_S, REPORT_S
from holloway.protocols.record_wire import RecordKind, parse_head
from holloway.protocols.states import State
from holloway.protocols.suites import SUITES, Suite
from holloway.protocols.timers import Timers

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
ELSEWHERE = ("203.0.113.66", 6)


def keys_of(node: Node) -> RecordKeys:
    keys = node.session._ring.current
    assert isinstance(keys, RecordKeys)
    return keys


def widen(world: World, size: int = 8) -> None:
    """What `a` sends next goes in records of up to `size` datagrams."""
    keys_of(world.a)._size._size, keys_of(world.a)._size._heard_at = size, world.now


def established(size: int = 8, **network: object) -> World:
    world = World()
    world.establish()
    world.network.__dict__.update(network)
    widen(world, size)
    return world


def held_back(world: World, packet: SuperPacket) -> list[bytes]:
    """The datagrams of a record that `a` sends; none of them arrives."""
    start = len(world.captured)
    cut, world.network.cut = world.network.cut, {"b"}
    world.send_segments(world.a, [packet])
    world.network.cut = cut
    return [datagram for datagram, _, _ in world.captured[start:] if name_of(datagram) == "data"]


def arrive(
    world: World, datagrams: list[bytes], source: tuple[str, int] | None = None, *, is_run: bool = False
) -> None:
    """Datagrams reach `b`, from `a` or from elsewhere."""
    at = source or world.a.address
    if is_run:
        world._receive(world.b, [Arrival(at, memoryview(b"".join(datagrams)), len(datagrams[0]))])
    else:
        for datagram in datagrams:
            world._receive(world.b, [lone(datagram, at)])


def reports(world: World, start: int = 0) -> list[str]:
    return [line for line in world.transcript[start:] if "report" in line]


# What arrives.


@both_suites
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "udp"])
@pytest.mark.parametrize("runs", [True, False], ids=["runs", "alone"])
def test_super_packets_arrive_before_and_after_there_is_a_key(
    suite: Suite, version: int, tcp: bool, runs: bool
) -> None:
    world = World(suite)
    world.network.runs = runs
    expected: list[bytes] = []
    for serial in range(5):
        expected += world.send_segments(
            world.a, [super_packet(30_000, 1300, version=version, tcp=tcp, serial=serial)] * (serial == 0)
        )
        expected += world.send_segments(
            world.a, [super_packet(20_000, 1300, version=version, tcp=tcp, serial=5 + serial)]
        )
        world.run(0.15)
    world.run(1.0)
    assert world.segments_delivered["b"] == expected
    assert world.a.session.transmitted.packets == world.b.session.received.packets == len(expected)
    assert world.a.session.drops == world.b.session.drops == {}


def test_records_grow_while_nothing_is_lost_and_are_short_again_after_a_pause() -> None:
    world = World()
    world.establish()
    world.network.runs = True
    sizes = []
    for turn in range(30):
        world.send_segments(world.a, [super_packet(60_000, 1300, serial=4 * turn + n) for n in range(4)])
        sizes.append(keys_of(world.a)._size.size(world.now))
        world.run(REPORT_S)
    assert sizes[0] == 1
    assert max(sizes) > 30
    world.run(REPORT_LIFETIME_S + 1.0)
    assert Counter(world.segments_delivered["b"]) == world.segments_sent
    assert keys_of(world.a)._size.size(world.now) == 1
    assert world.a.session.drops == world.b.session.drops == {}


def test_records_stay_short_on_a_path_that_loses() -> None:
    world = World(seed=3)
    world.establish()
    world.network.loss = 0.05
    start = len(world.captured)
    for turn in range(60):
        world.send_segments(world.a, [super_packet(60_000, 1300, serial=turn)])
        world.run(REPORT_S)
    sent = [d for d, source, _ in world.captured[start:] if source == world.a.address and name_of(d) == "data"]
    heads = [head for head in map(parse_head, sent) if head is not None]
    assert sum(head.datagrams == 1 for head in heads) > 0.9 * len(heads)
    arrived = len(world.segments_delivered["b"]) / world.segments_sent.total()
    assert 0.9 < arrived < 1.0


@settings(deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    sent=st.lists(batches(), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 32),
    size=st.sampled_from([1, 8, 64]),
    loss=st.sampled_from([0.0, 0.0, 0.1]),
    duplicate=st.sampled_from([0.0, 0.3]),
    jitter_s=st.sampled_from([0.0, 0.02]),
    corrupt=st.sampled_from([0.0, 0.0, 0.05]),
    runs=st.booleans(),
)
def test_any_batches_through_any_network(
    sent: list[list[Packet]],
    seed: int,
    size: int,
    loss: float,
    duplicate: float,
    jitter_s: float,
    corrupt: float,
    runs: bool,
) -> None:
    world = World(seed=seed)
    world.establish()
    network = {"loss": loss, "duplicate": duplicate, "jitter_s": jitter_s, "corrupt": corrupt, "runs": runs}
    world.network.__dict__.update(network)
    expected: list[bytes] = []
    for batch in sent:
        widen(world, size)
        expected += world.send_segments(world.a, batch)
        world.run(0.05)
    world.run(1.0)
    received = world.segments_delivered["b"]
    assert not Counter(received) - Counter(expected)
    if not (loss or corrupt):
        assert Counter(received) == Counter(expected)
    if not (loss or corrupt or jitter_s or duplicate):
        assert received == expected
    assert world.b.session.received.packets == len(received)
    assert keys_of(world.b).next_expiry() is None, "what never became whole was forgotten in time"


# Reports.


def test_a_report_is_sent_when_it_is_due_and_only_under_the_key_in_use() -> None:
    world = established()
    start = len(world.transcript)
    world.send_segments(world.a, [super_packet(20_000, 1300)])
    world.run(LATENCY_S + REPORT_S + REPORT_GRACE_S - 0.001)
    assert reports(world, start) == []
    world.run(0.002)
    assert [line.split()[1] for line in reports(world, start)] == ["b>a"]


def test_a_report_that_is_due_goes_with_what_arrives() -> None:
    world = established()
    start = len(world.transcript)
    world.send_segments(world.a, [super_packet(20_000, 1300)])
    world.run(LATENCY_S + REPORT_S)
    assert reports(world, start) == []
    world.send(world.a, 1)
    world.run(LATENCY_S + 0.001)
    assert [line.split()[1] for line in reports(world, start)] == ["b>a"]
    world.run(REPORT_GRACE_S)
    assert len(reports(world, start)) == 1, "once"


def test_a_key_that_is_replaced_while_it_owes_a_report_owes_it_no_more() -> None:
    world = established()
    world.run(6.0)
    before, start = keys_of(world.b), len(world.transcript)
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(2 * LATENCY_S - 0.002)
    world.send_segments(world.a, [super_packet(20_000, 1300)])
    world.run(LATENCY_S + 0.001)
    assert world.b.session.epoch == 1
    assert before.report_due_at is not None
    sent = before.sent
    world.run(1.0)
    assert world.b.session.epoch == 2
    assert reports(world, start) == []
    assert before.sent == sent


def test_nothing_is_reported_by_a_session_without_a_key() -> None:
    world = established()
    arrive(world, held_back(world, super_packet(20_000, 1300)), is_run=True)
    assert keys_of(world.b).report_due_at is not None
    world.b.session._ring.clear()
    start = len(world.captured)
    world.do(world.b, lambda session: session.handle_timeout(world.now + REPORT_S + REPORT_GRACE_S))
    assert len(world.captured) == start


def test_a_report_owes_no_keepalive_and_pays_one() -> None:
    world = established()
    start = len(world.transcript)
    world.send_segments(world.a, [super_packet(20_000, 1300)])
    world.run(60.0)
    lines = [line.split()[1:3] for line in world.transcript[start:]]
    assert [line for line in lines if line != ["a>b", "data"]] == [["b>a", "report"]], "no keepalive by either side"
    assert world.a.session.received.packets == 0


@pytest.mark.parametrize("loss", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_two_idle_sessions_fall_silent(loss: float, seed: int) -> None:
    world = World(seed=seed)
    world.establish()
    for serial in range(20):
        for node in (world.a, world.b):
            world.send_segments(node, [super_packet(20_000, 1300, serial=serial)])
        world.run(0.01)
    world.network.loss, world.network.jitter_s = loss, 0.05
    world.run(1.0)
    start = len(world.transcript)
    world.run(60.0)
    assert len(world.transcript) - start <= 30
    # With nothing more to say, they say nothing: what is left are keys that run out.
    world.network.loss = 0.0
    world.run(400.0)
    start = len(world.transcript)
    world.run(1000.0)
    assert len(world.transcript) == start
    assert world.a.session.next_timeout() is world.b.session.next_timeout() is None


def test_a_peer_that_lies_in_reports_is_counted() -> None:
    world = established()
    lie = keys_of(world.b).seal_record(RecordKind.REPORT, b"\xff" * 16).datagrams()[0]
    short = keys_of(world.b).seal_record(RecordKind.REPORT, b"\xff" * 15).datagrams()[0]
    for datagram in (lie, short):
        world.arrive(datagram, world.b.address, world.a.address)
    assert world.a.session.drops == {DropReason.REPORT_ABSURD: 1, DropReason.REPORT_MALFORMED: 1}
    assert keys_of(world.a)._size.size(world.now) == 8
    assert world.a.session.last_received_at == world.now, "a peer that lies is heard"


@both_suites
def test_a_peer_that_sends_nonsense_under_a_good_key_is_heard_and_counted(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    world.run(1.0)
    keys = world.a.session._ring.current
    assert keys is not None
    (nonsense,) = sealed(keys, [b"authentic, and no packet"], 1420, world.now)
    world.arrive(nonsense, world.a.address, world.b.address)
    assert world.b.session.drops == {DropReason.MALFORMED: 1}
    assert world.b.session.last_received_at == world.now


# Pieces.


def test_pieces_that_come_alone_expire_by_the_timer() -> None:
    world = established()
    pieces = held_back(world, super_packet(8 * 1300, 1300))[:3]
    arrive(world, pieces)
    at = world.b.session.next_timeout()
    assert at is not None
    assert at <= world.now + LIFETIME_S
    world.run(LIFETIME_S + 0.001)
    assert world.b.session.drops == {DropReason.PIECE_EXPIRED: 3}
    assert keys_of(world.b).next_expiry() is None


def test_pieces_that_came_with_data_expire_by_the_timer() -> None:
    world = established()
    arrive(world, held_back(world, super_packet(8 * 1300, 1300))[:3])
    widen(world)
    world.send(world.a)
    world.run(LIFETIME_S + 0.001)
    assert world.b.session.drops == {DropReason.PIECE_EXPIRED: 3}


def test_pieces_are_forgotten_with_their_key_and_counted() -> None:
    world = established()
    arrive(world, held_back(world, super_packet(8 * 1300, 1300))[:5])
    world.do(world.b, lambda session: session.close())
    assert world.b.session.drops == {DropReason.PIECE_FORGOTTEN: 5}


def test_pieces_forged_before_the_true_ones_cost_a_record_that_comes_in_pieces_and_never_one_that_comes_as_a_run() -> (
    None
):
    for is_run in (True, False):
        world = established()
        packet = super_packet(8 * 1300, 1300)
        datagrams = held_back(world, packet)
        arrive(world, [datagram[:16] + bytes(len(datagram) - 16) for datagram in datagrams[:7]])
        arrive(world, datagrams, is_run=is_run)
        assert world.segments_delivered["b"] == (packet.segments() if is_run else [])
        world.run(1.0)
        dropped = world.b.session.drops
        assert sum(dropped.values()) == (7 if is_run else 15)
        assert world.b.session.state is State.ESTABLISHED


# Roaming.


def test_a_run_from_another_address_moves_the_endpoint() -> None:
    world = established()
    packet = super_packet(8 * 1300, 1300)
    arrive(world, held_back(world, packet), ELSEWHERE, is_run=True)
    assert world.b.session.endpoint == ELSEWHERE
    assert world.segments_delivered["b"] == packet.segments()
    assert world.b.session.drops == {}


def test_loose_pieces_from_another_address_move_nothing_and_are_counted() -> None:
    world = established()
    datagrams = held_back(world, super_packet(8 * 1300, 1300))
    arrive(world, datagrams, ELSEWHERE)
    forged = [datagram[:-1] + bytes((datagram[-1] ^ 1,)) for datagram in datagrams]
    arrive(world, forged, ELSEWHERE, is_run=True)
    assert world.b.session.endpoint == world.a.address
    assert world.b.session.drops == {DropReason.PIECE_FOREIGN_SOURCE: 16}
    # A record completed from home is no reason to move, either.
    arrive(world, datagrams)
    assert world.b.session.endpoint == world.a.address
    # Once the peer has been heard from there, pieces from there are good.
    arrive(world, held_back(world, super_packet(8 * 1300, 1300, serial=1)), ELSEWHERE, is_run=True)
    more = super_packet(8 * 1300, 1300, serial=2)
    arrive(world, held_back(world, more), ELSEWHERE)
    assert world.segments_delivered["b"][-8:] == more.segments()


def test_a_late_run_from_where_the_peer_was_moves_nothing_back() -> None:
    world = established()
    late = held_back(world, super_packet(8 * 1300, 1300))
    widen(world)
    newer = held_back(world, super_packet(8 * 1300, 1300, serial=1))
    arrive(world, newer, ELSEWHERE, is_run=True)
    arrive(world, late, is_run=True)
    assert world.b.session.endpoint == ELSEWHERE
    assert len(world.segments_delivered["b"]) == 16


def test_a_peer_that_sends_long_records_may_roam() -> None:
    world = World()
    world.network.runs = True
    world.establish()
    for serial in range(30):
        if serial % 10 == 5:
            world.roam(world.a)
        world.send_segments(world.a, [super_packet(30_000, 1300, serial=serial)])
        world.run(REPORT_S)
    world.run(1.0)
    assert Counter(world.segments_delivered["b"]) == world.segments_sent
    assert world.b.session.endpoint == world.a.address


# Keys.


@pytest.mark.parametrize("size", [1, 8])
def test_a_run_under_the_next_key_makes_it_current(size: int) -> None:
    world = established()
    world.network.runs = True
    world.run(6.0)
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(LATENCY_S + 0.001)
    world.network.cut = {"b"}  # the keepalive that would confirm the key
    world.run(LATENCY_S)
    world.network.cut = set()
    assert (world.a.session.epoch, world.b.session.epoch) == (2, 1)
    widen(world, size)
    world.send_segments(world.a, [super_packet(8 * 1300, 1300)])
    world.run(LATENCY_S + 0.001)
    assert world.b.session.epoch == 2
    assert Counter(world.segments_delivered["b"]) == world.segments_sent


def test_pieces_under_an_expired_key_are_counted_one_by_one() -> None:
    world = established()
    datagrams = held_back(world, super_packet(8 * 1300, 1300))
    expires_at = keys_of(world.b).expires_at
    world.b.session.receive([Arrival(world.a.address, b"".join(datagrams), len(datagrams[0]))], expires_at)
    assert world.b.session.drops == {DropReason.KEY_EXPIRED: 8}


def test_a_key_that_has_sealed_enough_bytes_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_keys, "REKEY_AFTER_BYTES", 100_000)
    world = World()
    world.establish()
    for serial in range(30):
        world.send_segments(world.a, [super_packet(10_000, 1300, serial=serial)])
        world.run(1.0)
    assert world.a.session.epoch >= 3
    assert Counter(world.segments_delivered["b"]) == world.segments_sent


def test_packets_wait_while_a_key_has_sealed_all_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_keys, "REJECT_AFTER_BYTES", 20_000)
    world = established()
    first = world.send_segments(world.a, [super_packet(20_000, 1300)])
    later = world.send_segments(world.a, [super_packet(10_000, 1300, serial=1)])
    assert world.a.session.staged == 1
    world.run(6.0)
    assert world.segments_delivered["b"] == first + later
    assert world.a.session.epoch == 2


def test_a_report_that_a_used_up_key_cannot_seal_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(timers=Timers(rekey_timeout_s=20.0))
    world.establish()
    monkeypatch.setattr(record_keys, "REJECT_AFTER_BYTES", 0)
    widen(world)
    arrive(world, held_back_under(world, super_packet(20_000, 1300), monkeypatch), is_run=True)
    assert keys_of(world.b).report_due_at is not None
    assert not keys_of(world.b).can_seal([b""])
    world.network.cut = {"a", "b"}
    world.run(15.0)  # fails if time stands still
    assert not reports(world)
    assert KeyExpired(1) not in world.b.events


def held_back_under(world: World, packet: SuperPacket, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    with monkeypatch.context() as patched:
        patched.setattr(record_keys, "REJECT_AFTER_BYTES", 1 << 38)
        return held_back(world, packet)


# Staging.


def test_super_packets_that_wait_are_bounded_by_their_bytes_and_every_one_is_counted() -> None:
    world = World()
    world.network.cut = {"a", "b"}
    supers: list[Packet] = [super_packet(60_000, 1300, serial=n) for n in range(30)]
    world.send_segments(world.a, supers)
    assert world.a.session.staged == 17
    assert world.a.session.drops == {DropReason.STAGING_FULL: count_packets(supers[:13])}
    world.run(100.0)
    assert world.a.session.staged == 0
    assert world.a.session.drops == {
        DropReason.STAGING_FULL: count_packets(supers[:13]),
        DropReason.HANDSHAKE_TIMEOUT: count_packets(supers[13:]),
    }


def test_what_waited_leaves_in_order_with_the_key() -> None:
    world = World()
    batch: list[Packet] = [super_packet(5000, 1300, serial=n) for n in range(5)]
    random.Random(1).shuffle(batch)
    world.send_segments(world.a, batch)
    world.run(1.0)
    assert world.segments_delivered["b"] == whole_packets(batch)
