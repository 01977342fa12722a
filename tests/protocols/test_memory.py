"""The memory of a node: its queues never hold more than the cap together, nobody starves the others, and whatever was taken
comes back, however a story ends."""

from __future__ import annotations

import struct
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import LinkTable, inner_packet
from super_packets import super_packet

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.errors import LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.keyring import Keyring
from holloway.protocols.keys import StaticKey
from holloway.protocols.memory import (
    DEFAULT_MEMORY_BYTES,
    PACKET_OVERHEAD_BYTES,
    SHARES,
    MemoryBudget,
    MemoryShare,
    arrivals_cost,
    packet_cost,
    packets_cost,
)
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.packets import Packet, SuperPacket
from holloway.protocols.reassembly import (
    LIFETIME_S,
    MAX_BYTES,
    MAX_RECORDS,
    PIECE_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Reassembly,
)
from holloway.protocols.record_wire import SPREAD_BITS, first_counter
from holloway.protocols.session import Session, SessionConfig
from holloway.protocols.staging import STAGED_BYTES, STAGED_PACKETS, Staging
from holloway.protocols.suites import AES_GCM

HOME: Address = ("192.0.2.7", 1099)
FIRST = 1 << 47
INDEX = 0x2222_0002


def piece(serial: int, number: int, count: int, size: int = 100, index: int = INDEX, first: int = FIRST) -> bytes:
    """One datagram of a record that nobody has sealed."""
    return struct.pack("<IHHQ", index, number, 1, first + serial << SPREAD_BITS | count - 1) + bytes(size)


def fill(share: MemoryShare, step: int = 1) -> int:
    """Take as much as there is."""
    while share.take(step):
        pass
    return share.held


# The budget.


def test_what_is_taken_is_held_until_it_is_given_back() -> None:
    budget = MemoryBudget(2000)
    one, other = budget.network.share(), budget.network.share()
    assert (budget.cap, budget.held, budget.peak) == (2000, 0, 0)
    assert one.take(200)
    assert other.take(100)
    assert (one.held, other.held, budget.held, budget.peak) == (200, 100, 300, 300)
    one.give(150)
    assert other.take(0)
    assert (one.held, other.held, budget.held, budget.peak) == (50, 100, 150, 300)
    assert MemoryBudget().cap == DEFAULT_MEMORY_BYTES
    assert repr(budget) == "<MemoryBudget 150 of 2000 bytes>"
    assert repr(one) == "<MemoryShare 50 of at most 225 bytes>"


def test_misuse_raises_and_changes_nothing() -> None:
    budget = MemoryBudget(2000)
    share, other = budget.network.share(), budget.host.share()
    assert share.take(100)
    assert other.take(100)
    for misuse in (lambda: share.give(101), lambda: share.give(-1), lambda: share.take(-1)):
        with pytest.raises(LocalError):
            misuse()
    assert (share.held, other.held, budget.held) == (100, 100, 200)
    for cap in (0, -5):
        with pytest.raises(LocalError):
            MemoryBudget(cap)


def test_a_share_holds_at_most_a_quarter_of_what_the_others_of_its_half_leave() -> None:
    budget = MemoryBudget(2000)
    one, other = budget.network.share(), budget.network.share()
    assert not one.take(251)
    assert budget.peak == 0
    assert fill(one) == 250 == budget.cap // 2 // SHARES
    assert fill(other) == (1000 - 250) // SHARES
    # Who holds more than is fair by now keeps it, and gets no more until it is below again.
    assert one.held > one.limit == (1000 - 187) // SHARES
    assert not one.take(1)
    one.give(one.held - one.limit)
    assert not one.take(1)
    one.give(1)
    assert one.take(1)


def test_the_halves_leave_one_another_alone() -> None:
    budget = MemoryBudget(2000)
    while (share := budget.host.share()).take(1):
        fill(share)
    assert 990 < budget.host.held == budget.held <= 1000
    assert fill(budget.network.share()) == 250
    assert budget.peak == budget.held == budget.host.held + 250


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_however_many_are_flooded_a_quiet_one_finds_room(flooded: int, rng: object) -> None:
    """Those who go on wanting come to `half / (N + 3)` each, in whatever order; the next finds three quarters of that."""
    budget = MemoryBudget(2_000_000)
    shares = [budget.network.share() for _ in range(flooded)]
    for _ in range(100):
        rng.shuffle(shares)  # type: ignore[attr-defined]
        for share in shares:
            if share.limit >= 100:
                while not share.take(100):
                    share.give(100)  # it makes room by its own oldest
                fill(share, 100)
            assert budget.held <= budget.cap // 2
    fair = budget.cap // 2 // (flooded + SHARES - 1)
    assert all(abs(share.held - fair) <= 200 + fair // 20 for share in shares)
    assert fill(budget.network.share()) >= fair * 7 // 10


# What things cost.


def measured(make: object, times: int) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [make() for _ in range(times)]  # type: ignore[operator]
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept
    return used


@pytest.mark.parametrize("size", [0, 20, 1400])
def test_what_is_counted_is_no_less_than_what_is_used(size: int) -> None:
    number = iter(range(1 << 20))

    def packet() -> bytes:
        return next(number).to_bytes(4, "big") + bytes(size)

    def long_packet() -> SuperPacket:
        return SuperPacket(memoryview(packet()), 1400)

    def run() -> Arrival:
        return Arrival((f"192.0.2.{next(number)}", 1099 + next(number)), packet() * 3, size + 4)

    assert measured(packet, 100) <= 100 * packet_cost(bytes(size + 4))
    assert measured(long_packet, 100) <= 100 * packet_cost(SuperPacket(bytes(size + 4), 1400))
    assert measured(lambda: [packet() for _ in range(3)], 100) <= 100 * packets_cost([bytes(size + 4)] * 3)
    kept = Arrival(HOME, bytes(3 * (size + 4)), size + 4)
    assert measured(lambda: [run()], 100) <= 100 * arrivals_cost([kept])


# The queues under a budget that is used up.


def test_staging_makes_room_by_its_own_oldest_and_by_no_other() -> None:
    budget = MemoryBudget(200_000)
    one, other = Staging(budget), Staging(budget)
    packets: list[Packet] = [bytes([number]) * 936 for number in range(40)]  # each costs 1000
    assert other.put(packets[:20]) == ([], [])
    assert one.put(packets) == ([], packets[:20])
    assert (one.cost_bytes, one.held_bytes) == (20_000, 20 * 936)
    assert one.take() == packets[20:]
    assert other.peek() == tuple(packets[:20])
    assert budget.held == other.cost_bytes == 20_000


def test_staging_refuses_what_all_of_its_share_could_not_hold_and_keeps_the_rest() -> None:
    budget = MemoryBudget(8192)
    staging = Staging(budget)
    small, large = bytes(100), bytes(1024 - PACKET_OVERHEAD_BYTES + 1)
    assert staging.put([small, large, small]) == ([], [large])
    assert staging.put([large[1:]]) == ([], [small, small])
    assert staging.take() == [large[1:]]
    assert budget.held == 0


class Pieces:
    """Reassembly under a budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.reassembly = Reassembly(self.note, budget)

    def note(self, reason: DropReason, source: Address | None, count: int) -> None:
        self.drops[reason] += count

    def add(self, serial: int, number: int, count: int = 3, size: int = 100, now: float = 0.0) -> bool:
        """Whether that made the record whole."""
        return self.reassembly.add(piece(serial, number, count, size), HOME, HOME, FIRST, now) is not None

    def cost(self) -> int:
        """What is held, counted anew."""
        return sum(
            RECORD_OVERHEAD_BYTES
            + sum(partial.stride + PIECE_OVERHEAD_BYTES for held in partial.pieces if held is not None)
            for partial in self.reassembly._partials.values()
        )


RECORD = RECORD_OVERHEAD_BYTES + 100 + PIECE_OVERHEAD_BYTES
"""What one piece alone costs."""


def test_the_oldest_records_make_room_for_pieces_when_memory_is_used_up() -> None:
    budget = MemoryBudget(2 * SHARES * 3 * RECORD)
    pieces = Pieces(budget)
    for serial in range(4):
        pieces.add(serial, 0)
    assert pieces.drops == {DropReason.MEMORY_FULL: 1}
    assert (len(pieces.reassembly), budget.held) == (3, 3 * RECORD)
    # The oldest is gone, the others can still be whole, for which they need no memory.
    assert not pieces.add(0, 1)
    assert pieces.drops == {DropReason.MEMORY_FULL: 2}
    assert not pieces.add(3, 1)
    assert pieces.add(3, 2)
    pieces.reassembly.clear()
    assert budget.held == 0


def test_a_piece_whose_own_record_had_to_make_room_for_it_is_dropped_with_it() -> None:
    budget = MemoryBudget(2 * SHARES * 3 * RECORD)
    pieces = Pieces(budget)
    for serial in range(3):
        pieces.add(serial, 0)
    assert not pieces.add(0, 1)
    assert pieces.drops == {DropReason.MEMORY_FULL: 2}
    assert (len(pieces.reassembly), budget.held) == (2, 2 * RECORD)


def test_a_piece_that_finds_no_memory_is_dropped_and_one_that_completes_needs_none() -> None:
    budget = MemoryBudget(2 * SHARES * 3 * RECORD)
    pieces = Pieces(budget)
    pieces.add(0, 0, count=2)
    pieces.add(1, 0, count=2)
    while (greedy := budget.network.share()).take(1):  # somebody else has everything there is
        fill(greedy)
    assert not pieces.add(2, 0)
    assert not pieces.add(2, 1)
    assert pieces.drops[DropReason.MEMORY_FULL] == 2
    assert pieces.reassembly.held_pieces == 2
    assert pieces.add(0, 1, count=2)
    assert pieces.add(1, 1, count=2)
    assert pieces.add(3, 0, count=1)
    assert pieces.reassembly.held_bytes == 0


# Stories.

staged = st.lists(st.one_of(st.integers(0, 3000), st.just(STAGED_BYTES + 1)), max_size=STAGED_PACKETS + 20)
piece_moves = st.tuples(st.integers(0, MAX_RECORDS + 50), st.integers(0, 3), st.integers(1, 4), st.integers(1, 9000))
moves = st.one_of(
    st.tuples(st.just("stage"), staged),
    st.tuples(st.just("pieces"), st.lists(piece_moves, max_size=40)),
    st.tuples(st.just("take"), st.none()),
    st.tuples(st.just("expire"), st.floats(0.0, LIFETIME_S)),
    st.tuples(st.just("forget"), st.none()),
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.sampled_from([6000, 80_000, 1 << 20, 64 << 20]),
    st.lists(st.tuples(st.integers(0, 2), moves), max_size=25),
)
def test_after_any_story_the_budget_is_what_the_queues_hold_and_nothing_at_their_end(
    cap: int, story: list[tuple[int, tuple[str, object]]]
) -> None:
    budget = MemoryBudget(cap)
    stagings = [Staging(budget) for _ in range(3)]
    reassemblies = [Pieces(budget) for _ in range(3)]
    now, handed_in, gone = 0.0, 0, 0
    for who, (move, what) in story:
        staging, pieces = stagings[who], reassemblies[who]
        match move, what:
            case "stage", list(sizes):
                handed_in += len(sizes)
                gone += sum(map(len, staging.put([bytes(size) for size in sizes])))
            case "pieces", list(each):
                for serial, number, count, size in each:
                    pieces.add(serial, number, count, size, now)
                    assert budget.held <= cap
            case "take", _:
                gone += len(staging.take())
            case "expire", float(passed):
                now += passed
                pieces.reassembly.expire(now)
            case "forget", _:
                pieces.reassembly.clear()
        assert [staging.cost_bytes for staging in stagings] == [
            sum(map(packet_cost, staging.peek())) for staging in stagings
        ]
        assert all(pieces.reassembly.held_bytes == pieces.cost() <= MAX_BYTES for pieces in reassemblies)
        assert budget.held == sum(staging.cost_bytes for staging in stagings) + sum(
            pieces.cost() for pieces in reassemblies
        )
        assert budget.held <= budget.peak <= cap
        assert handed_in == gone + sum(map(len, stagings))
    for staging, pieces in zip(stagings, reassemblies, strict=True):
        staging.take()
        pieces.reassembly.clear()
    assert budget.held == 0


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["complete", "answer", "confirm", "pieces", "expire pieces", "expire", "clear"]),
            st.integers(0, 5),
            st.integers(1, 30),
        ),
        max_size=40,
    )
)
def test_a_key_that_is_forgotten_in_whatever_way_gives_its_pieces_back(story: list[tuple[str, int, int]]) -> None:
    budget, table, journal = MemoryBudget(512 << 10), LinkTable(), Journal()
    ring = Keyring(AES_GCM, 180.0, table, journal, budget)
    first = first_counter(bytes(32))
    now = 0.0
    for move, which, amount in story:
        derived = DerivedKeys(bytes(32), bytes(32), table.allocate(), 7, b"")
        match move:
            case "complete":
                ring.add_current(derived, now, keep_next=which > 2)
            case "answer":
                ring.add_next(derived, now)
            case "confirm" if ring.next is not None:
                ring.confirm_next()
            case "pieces" if ring.by_index:
                keys = list(ring.by_index.values())[which % len(ring.by_index)]
                for serial in range(amount):
                    datagram = piece(serial, which % 2, 3, 1000, keys.local_index, first)
                    assert keys.open(lone(datagram, HOME), HOME, now) == []
            case "expire pieces":
                now += amount / 60
                ring.expire_pieces(now)
            case "expire":
                now += amount * 10
                ring.expire(now)
            case "clear":
                ring.clear()
        held = [keys._pieces.held_bytes for keys in ring.by_index.values()]  # type: ignore[attr-defined]
        assert budget.held == sum(held) <= budget.cap
    ring.clear()
    assert budget.held == 0


# Sessions.


def session_in(budget: MemoryBudget) -> Session:
    config = SessionConfig(
        suite=AES_GCM, static=StaticKey(b"\x01" * 32), peer_public=StaticKey(b"\x02" * 32).public, memory=budget
    )
    return Session(config, links=LinkTable(), entropy=bytes, wall_ns=lambda: 10**18, now=0.0)


def test_sessions_share_a_budget_and_give_back_what_they_staged_when_they_give_up_or_close() -> None:
    budget = MemoryBudget(8 << 20)
    one, other, third = (session_in(budget) for _ in range(3))
    for session in (one, other):
        session.send([inner_packet(serial, 1400) for serial in range(100)], 0.0)
    third.send([super_packet(60_000, 1368)], 0.0)
    assert budget.held == 200 * packet_cost(bytes(1400)) + packet_cost(super_packet(60_000, 1368))
    one.close()
    assert one.drops == {DropReason.CLOSED: 100}
    while (at := other.next_timeout()) is not None and other.staged:
        other.handle_timeout(at)
    assert other.drops[DropReason.HANDSHAKE_TIMEOUT] == 100
    assert budget.held == packet_cost(super_packet(60_000, 1368))
    third.close()
    assert (budget.held, budget.peak > 200 * 1400) == (0, True)


def test_packets_that_find_no_memory_are_counted_and_told() -> None:
    session = session_in(MemoryBudget(2 * SHARES * 10 * packet_cost(bytes(1400))))
    session.send([inner_packet(serial, 1400) for serial in range(25)], 0.0)
    assert session.drops == {DropReason.MEMORY_FULL: 15}
    assert session.staged == 10
    session.send([super_packet(60_000, 1368)], 0.0)
    assert session.drops == {DropReason.MEMORY_FULL: 15 + super_packet(60_000, 1368).count}
    assert session.staged == 10


def test_every_configuration_has_a_budget_of_its_own_unless_told_otherwise() -> None:
    static = StaticKey(b"\x01" * 32)
    one, other = (SessionConfig(suite=AES_GCM, static=static, peer_public=bytes(32)) for _ in range(2))
    assert one.memory is not other.memory
    assert one.memory.cap == DEFAULT_MEMORY_BYTES
    assert one == other
