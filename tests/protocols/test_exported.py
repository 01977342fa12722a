"""Keys that come out of a handshake of somebody else: agreed on, used for the right association, and hostile indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holloway.protocols.arrivals import lone
from holloway.protocols.demux import Demux
from holloway.protocols.dtls_wire import LinkMessage, read_message
from holloway.protocols.events import DropReason
from holloway.protocols.exported import ASK_AGAIN_S, EXPORTED_BYTES, MAX_ASKED, ExportedSession
from holloway.protocols.keys import StaticKey
from holloway.protocols.runs import flatten
from holloway.protocols.session_config import SessionConfig
from holloway.protocols.suites import AES_GCM

SECRET = bytes(range(EXPORTED_BYTES))
PLACES = {"a": ("192.0.2.1", 1099), "b": ("192.0.2.2", 1099)}
PACKET = bytes.fromhex("4500001c0000000040fd0000") + bytes(8) + b"payload!"


def secret() -> bytes:
    return SECRET


class Side:
    """One of two who have associations with each other."""

    def __init__(self, name: str) -> None:
        static = StaticKey((b"a" if name == "a" else b"b") * 32)
        other = StaticKey((b"b" if name == "a" else b"a") * 32).public
        seed = iter(range(1, 10_000))
        entropy: Callable[[int], bytes] = lambda n: next(seed).to_bytes(2, "big").rjust(n, b"\7")[-n:]
        self.demux: Demux[str] = Demux(static, secret=bytes(32), entropy=entropy)
        links = self.demux.register(other, "peer")
        config = SessionConfig(suite=AES_GCM, static=static, peer_public=other, mtu=1400)
        self.session = ExportedSession(config, links, entropy, 0.0)
        self.place = PLACES[name]
        self.session.aim(PLACES["b" if name == "a" else "a"], 0.0)


def said(text: bytes | None) -> tuple[LinkMessage, int]:
    assert text is not None
    found = read_message(text)
    assert found is not None
    return found


def carry(source: Side, target: Side, now: float) -> list[Any]:
    """What one side has to send reaches the other; what that one gives its host."""
    datagrams = flatten(source.session.runs_to_send())
    found = target.demux.sort([lone(bytes(each), source.place) for each in datagrams], now)
    for arrivals in found.arrivals.values():
        target.session.receive(arrivals, now)
    return target.session.packets_to_deliver()


def agree(a: Side, b: Side, association: int, now: float) -> None:
    """Side a has dialled; it hears from b and has said so."""
    kind, index = said(a.session.propose(association, now))
    answer = said(b.session.hear(kind, association, index, secret, now, is_ours=False))
    assert answer[0] is LinkMessage.KEYS_AGREED
    assert a.session.hear(*answer[:1], association, answer[1], secret, now, is_ours=True) is None


def test_both_sides_send_under_the_keys_when_they_know_that_the_other_has_them() -> None:
    a, b = Side("a"), Side("b")
    assert not a.session.can_send(1, [PACKET], 0.0)
    agree(a, b, 1, 0.0)
    assert a.session.can_send(1, [PACKET], 0.0)
    assert not b.session.can_send(1, [PACKET], 0.0)
    carry(a, b, 0.1)
    assert b.session.can_send(1, [PACKET], 0.1)
    b.session.send([PACKET], 0.1)
    assert carry(b, a, 0.1) == [PACKET]
    a.session.send([PACKET, PACKET], 0.1)
    assert carry(a, b, 0.1) == [PACKET, PACKET]


def test_keys_belong_to_one_association() -> None:
    a, b = Side("a"), Side("b")
    agree(a, b, 1, 0.0)
    carry(a, b, 0.0)
    assert not a.session.can_send(2, [PACKET], 0.0)
    agree(a, b, 2, 1.0)
    assert a.session.can_send(2, [PACKET], 1.0)
    assert not a.session.can_send(1, [PACKET], 1.0)


def test_a_message_that_was_lost_is_said_again_and_not_for_ever() -> None:
    a, b = Side("a"), Side("b")
    first = a.session.propose(1, 0.0)
    assert a.session.propose(1, ASK_AGAIN_S / 2) is None
    again = [a.session.propose(1, ASK_AGAIN_S * turn) for turn in range(1, 3 * MAX_ASKED)]
    assert [each for each in again if each is not None] == [first] * (MAX_ASKED - 1)
    kind, index = said(first)
    answers = {b.session.hear(kind, 1, index, secret, float(turn), is_ours=False) for turn in range(3)}
    assert len(answers) == 1


def test_a_keepalive_that_was_lost_is_sent_again_while_the_other_side_sends_without_the_keys() -> None:
    a, b = Side("a"), Side("b")
    agree(a, b, 1, 0.0)
    assert a.session.runs_to_send()  # it is lost
    assert a.session.propose(1, ASK_AGAIN_S / 2) is None
    assert not a.session.runs_to_send()
    assert a.session.propose(1, ASK_AGAIN_S) is None
    carry(a, b, ASK_AGAIN_S)
    assert b.session.can_send(1, [PACKET], ASK_AGAIN_S)
    b.session.send([PACKET], ASK_AGAIN_S)
    carry(b, a, ASK_AGAIN_S)
    a.session.runs_to_send()
    assert a.session.propose(1, 2 * ASK_AGAIN_S) is None
    assert not a.session.runs_to_send()


def test_a_keepalive_that_nobody_hears_is_not_sent_for_ever() -> None:
    a, b = Side("a"), Side("b")
    agree(a, b, 1, 0.0)
    a.session.runs_to_send()
    again = [a.session.propose(1, ASK_AGAIN_S * turn) or a.session.runs_to_send() for turn in range(1, 3 * MAX_ASKED)]
    assert sum(map(bool, again)) == MAX_ASKED


def test_an_answer_that_nobody_asked_for_and_an_index_that_is_none_change_nothing() -> None:
    a = Side("a")
    assert a.session.hear(LinkMessage.KEYS_AGREED, 1, 4711, secret, 0.0, is_ours=True) is None
    assert a.session.hear(LinkMessage.KEYS, 1, 1 << 40, secret, 0.0, is_ours=False) is None
    assert not a.session.can_send(1, [PACKET], 0.0)
    assert sum(a.session.drops.values()) == 1


def test_keys_are_taken_from_whoever_dialled_and_agreed_on_by_the_other_side_alone() -> None:
    """With the halves of the exported bytes reversed, what a peer does of the other side's would make two seal with one key."""
    a, b = Side("a"), Side("b")
    a.session.propose(1, 0.0)
    assert a.session.hear(LinkMessage.KEYS, 1, 4711, secret, 0.0, is_ours=True) is None
    assert b.session.hear(LinkMessage.KEYS_AGREED, 1, 4711, secret, 0.0, is_ours=False) is None
    for side in (a, b):
        assert side.session._ring.by_index == {}
        assert side.session.drops[DropReason.MALFORMED] == 1
    agree(a, b, 1, 1.0)
    carry(a, b, 1.0)
    assert a.session.hear(LinkMessage.KEYS, 1, 4711, secret, 1.1, is_ours=True) is None
    assert len(a.session._ring.by_index) == 1


def test_an_index_that_was_given_back_is_not_said_again() -> None:
    a, b = Side("a"), Side("b")
    (kind, first), (_, second) = said(a.session.propose(1, 0.0)), said(a.session.propose(2, 0.0))
    for association, index in ((1, first), (2, second)):  # the key of the second displaces that of the first
        assert b.session.hear(kind, association, index, secret, 0.0, is_ours=False) is not None
    assert b.session.hear(kind, 1, first, secret, 0.1, is_ours=False) is None
    assert b.session.hear(kind, 2, second, secret, 0.1, is_ours=False) is not None


def test_indices_are_given_back() -> None:
    a, b = Side("a"), Side("b")
    for association in range(50):
        a.session.propose(association, 0.0)
        a.session.forget(association)
    for association in range(50, 100):
        agree(a, b, association, 0.0)
        carry(a, b, 0.0)
    assert len(a.demux._indices) <= 4
    assert len(b.demux._indices) <= 5
    a.session.clear()
    b.session.clear()
    assert len(a.demux._indices) == len(b.demux._indices) == 0
    assert a.session.next_timeout() is None


def test_keys_end_with_their_time() -> None:
    a, b = Side("a"), Side("b")
    agree(a, b, 1, 0.0)
    carry(a, b, 0.0)
    assert not a.session.can_send(1, [PACKET], 180.0)
    for side in (a, b):
        while (at := side.session.next_timeout()) is not None and at <= 400.0:
            side.session.handle_timeout(at)
    assert len(a.demux._indices) == 0
