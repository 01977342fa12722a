"""Key slots: which key seals, which open, and that indices and tokens go back when a slot is forgotten."""

from __future__ import annotations

import pytest
from session_world import LinkTable

from holloway.protocols.arrivals import lone
from holloway.protocols.events import DropReason
from holloway.protocols.journal import Journal
from holloway.protocols.keyring import RETIRED_KEYS, Keyring
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.reassembly import LIFETIME_S
from holloway.protocols.record_wire import SPREAD_BITS, first_counter
from holloway.protocols.suites import AES_GCM


class Ring(Keyring):
    """A ring with its table, whose keys are told apart by their epochs: 1 for the first, and so on."""

    def __init__(self) -> None:
        self.table = LinkTable()
        self.journal = Journal()
        super().__init__(AES_GCM, 180.0, self.table, self.journal)

    def derive(self, token: bytes | None = None) -> DerivedKeys:
        index = self.table.allocate()
        return DerivedKeys(bytes(32), bytes(32), index, 7, index.to_bytes(16, "little") if token is None else token)

    def answer(self, now: float = 0.0) -> None:
        self.add_next(self.derive(), now)

    def complete(self, now: float = 0.0, token: bytes | None = None, *, keep_next: bool = False) -> None:
        self.add_current(self.derive(token), now, keep_next=keep_next)

    def slots(self) -> tuple[int | None, int | None]:
        return self.current and self.current.epoch, self.next and self.next.epoch

    def opening(self) -> list[int]:
        """The epochs that still open, after checking that table and ring agree."""
        assert set(self.by_index) == self.table.indices
        assert {keys.remote_token for keys in self.by_index.values() if keys.remote_token} == self.table.tokens
        return sorted(keys.epoch for keys in self.by_index.values())


def test_a_next_key_opens_but_does_not_seal_until_it_is_confirmed() -> None:
    ring = Ring()
    ring.answer()
    assert (ring.slots(), ring.opening()) == ((None, 1), [1])
    ring.confirm_next()
    assert (ring.slots(), ring.opening()) == ((1, None), [1])
    assert ring.current is not None
    assert not ring.current.is_initiator


def test_an_unused_next_key_makes_room_for_another() -> None:
    ring = Ring()
    ring.answer()
    ring.answer()
    assert (ring.slots(), ring.opening()) == ((None, 2), [2])


def test_replaced_keys_go_on_opening_until_two_more_are_replaced() -> None:
    ring = Ring()
    for made in range(1, 7):
        ring.complete()
        assert ring.slots() == (made, None)
        assert ring.opening() == list(range(max(1, made - RETIRED_KEYS), made + 1))
    assert ring.current is not None
    assert ring.current.is_initiator
    ring.answer()
    ring.confirm_next()
    assert ring.opening() == [5, 6, 7]
    assert ring.made_total == 7


@pytest.mark.parametrize("keep_next", [False, True])
def test_our_own_key_retires_the_next_one_or_leaves_it(keep_next: bool) -> None:
    ring = Ring()
    ring.answer()
    ring.complete(keep_next=keep_next)
    assert (ring.slots(), ring.opening()) == ((2, 1 if keep_next else None), [1, 2])


def test_expired_keys_are_forgotten_in_every_slot() -> None:
    ring = Ring()
    for now in (0.0, 1.0, 2.0):
        ring.complete(now)
    ring.answer(3.0)
    for now, left in ((179.9, 4), (180.0, 3), (181.0, 2), (182.0, 1), (182.9, 1), (183.0, 0)):
        ring.expire(now)
        assert len(ring.opening()) == left
        assert ring.earliest_expiry() == (184.0 - left if left else None)
    assert ring.slots() == (None, None)


def test_expiry_is_exact_for_times_that_floats_round() -> None:
    ring = Ring()
    for number in range(200):
        ring.complete(number * 0.1 + 1e6 / 3)
        earliest = ring.earliest_expiry()
        assert earliest is not None
        ring.expire(earliest)
        assert ring.earliest_expiry() != earliest, "the deadline fires and finds nothing to do"


def test_clear_gives_everything_back() -> None:
    ring = Ring()
    ring.complete()
    ring.complete()
    ring.answer()
    ring.clear()
    assert (ring.slots(), ring.opening(), ring.table.tokens) == ((None, None), [], set())


def test_a_token_shared_by_two_slots_is_expected_until_both_are_gone() -> None:
    ring = Ring()
    ring.complete(0.0, b"same" * 4)
    ring.complete(1.0, b"same" * 4)
    ring.expire(180.0)
    assert ring.table.tokens == {b"same" * 4}
    ring.expire(181.0)
    assert ring.table.tokens == set()


def test_keys_without_a_token_expect_no_reset() -> None:
    ring = Ring()
    ring.complete(token=b"")
    assert ring.table.tokens == set()
    ring.clear()
    assert ring.opening() == []
    assert "retired=0" in repr(ring)


HOME = ("192.0.2.7", 1099)


def wait_for_more(ring: Ring, now: float, count: int = 1) -> None:
    """Pieces of records that never become whole, under the current key."""
    keys = ring.current
    assert keys is not None
    for serial in range(count):
        word = first_counter(bytes(32)) + serial << SPREAD_BITS | 1
        piece = keys.local_index.to_bytes(4, "little") + b"\0\0\1\0" + word.to_bytes(8, "little") + bytes(100)
        assert keys.open(lone(piece, HOME), HOME, now) == []


def test_pieces_expire_under_every_key_at_the_time_that_was_told() -> None:
    ring = Ring()
    assert ring.watch_pieces() is None
    for now in (1.0, 1.2):
        ring.complete(now)
        wait_for_more(ring, now)
    assert ring.watch_pieces() == 1.0 + LIFETIME_S
    ring.expire_pieces(1.0 + LIFETIME_S)
    assert ring.journal.drops == {DropReason.PIECE_EXPIRED: 1}
    assert ring.watch_pieces() == 1.2 + LIFETIME_S
    ring.expire_pieces(1.2 + LIFETIME_S)
    assert ring.journal.drops == {DropReason.PIECE_EXPIRED: 2}
    assert ring.watch_pieces() is None


def test_pieces_are_forgotten_with_their_key() -> None:
    ring = Ring()
    ring.complete(0.0)
    wait_for_more(ring, 0.0, 3)
    for _ in range(RETIRED_KEYS):
        ring.complete(1.0)
    assert ring.journal.drops == {}, "a retired key still collects"
    ring.complete(1.0)
    assert ring.journal.drops == {DropReason.PIECE_FORGOTTEN: 3}
    wait_for_more(ring, 1.0)
    ring.clear()
    assert ring.journal.drops == {DropReason.PIECE_FORGOTTEN: 4}
    assert ring.watch_pieces() is None


def test_whoever_watches_takes_back_that_keys_are_waiting() -> None:
    ring = Ring()
    ring.complete(0.0)
    keys = ring.current
    assert keys is not None
    assert not keys.is_waiting
    wait_for_more(ring, 0.0)
    assert keys.is_waiting
    assert ring.watch_pieces() == LIFETIME_S
    assert not keys.is_waiting
