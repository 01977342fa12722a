"""What is believed of records: who stays, who goes, whose claim is older. Pure, so time is a number."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_world import name, public_key, record

from holloway.actors.records import KEY_HOLD_S, REFUSED_SHOWN, VANISHED_S, Records
from holloway.actors.registry import Entry
from holloway.actors.wanted import Peer
from holloway.protocols.membership import decode_record, encode_record
from holloway.protocols.z85 import encode_z85


class Said:
    """A log that is not bounded, and needs no clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, message: str, *args: object) -> None:
        self.lines.append(message % args)


def records(*before: Peer, now: float = 0.0) -> tuple[Records, Counter[str], Said]:
    problems, said = Counter[str](), Said()
    return Records(name(1), public_key(1), before, decode_record, problems, said, now), problems, said  # type: ignore[arg-type]


def entry(number: int, *, since: int = 5, **changes: Any) -> Entry:
    return Entry(encode_record(record(number, **changes)), since, since, 1, None)


def raw(number: int) -> bytes:
    return name(number).encode()


def names(made: Records, now: float) -> list[str]:
    return [peer.name for peer in made.peers(now)[0]]


def test_a_record_is_a_peer_with_all_its_endpoints_and_prefixes() -> None:
    made, _, _ = records()
    value = record(2, endpoints=(("b.example", 1), ("192.0.2.2", 2)))
    made.learn(raw(2), Entry(encode_record(value), 5, 5, 1, None), 0.0)
    ((peer,), again_at) = made.peers(0.0)
    assert (peer.name, peer.public_key, peer.allowed) == (name(2), public_key(2), value.allowed())
    assert [(each.host, each.port) for each in peer.endpoints] == list(value.endpoints)
    assert (peer.suite, peer.keepalive_s, again_at) == ("aes-gcm", 0, math.inf)


def test_our_own_record_is_nobodys() -> None:
    made, problems, _ = records()
    made.learn(raw(1), entry(1), 0.0)
    assert (len(made), problems) == (0, {})


def test_a_vanished_record_keeps_its_peer_for_a_while() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2), 0.0)
    made.forget(raw(2), 10.0)
    made.forget(raw(2), 20.0)  # twice is once
    assert made.peers(10.0) == (made.peers(20.0)[0], 10.0 + VANISHED_S)
    assert names(made, 9.9 + VANISHED_S) == [name(2)]
    assert names(made, 10.0 + VANISHED_S) == []
    assert len(made) == 0


def test_a_record_that_is_back_has_not_vanished() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2), 0.0)
    made.forget(raw(2), 10.0)
    made.learn(raw(2), entry(2, since=9), 50.0)
    assert made.peers(1000.0)[1] == math.inf
    assert names(made, 1000.0) == [name(2)]


def test_a_record_that_turns_bad_is_one_that_vanished() -> None:
    made, problems, said = records()
    made.learn(raw(2), entry(2), 0.0)
    made.learn(raw(2), Entry(b"{", 5, 6, 2, None), 10.0)
    assert names(made, 100.0) == [name(2)]
    assert made.refused() == {name(2): "record_not_json"}
    assert names(made, 10.0 + VANISHED_S) == []
    assert (problems, said.lines) == (
        {"record_not_json": 1},
        ["the record of node 'node-2' is refused: record_not_json"],
    )
    made.learn(raw(2), entry(2), 200.0)
    assert made.refused() == {}


def test_a_snapshot_says_who_is_left() -> None:
    made, _, _ = records()
    for number in (2, 3):
        made.learn(raw(number), entry(number), 0.0)
    made.learn(b"bad", Entry(b"", 5, 5, 1, None), 0.0)
    made.keep_only([raw(3)], 10.0)
    made.learn(raw(3), entry(3), 10.0)
    assert names(made, 10.0) == [name(3), name(2)]
    assert made.peers(10.0)[1] == 10.0 + VANISHED_S
    assert made.refused() == {}


def test_peers_known_from_an_earlier_life_are_kept_until_their_time_is_over() -> None:
    before = Peer(name=name(2), public_key=public_key(2))
    made, _, _ = records(before, Peer(name=name(3), public_key=public_key(3)), now=100.0)
    made.learn(raw(3), entry(3), 101.0)
    assert made.peers(101.0)[0][1] == before
    assert names(made, 100.0 + VANISHED_S) == [name(3)]


def test_the_older_claim_comes_first_and_those_who_are_there_before_those_who_were() -> None:
    made, _, _ = records()
    for number, since in ((2, 9), (3, 7), (4, 8), (5, 8)):
        made.learn(raw(number), entry(number, since=since), 0.0)
    assert names(made, 0.0) == [name(3), name(4), name(5), name(2)]
    made.forget(raw(3), 1.0)
    assert names(made, 1.0) == [name(4), name(5), name(2), name(3)]


def test_who_is_back_under_another_name_has_not_vanished() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2), 0.0)
    made.forget(raw(2), 1.0)
    made.learn(b"renamed", entry(2, name="renamed", since=9), 2.0)
    assert names(made, 2.0) == ["renamed"]


def test_another_key_must_stand_before_it_is_believed() -> None:
    made, _, said = records()
    made.learn(raw(2), entry(2), 0.0)
    made.learn(raw(2), entry(2, public_key=public_key(9)), 10.0)
    made.learn(raw(2), entry(2, public_key=public_key(9), prefixes=()), 12.0)
    ((peer,), again_at) = made.peers(12.0)
    assert (peer.public_key, again_at) == (public_key(2), 10.0 + KEY_HOLD_S)
    ((peer,), again_at) = made.peers(10.0 + KEY_HOLD_S)
    assert (peer.public_key, again_at) == (public_key(9), math.inf)
    assert said.lines == ["node node-2 has another key from now on"]


def test_whoever_names_the_key_of_another_comes_after_its_owner_however_old_the_record_is() -> None:
    made, _, _ = records()
    made.learn(raw(3), entry(3, since=5), 0.0)
    made.learn(raw(2), entry(2, since=9), 0.0)
    named = encode_record(record(3, public_key=public_key(2)))
    made.learn(raw(3), Entry(named, 5, 12, 2, None), 1.0)
    made.learn(raw(3), Entry(named + b" ", 5, 13, 3, None), 2.0)
    assert names(made, 1.0 + KEY_HOLD_S) == [name(2), name(3)]
    made.learn(raw(3), Entry(named, 5, 14, 4, None), 9.0)
    assert names(made, 9.0) == [name(2), name(3)]


def test_a_key_that_comes_and_goes_is_never_believed() -> None:
    made, _, _ = records()
    for second in range(100):
        made.learn(raw(2), entry(2, public_key=public_key(2 + second % 3)), float(second))
        ((peer,), _) = made.peers(float(second))
        assert peer.public_key == public_key(2)


def test_another_key_after_a_long_absence_is_believed_though_the_first_is_gone_by_then() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2), 0.0)
    made.forget(raw(2), 0.0)
    made.learn(raw(2), entry(2, public_key=public_key(9)), VANISHED_S - 1)
    assert made.peers(VANISHED_S - 1)[1] == VANISHED_S
    ((peer,), again_at) = made.peers(VANISHED_S)
    assert (peer.public_key, again_at) == (public_key(9), math.inf)


def test_nodes_beyond_the_limit_are_refused_and_whoever_vanished_first_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holloway.actors.records.MAX_PEERS", 50)
    made, problems, _ = records()
    value = encode_record(record(2))
    old, new = name(2).encode(), b"%06d"
    for number in range(52):
        called = new % number
        made.learn(called, Entry(value.replace(old, called), number, number, 1, None), 0.0)
    assert len(made) == 50
    assert problems == {"record_too_many": 2}
    made.forget(new % 7, 1.0)
    made.forget(new % 8, 2.0)
    last = new % 55
    made.learn(last, Entry(value.replace(old, last), 9, 9, 1, None), 3.0)
    assert len(made) == 50
    assert (new % 7).decode() not in made._known
    assert (new % 8).decode() in made._known


def test_the_names_of_refused_records_are_bounded_and_printable() -> None:
    made, problems, said = records()
    for number in range(REFUSED_SHOWN + 50):
        made.learn(b"\x1b[31m\n%d" % number + bytes([255]) * 500, Entry(b"", 1, 1, 1, None), 0.0)
    assert len(made.refused()) == REFUSED_SHOWN
    assert problems == {"record_not_json": REFUSED_SHOWN + 50}
    assert all(each.isprintable() and len(each) < 400 for each in said.lines)
    assert all(len(each) < 260 for each in made.refused())


@given(st.lists(st.tuples(st.integers(2, 6), st.sampled_from("plkfbs"), st.floats(0, 30)), max_size=60))
def test_whatever_happens_the_books_agree_and_everybody_is_gone_in_the_end(steps: list[Any]) -> None:
    made, _, _ = records()
    now = 0.0
    for number, what, pause in steps:
        now += pause
        match what:
            case "l":
                made.learn(raw(number), entry(number), now)
            case "k":
                made.learn(raw(number), entry(number, public_key=public_key(number + 1)), now)
            case "b":
                made.learn(raw(number), Entry(b"!", 1, 1, 1, None), now)
            case "f":
                made.forget(raw(number), now)
            case "s":
                made.keep_only([raw(number)], now)
            case "p":
                _, again_at = made.peers(now)
                assert again_at > now
        assert set(made._vanished) == {each for each, known in made._known.items() if known.vanished_at != math.inf}
    made.keep_only([], now)
    assert names(made, now + VANISHED_S) == []
    assert (made._known, made._vanished, made.refused()) == ({}, {}, {})


ONE_KEY, OTHER_KEY = (encode_z85(bytes([number]) * 32) for number in (7, 8))


def test_of_two_records_that_name_one_agents_key_the_older_claim_comes_first() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2, since=3), 0.0)
    made.learn(raw(3), entry(3, since=9, curve_key=ONE_KEY), 0.0)
    value = encode_record(record(2, curve_key=ONE_KEY))
    made.learn(raw(2), Entry(value, 3, 12, 2, None), 0.0)  # who has been there longest names it last
    assert [each.name for each in made.told()] == [name(3), name(2)]
    made.learn(raw(3), entry(3, since=20, curve_key=OTHER_KEY), 0.0)
    assert [(each.name, each.curve_key) for each in made.told()] == [(name(2), ONE_KEY), (name(3), OTHER_KEY)]


def test_what_a_record_says_of_the_control_plane_goes_with_its_node() -> None:
    made, _, _ = records()
    made.learn(raw(2), entry(2, curve_key=ONE_KEY), 0.0)
    made.forget(raw(2), 10.0)
    assert [each.curve_key for each in made.told()] == [ONE_KEY]
    made.peers(10.0 + VANISHED_S)
    assert made.told() == ()
