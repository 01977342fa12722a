"""Key slots: which key seals, which open, and that indices and tokens go back when a slot is forgotten."""

from __future__ import annotations

from session_world import LinkTable

from holloway.protocols.keyring import RETIRED_KEYS, Keyring
from holloway.protocols.noise import DerivedKeys
from holloway.protocols.suites import AES_GCM
from holloway.protocols.transport import RecordKeys, TransportKeys


def make(table: LinkTable, at: float = 0.0, token: bytes | None = None, *, is_initiator: bool = True) -> TransportKeys:
    index = table.allocate()
    derived = DerivedKeys(bytes(32), bytes(32), index, 7, index.to_bytes(16, "little") if token is None else token)
    return RecordKeys(AES_GCM, derived, is_initiator=is_initiator, created_at=at, expires_at=at + 180.0, epoch=1)


def held(ring: Keyring, table: LinkTable) -> list[TransportKeys]:
    """The slots, after checking that tables and ring agree."""
    assert set(ring.by_index) == table.indices
    assert {keys.remote_token for keys in ring.by_index.values() if keys.remote_token} == table.tokens
    return list(ring.by_index.values())


def test_a_next_key_opens_but_does_not_seal_until_it_is_confirmed() -> None:
    table = LinkTable()
    ring = Keyring(table)
    keys = make(table)
    ring.add_next(keys)
    assert (ring.current, ring.next) == (None, keys)
    assert held(ring, table) == [keys]
    ring.confirm_next()
    assert (ring.current, ring.next) == (keys, None)
    assert held(ring, table) == [keys]


def test_an_unused_next_key_makes_room_for_another() -> None:
    table = LinkTable()
    ring = Keyring(table)
    first, second = make(table), make(table)
    ring.add_next(first)
    ring.add_next(second)
    assert ring.next is second
    assert held(ring, table) == [second]


def test_replaced_keys_go_on_opening_until_two_more_are_replaced() -> None:
    table = LinkTable()
    ring = Keyring(table)
    made = []
    for _ in range(6):
        keys = make(table)
        ring.add_current(keys, keep_next=False)
        made.append(keys)
        assert ring.current is keys
        assert held(ring, table) == made[-1 - RETIRED_KEYS :]
    confirmed = make(table)
    ring.add_next(confirmed)
    ring.confirm_next()
    assert held(ring, table) == [*made[-RETIRED_KEYS:], confirmed]


def test_our_own_key_retires_the_next_one_or_leaves_it() -> None:
    for keep_next in (False, True):
        table = LinkTable()
        ring = Keyring(table)
        theirs, ours = make(table), make(table)
        ring.add_next(theirs)
        ring.add_current(ours, keep_next=keep_next)
        assert ring.current is ours
        assert ring.next is (theirs if keep_next else None)
        assert held(ring, table) == [theirs, ours]


def test_expired_keys_are_forgotten_in_every_slot() -> None:
    table = LinkTable()
    ring = Keyring(table)
    for at in (0.0, 1.0, 2.0):
        ring.add_current(make(table, at), keep_next=False)
    ring.add_next(make(table, 3.0))
    for now, left in ((179.9, 4), (180.0, 3), (181.0, 2), (182.0, 1), (182.9, 1), (183.0, 0)):
        ring.expire(now)
        assert len(held(ring, table)) == left
        assert ring.earliest_expiry() == (184.0 - left if left else None)
    assert (ring.current, ring.next) == (None, None)


def test_expiry_is_exact_for_times_that_floats_round() -> None:
    table = LinkTable()
    ring = Keyring(table)
    for number in range(200):
        at = number * 0.1 + 1e6 / 3
        ring.add_current(make(table, at), keep_next=False)
        earliest = ring.earliest_expiry()
        assert earliest is not None
        ring.expire(earliest)
        assert ring.earliest_expiry() != earliest, "the deadline fires and finds nothing to do"


def test_clear_gives_everything_back() -> None:
    table = LinkTable()
    ring = Keyring(table)
    ring.add_current(make(table), keep_next=False)
    ring.add_current(make(table), keep_next=False)
    ring.add_next(make(table))
    ring.clear()
    assert held(ring, table) == []
    assert (ring.current, ring.next, table.tokens) == (None, None, set())


def test_a_token_shared_by_two_slots_is_expected_until_both_are_gone() -> None:
    table = LinkTable()
    ring = Keyring(table)
    ring.add_current(make(table, 0.0, b"same" * 4), keep_next=False)
    ring.add_current(make(table, 1.0, b"same" * 4), keep_next=False)
    ring.expire(180.0)
    assert table.tokens == {b"same" * 4}
    ring.expire(181.0)
    assert table.tokens == set()


def test_keys_without_a_token_expect_no_reset() -> None:
    table = LinkTable()
    ring = Keyring(table)
    ring.add_current(make(table, token=b""), keep_next=False)
    assert table.tokens == set()
    ring.clear()
    assert held(ring, table) == []
    assert "retired=0" in repr(ring)
