"""Handshake messages of one peer: what is refused and why, and what a refusal leaves as it was."""

from __future__ import annotations

import random

import pytest
from session_world import LinkTable

from holloway.protocols.cookies import MacChecker
from holloway.protocols.errors import LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.handshakes import Handshakes
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import DerivedKeys, OpenedInitiation
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, MessageType, Suite
from holloway.protocols.timers import INITIATION_INTERVAL_S

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
PSK = b"k" * 32
YEAR_2026_NS = 1_767_225_600_000_000_000


class Party:
    """One end, with a wall clock that stands still unless it is moved."""

    def __init__(self, seed: int, suite: Suite = AES_GCM, limit: int = 100) -> None:
        self.rng = random.Random(seed)
        self.static = StaticKey(self.rng.randbytes(32))
        self.suite, self.table, self.wall_ns = suite, LinkTable(limit), YEAR_2026_NS

    def meet(self, peer: Party, preshared: bytes = PSK) -> Handshakes:
        return Handshakes(
            self.suite,
            self.static,
            peer.static.public,
            preshared,
            links=self.table,
            entropy=self.rng.randbytes,
            wall_ns=lambda: self.wall_ns,
        )

    def open(self, message: bytes | None) -> OpenedInitiation:
        assert message is not None
        return OpenedInitiation(self.suite, self.static, message)


def two(suite: Suite = AES_GCM, limit: int = 100) -> tuple[Party, Handshakes, Party, Handshakes]:
    a, b = Party(1, suite), Party(2, suite, limit)
    return a, a.meet(b), b, b.meet(a)


def answered(answer: tuple[bytes, DerivedKeys] | DropReason) -> tuple[bytes, DerivedKeys]:
    assert not isinstance(answer, DropReason), answer
    return answer


@both_suites
def test_a_whole_handshake_agrees_and_leaves_one_index_on_each_side(suite: Suite) -> None:
    a, ours, b, theirs = two(suite)
    message = ours.initiate(1.0)
    assert ours.is_under_way
    assert ours.initiated_at == 1.0
    response, their_keys = answered(theirs.answer(b.open(message), 2.0))
    assert theirs.answered_at == 2.0
    our_keys = ours.complete(response)
    assert isinstance(our_keys, DerivedKeys)
    assert (our_keys.send, our_keys.receive) == (their_keys.receive, their_keys.send)
    assert not ours.is_under_way
    assert a.table.indices == {our_keys.local_index}
    assert b.table.indices == {their_keys.local_index}
    expected = (b.table.token(their_keys.local_index), a.table.token(our_keys.local_index))
    assert (our_keys.remote_token, their_keys.remote_token) == (expected if suite.token_bytes else (b"", b""))


def test_a_second_response_is_unexpected() -> None:
    _, ours, b, theirs = two()
    response, _ = answered(theirs.answer(b.open(ours.initiate(0.0)), 0.0))
    assert isinstance(ours.complete(response), DerivedKeys)
    assert ours.complete(response) is DropReason.UNEXPECTED_RESPONSE
    ours.initiate(5.0)
    assert ours.complete(response) is DropReason.UNEXPECTED_RESPONSE


def test_a_response_to_a_replaced_or_abandoned_initiation_is_unexpected_and_its_index_is_free() -> None:
    a, ours, b, theirs = two()
    late, _ = answered(theirs.answer(b.open(ours.initiate(0.0)), 0.0))
    ours.initiate(5.0)
    assert len(a.table.indices) == 1
    assert ours.complete(late) is DropReason.UNEXPECTED_RESPONSE
    assert ours.is_under_way
    ours.abandon()
    ours.abandon()
    assert a.table.indices == set()
    assert not ours.is_under_way


def test_a_forged_response_leaves_the_initiation_under_way() -> None:
    _, ours, b, theirs = two()
    response, _ = answered(theirs.answer(b.open(ours.initiate(0.0)), 0.0))
    forged = response[:50] + bytes((response[50] ^ 1,)) + response[51:]
    assert ours.complete(forged) is DropReason.HANDSHAKE_NOT_AUTHENTIC
    assert ours.complete(response[:-1]) is DropReason.BAD_LENGTH
    assert ours.complete(b"") is DropReason.BAD_LENGTH
    assert isinstance(ours.complete(response), DerivedKeys)


def test_another_preshared_key_is_noticed_by_the_initiator() -> None:
    a, b = Party(1), Party(2)
    ours, theirs = a.meet(b, b"1" * 32), b.meet(a, b"2" * 32)
    response, _ = answered(theirs.answer(b.open(ours.initiate(0.0)), 0.0))
    assert ours.complete(response) is DropReason.HANDSHAKE_NOT_AUTHENTIC


def test_an_initiation_counts_once_and_older_ones_never() -> None:
    _, ours, b, theirs = two()
    old, new = ours.initiate(0.0), ours.initiate(5.0)
    answered(theirs.answer(b.open(new), 10.0))
    for now in (20.0, 1000.0, 1e9):
        assert theirs.answer(b.open(new), now) is DropReason.REPLAYED_INITIATION
        assert theirs.answer(b.open(old), now) is DropReason.REPLAYED_INITIATION
    assert theirs.answered_at == 10.0
    assert len(b.table.indices) == 1


def test_initiations_in_quick_succession_are_a_flood() -> None:
    _, ours, b, theirs = two()
    first, second = ours.initiate(0.0), ours.initiate(0.0)
    answered(theirs.answer(b.open(first), 0.0))
    assert theirs.answer(b.open(second), INITIATION_INTERVAL_S * 0.99) is DropReason.INITIATION_FLOOD
    answered(theirs.answer(b.open(second), INITIATION_INTERVAL_S))


@pytest.mark.parametrize("step_ns", [0, 1, -(10**9), -(10**18), 10**9])
def test_our_timestamps_grow_whatever_our_wall_clock_does(step_ns: int) -> None:
    a, ours, b, theirs = two()
    for number in range(20):
        a.wall_ns = max(-(10**6), a.wall_ns + step_ns)
        answered(theirs.answer(b.open(ours.initiate(float(number))), float(number)))


@pytest.mark.parametrize("wall_ns", [-(10**18), 2**63, 2**70])
def test_a_wall_clock_out_of_range_does_not_keep_us_from_calling(wall_ns: int) -> None:
    a, ours, b, theirs = two()
    a.wall_ns = wall_ns
    answered(theirs.answer(b.open(ours.initiate(0.0)), 0.0))


def test_an_initiation_of_another_peer_does_not_pass_for_this_one() -> None:
    _, ours, b, _ = two()
    other = Party(3)
    confused = b.meet(other)  # a session that is handed an initiation which names somebody else
    assert confused.answer(b.open(ours.initiate(0.0)), 0.0) is DropReason.HANDSHAKE_NOT_AUTHENTIC
    assert b.table.indices == set()


def test_the_same_opened_initiation_is_answered_once() -> None:
    _, ours, b, theirs = two()
    opened = b.open(ours.initiate(0.0))
    answered(theirs.answer(opened, 0.0))
    assert isinstance(theirs.answer(opened, 1.0), DropReason)


def test_an_initiation_in_the_other_suite_is_refused() -> None:
    a, b = Party(1, WIREGUARD), Party(2, WIREGUARD)
    opened = b.open(a.meet(b).initiate(0.0))
    b.suite = AES_GCM
    assert b.meet(a).answer(opened, 0.0) is DropReason.WRONG_SUITE


def test_without_a_free_index_nothing_is_sent_and_nothing_remembered() -> None:
    _, ours, b, theirs = two(limit=0)
    message = ours.initiate(0.0)
    assert theirs.initiate(0.0) is None
    assert not theirs.is_under_way
    assert theirs.answer(b.open(message), 0.0) is DropReason.NO_INDEX
    b.table.limit = 1
    answered(theirs.answer(b.open(message), 0.0))  # neither flood nor replay: the first time did not count


@both_suites
def test_a_cookie_puts_mac2_on_the_next_message_of_either_kind(suite: Suite) -> None:
    a, ours, b, theirs = two(suite)
    here = ("192.0.2.1", 1)
    checker_a, checker_b = MacChecker(a.static.public, a.rng.randbytes), MacChecker(b.static.public, b.rng.randbytes)
    initiation = ours.initiate(0.0)
    assert initiation is not None
    kind = MessageType(suite.cookie_reply)
    assert ours.read_cookie_reply(checker_b.cookie_reply(kind, initiation, here, 0.0), 0.0)
    again = ours.initiate(5.0)
    assert again is not None
    assert checker_b.is_mac2_valid(again, here, 5.0)

    response, _ = answered(theirs.answer(b.open(again), 5.0))
    assert not checker_a.is_mac2_valid(response, here, 5.0)
    assert theirs.read_cookie_reply(checker_a.cookie_reply(kind, response, here, 5.0), 5.0)
    response, _ = answered(theirs.answer(b.open(ours.initiate(10.0)), 10.0))
    assert checker_a.is_mac1_valid(response)
    assert checker_a.is_mac2_valid(response, here, 10.0)
    assert isinstance(ours.complete(response), DerivedKeys)


@pytest.mark.parametrize(
    ("public", "preshared"),
    [(bytes(32), PSK), (b"\x01" + bytes(31), PSK), (b"short", PSK), (b"\x09" + bytes(31), b"short")],
)
def test_keys_that_no_session_can_have_are_refused_at_once(public: bytes, preshared: bytes) -> None:
    a = Party(1)
    with pytest.raises(LocalError):
        Handshakes(
            AES_GCM,
            a.static,
            public,
            preshared,
            links=a.table,
            entropy=a.rng.randbytes,
            wall_ns=lambda: 0,
        )


def test_repr_shows_no_key() -> None:
    _, ours, _, _ = two()
    assert repr(ours) == "<Handshakes aes-gcm None>"
    ours.initiate(0.0)
    assert repr(ours) == "<Handshakes aes-gcm <Initiator index 0x3e8>>"
