"""Addresses: no two machines with the same one and none without, in every order of their transactions."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holloway.protocols.address_claims import (
    MAX_CLAIM_BYTES,
    ClaimProblem,
    Holder,
    claim_suffix,
    decode_claim,
    encode_claim,
    freed_claim,
    read_suffix,
)
from holloway.protocols.address_plan import MAX_LOSSES, AddressClaim, Claim, Obstacle, Refusal, held_by
from holloway.protocols.errors import LocalError
from holloway.protocols.network_settings import NetworkSettings

STANDARD = NetworkSettings()
SMALL = NetworkSettings(network=IPv4Network("10.0.0.0/28"), static_range=None, floating_range=None)
NOW = 1_800_000_000.5
NEWER = b'{"v":3}'
GARBAGE = b"\xff"


def key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def machine(number: int, made: NetworkSettings = STANDARD, **options: Any) -> AddressClaim:
    return AddressClaim(made, f"node-{number}", key(number), **options)


def held(number: int, free_from: int | None = None) -> bytes:
    return encode_claim(Holder(f"node-{number}", key(number), free_from))


def ip(text: str) -> IPv4Address:
    return IPv4Address(text)


def first_address(claim: AddressClaim, entries: dict[bytes, bytes], wall_s: float = NOW) -> str:
    attempt = claim.next(entries, wall_s)
    assert isinstance(attempt, Claim), attempt
    return str(attempt.address)


def obstacle(claim: AddressClaim, entries: dict[bytes, bytes]) -> Refusal:
    attempt = claim.next(entries, NOW)
    assert isinstance(attempt, Refusal), attempt
    assert all(attempt.explain())
    return attempt


class Store:
    """A store with compare-and-put."""

    def __init__(self, entries: dict[bytes, bytes] | None = None) -> None:
        self.entries = dict(entries or {})
        self.tries = 0

    def run(self, claim: Claim) -> bool:
        self.tries += 1
        if self.entries.get(claim.key_suffix) != claim.expected:
            return False
        self.entries[claim.key_suffix] = claim.value
        return True


def settle(store: Store, claims: list[AddressClaim], order: list[int], snapshot_each: bool = False) -> dict[int, Any]:
    """All machines at once, one transaction at a time, in the order given and then in turn."""
    begun = dict(store.entries)
    attempts: dict[int, Any] = {at: claim.next(begun, NOW) for at, claim in enumerate(claims)}
    ends: dict[int, Any] = {}
    turns = [*order, *list(range(len(claims))) * 200]
    for turn in turns:
        at = turn % len(claims)
        if at in ends:
            continue
        attempt = attempts[at]
        if isinstance(attempt, Refusal):
            if attempt.obstacle is Obstacle.LOOK_AGAIN:
                attempts[at] = claims[at].next(store.entries, NOW)
            else:
                ends[at] = attempt
        elif store.run(attempt):
            ends[at] = attempt
        else:
            attempts[at] = claims[at].lost(store.entries.get(attempt.key_suffix), NOW)
        if len(ends) == len(claims):
            break
    assert len(ends) == len(claims), "somebody is without an end"
    return ends


# Claims.


@given(st.integers(0, 9), st.none() | st.integers(0, 2**53 - 1))
def test_a_claim_is_read_as_it_was_written(number: int, free_from: int | None) -> None:
    holder = Holder(f"node-{number}", key(number), free_from)
    assert decode_claim(encode_claim(holder)) == holder


def test_the_form_of_a_claim_is_what_other_versions_rely_on() -> None:
    assert json.loads(held(1)) == {"v": 2, "name": "node-1", "key": key(1), "free_from": None}
    freed = json.loads(freed_claim(Holder("node-1", key(1)), NOW, 60))
    assert freed == {"v": 2, "name": "node-1", "key": key(1), "free_from": 1_800_000_060}


def fields(**changes: Any) -> bytes:
    return json.dumps(json.loads(held(1)) | changes).encode()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b" " * (MAX_CLAIM_BYTES + 1), ClaimProblem.TOO_BIG),
        (b"[" * 1000, ClaimProblem.NOT_JSON),
        (b"3", ClaimProblem.NOT_JSON),
        (GARBAGE, ClaimProblem.NOT_JSON),
        (NEWER, ClaimProblem.WRONG_VERSION),
        (fields(v=True), ClaimProblem.WRONG_VERSION),
        (fields(name="../x"), ClaimProblem.BAD_FIELD),
        (fields(name=["x"]), ClaimProblem.BAD_FIELD),
        (fields(key=key(1).upper()), ClaimProblem.BAD_FIELD),
        (fields(key=3), ClaimProblem.BAD_FIELD),
        (fields(free_from=True), ClaimProblem.BAD_FIELD),
        (fields(free_from=-1), ClaimProblem.BAD_FIELD),
        (fields(free_from=2**53), ClaimProblem.BAD_FIELD),
        (fields(free_from="soon"), ClaimProblem.BAD_FIELD),
        (b'{"v":2,"name":"a","key":"%s"}' % key(1).encode(), ClaimProblem.BAD_FIELD),
    ],
)
def test_hostile_claims_are_refused_for_a_reason(value: bytes, problem: ClaimProblem) -> None:
    assert decode_claim(value) is problem


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_and_nothing_raises(value: bytes) -> None:
    assert isinstance(decode_claim(value), ClaimProblem)
    assert read_suffix(value) is None or claim_suffix(ip(value.decode())) == value


def test_only_the_usual_spelling_of_an_address_is_one() -> None:
    assert read_suffix(b"10.99.4.1") == ip("10.99.4.1")
    for other in (b"10.99.4.01", b"10.99.4.1 ", b"10.99.4", b"fd00::1", "10.99.4.\u0661".encode(), b""):
        assert read_suffix(other) is None


@pytest.mark.parametrize(("name", "fingerprint"), [("", key(1)), ("a/b", key(1)), ("a", "00"), ("a", key(1) + "\n")])
def test_a_machine_that_others_would_refuse_is_refused_here(name: str, fingerprint: str) -> None:
    with pytest.raises(LocalError):
        AddressClaim(STANDARD, name, fingerprint)


# Choosing.


def test_the_first_machine_gets_the_first_address_after_the_reserved_ranges() -> None:
    assert first_address(machine(1), {}) == "10.99.4.1"


def test_the_lowest_free_one_is_taken_and_neither_0_nor_255() -> None:
    entries = {b"10.99.4.%d" % last: held(last) for last in range(1, 255)}
    assert first_address(machine(300), entries) == "10.99.5.1"
    del entries[b"10.99.4.7"]
    assert first_address(machine(300), entries) == "10.99.4.7"


def test_ranges_in_the_middle_are_passed_over_and_both_ends_are_used() -> None:
    made = replace(STANDARD, static_range=IPv4Network("10.99.1.0/24"), floating_range=IPv4Network("10.99.0.128/25"))
    entries: dict[bytes, bytes] = {}
    for number in range(130):
        entries[first_address(machine(number, made), entries).encode()] = held(number)
    assert b"10.99.0.1" in entries
    assert b"10.99.0.127" in entries
    assert b"10.99.2.1" in entries
    assert not any(made.is_static(ip(each.decode())) or made.is_floating(ip(each.decode())) for each in entries)


def test_a_machine_keeps_its_address_resting_or_not_and_the_one_it_remembers_before_others() -> None:
    for free_from in (None, int(NOW) + 60):
        entries = {b"10.99.9.9": held(1, free_from), b"10.99.4.1": held(2), b"10.99.8.8": held(1)}
        assert first_address(machine(1), entries) == "10.99.8.8"
        assert first_address(machine(1, former=ip("10.99.9.9")), entries) == "10.99.9.9"
    attempt = machine(1).next({b"10.99.9.9": held(1)}, NOW)
    assert isinstance(attempt, Claim)
    assert (attempt.expected, attempt.value) == (held(1), held(1))


def test_a_former_address_is_asked_for_again_unless_another_has_it() -> None:
    former = ip("10.99.7.7")
    assert first_address(machine(1, former=former), {}) == "10.99.7.7"
    assert first_address(machine(1, former=former), {b"10.99.7.7": held(2, 5)}) == "10.99.7.7"
    assert first_address(machine(1, former=former), {b"10.99.7.7": held(2)}) == "10.99.4.1"
    assert first_address(machine(1, former=ip("10.99.2.1")), {}) == "10.99.4.1", "it is floating now"
    assert first_address(machine(1, former=ip("10.1.2.3")), {}) == "10.99.4.1", "it is of another network"


def test_an_entry_of_ours_that_no_node_may_have_is_not_taken_for_our_address() -> None:
    entries = {b"10.99.2.9": held(1), b"10.99.255.255": held(1), b"10.99.4.01": held(1), b"x": held(1)}
    assert first_address(machine(1), entries) == "10.99.4.1"
    assert held_by(entries, key(1)) == [ip("10.99.2.9"), ip("10.99.255.255")]
    assert held_by({b"10.99.4.1": held(2).replace(b"node-2", key(1)[:60].encode())}, key(1)) == []
    assert held_by({b"10.99.4.1": held(2)[:-1] + b',"by":"%s"}' % key(1).encode()}, key(1)) == []


def test_a_freed_address_rests_for_others_and_not_for_its_machine() -> None:
    entries = {b"10.99.4.1": freed_claim(Holder("node-1", key(1)), NOW, 60)}
    assert first_address(machine(2), entries) == "10.99.4.2"
    assert first_address(machine(1), entries) == "10.99.4.1"
    assert first_address(machine(2), entries, NOW + 59) == "10.99.4.2"
    assert first_address(machine(2), entries, NOW + 60) == "10.99.4.1"


def test_a_wish_is_the_only_address_tried() -> None:
    wish = ip("10.99.0.5")
    assert first_address(machine(1, wish=wish), {b"10.99.9.9": held(1)}) == "10.99.0.5"
    for value in (held(1), held(1, int(NOW) + 9), held(2, 5), GARBAGE):
        attempt = machine(1, wish=wish).next({b"10.99.0.5": value}, NOW)
        assert isinstance(attempt, Claim)
        assert attempt.expected == value


def test_a_wish_that_another_has_is_refused_by_name() -> None:
    refusal = obstacle(machine(1, wish=ip("10.99.0.5")), {b"10.99.0.5": held(2)})
    assert refusal == Refusal(Obstacle.TAKEN, ip("10.99.0.5"), "node-2")
    assert "node-2" in "".join(refusal.explain())
    refusal = obstacle(machine(1, wish=ip("10.99.0.5")), {b"10.99.0.5": held(2, int(NOW) + 60)})
    assert refusal == Refusal(Obstacle.RESTING, ip("10.99.0.5"), "node-2", int(NOW) + 60)
    assert obstacle(machine(1, wish=ip("10.99.0.5")), {b"10.99.0.5": NEWER}).obstacle is Obstacle.NEWER


def test_a_wish_that_is_lost_is_tried_again_when_it_may_be_had() -> None:
    claim = machine(1, wish=ip("10.99.0.5"))
    claim.next({}, NOW)
    again = claim.lost(held(2, 5), NOW)
    assert isinstance(again, Claim)
    assert again.expected == held(2, 5)
    again = claim.lost(None, NOW)
    assert isinstance(again, Claim)
    assert again.expected is None
    assert claim.lost(held(2), NOW) == Refusal(Obstacle.TAKEN, ip("10.99.0.5"), "node-2")


@pytest.mark.parametrize("wish", ["10.98.0.1", "10.99.0.0", "10.99.255.255", "10.99.2.7", "8.8.8.8"])
def test_a_wish_that_no_node_may_have_is_a_local_mistake(wish: str) -> None:
    with pytest.raises(LocalError) as refused:
        machine(1, wish=ip(wish))
    assert wish in refused.value.what
    assert refused.value.why
    assert refused.value.fix


def test_losing_what_was_not_tried_is_a_local_mistake() -> None:
    claim = machine(1)
    with pytest.raises(LocalError):
        claim.lost(None, NOW)
    claim.next({b"10.99.0.5": held(2)}, NOW)
    refused = machine(1, wish=ip("10.99.0.5"))
    refused.next({b"10.99.0.5": held(2)}, NOW)
    with pytest.raises(LocalError):
        refused.lost(None, NOW)


def test_what_nobody_can_read_is_passed_over_and_taken_when_nothing_else_is_left() -> None:
    entries = {b"10.0.0.%d" % last: held(last) for last in range(1, 15)}
    entries[b"10.0.0.3"], entries[b"10.0.0.4"], entries[b"10.0.0.9"] = NEWER, GARBAGE, b'"free_from":null'
    fuller = dict(entries)
    del entries[b"10.0.0.14"]
    assert first_address(machine(99, SMALL), entries) == "10.0.0.14"
    attempt = machine(99, SMALL).next(fuller, NOW)
    assert isinstance(attempt, Claim)
    assert (attempt.key_suffix, attempt.expected) == (b"10.0.0.4", GARBAGE)
    fuller[b"10.0.0.4"] = held(4)
    assert first_address(machine(99, SMALL), fuller) == "10.0.0.9"
    fuller[b"10.0.0.9"] = held(9)
    assert obstacle(machine(99, SMALL), fuller).obstacle is Obstacle.FULL


# Races.


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 11), min_size=2, max_size=12),
    st.lists(st.integers(0, 11), max_size=200),
    st.dictionaries(
        st.integers(1, 14),
        st.sampled_from(
            (held(90), held(91, 5), held(92, int(NOW) + 60), GARBAGE, NEWER, held(3), held(5, int(NOW) + 9))
        ),
    ),
)
def test_in_every_order_of_transactions_addresses_are_distinct_and_rest_is_respected(
    numbers: list[int], order: list[int], begun: dict[int, bytes]
) -> None:
    numbers = sorted(set(numbers))
    entries = {b"10.0.0.%d" % last: value for last, value in begun.items()}
    store = Store(entries)
    ends = settle(store, [machine(each, SMALL) for each in numbers], order)
    won = {numbers[at]: end.address for at, end in ends.items() if isinstance(end, Claim)}
    assert len(set(won.values())) == len(won)
    for number, address in won.items():
        assert store.entries[claim_suffix(address)] == held(number), "the entry of a winner is its own"
        before = decode_claim(entries.get(claim_suffix(address), GARBAGE))
        if isinstance(before, Holder) and before.key != key(number):
            assert before.is_free(NOW)
    for suffix, value in entries.items():
        if value in (held(90), held(92, int(NOW) + 60), NEWER):
            assert store.entries[suffix] == value, "what was not free is as it was"
    if len(won) < len(numbers):
        assert all(f"10.0.0.{last}".encode() in store.entries for last in range(1, 15)), "one was free, another without"


def test_fifty_machines_at_once_have_fifty_addresses_after_few_tries() -> None:
    store = Store()
    ends = settle(store, [machine(each) for each in range(50)], [])
    addresses = {end.address for end in ends.values()}
    assert len(addresses) == 50
    assert store.tries <= 200, "four tries each, on average"
    assert all(ip("10.99.4.1") <= each <= ip("10.99.12.0") for each in addresses)


def test_the_same_wish_of_many_is_had_by_one_and_the_others_hear_of_whom() -> None:
    store = Store()
    ends = settle(store, [machine(each, wish=ip("10.99.0.5")) for each in range(9)], [])
    kinds = Counter(type(end) for end in ends.values())
    assert kinds == {Claim: 1, Refusal: 8}
    winner = next(at for at, end in ends.items() if isinstance(end, Claim))
    assert {end.holder for end in ends.values() if isinstance(end, Refusal)} == {f"node-{winner}"}


def test_after_many_losses_a_new_snapshot_is_asked_for() -> None:
    claim = machine(1)
    attempt: Any = claim.next({}, NOW)
    for _ in range(MAX_LOSSES - 1):
        attempt = claim.lost(held(2), NOW)
        assert isinstance(attempt, Claim)
    refusal = claim.lost(held(2), NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.obstacle is Obstacle.LOOK_AGAIN
    assert all(refusal.explain())
    assert isinstance(claim.next({}, NOW), Claim)


def test_a_transaction_of_unknown_end_is_found_to_be_ours() -> None:
    claim, store = machine(1), Store()
    attempt = claim.next(store.entries, NOW)
    assert isinstance(attempt, Claim)
    store.run(attempt)
    again = claim.next(store.entries, NOW)
    assert isinstance(again, Claim)
    assert again.address == attempt.address
    assert store.run(again)
    found = claim.lost(held(1), NOW)
    assert isinstance(found, Claim)
    assert found.address == attempt.address


def test_a_nearly_full_network_of_65000_is_searched_in_a_moment() -> None:
    entries: dict[bytes, bytes] = {}
    value = held(7)
    for number in range(4 * 256, 65_536):
        if 0 < number & 255 < 255:
            entries[b"10.99.%d.%d" % (number >> 8, number & 255)] = value
    free = b"10.99.255.254"
    del entries[free]
    claim = machine(1)
    began = time.process_time()
    attempt = claim.next(entries, NOW)
    took_s = time.process_time() - began
    assert isinstance(attempt, Claim)
    assert attempt.key_suffix == free
    assert took_s < 1.0
