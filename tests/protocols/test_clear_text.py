"""Records in clear: legible and unforgeable, for both who agreed on it, and for nobody else."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import MARKER, World
from super_packets import super_packet

from holloway.protocols.arrivals import lone
from holloway.protocols.clear_text import ClearText
from holloway.protocols.errors import LocalError
from holloway.protocols.events import DropReason, HandshakeCompleted
from holloway.protocols.noise import TAG_BYTES
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.states import State
from holloway.protocols.suites import AES_GCM, WIREGUARD

KEY, NONCE = bytes(range(32)), b"n" * 12
CLEAR = Terms.CLEAR
OFF_PATH = ("203.0.113.9", 666)


def talk(world: World) -> None:
    """Packets both ways, of all kinds."""
    world.send(world.a, 5)
    world.run(1)
    world.send(world.b, 30, size=200)
    world.send_segments(world.a, [super_packet(60_000, 1368)])
    world.run(3)


def is_legible(world: World) -> bool:
    return any(MARKER in datagram for datagram, _, _ in world.captured)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.binary(max_size=3000))
def test_data_stays_as_it_is_and_comes_out_again(data: bytes) -> None:
    cipher = ClearText(KEY)
    sealed = cipher.encrypt(NONCE, data, None)
    assert (sealed[:-TAG_BYTES], len(sealed)) == (data, len(data) + TAG_BYTES)
    into = memoryview(bytearray(len(sealed)))
    assert cipher.encrypt_into(NONCE, data, None, into) == len(sealed)
    assert bytes(into) == sealed
    assert cipher.decrypt(NONCE, memoryview(sealed), None) == data


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.binary(max_size=200), st.data())
def test_no_bit_can_be_changed(data: bytes, drawn: st.DataObject) -> None:
    cipher = ClearText(KEY)
    sealed = bytearray(cipher.encrypt(NONCE, data, None))
    bit = drawn.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        cipher.decrypt(NONCE, bytes(sealed), None)
    with pytest.raises(InvalidTag):
        cipher.decrypt(b"m" * 12, cipher.encrypt(NONCE, data, None), None)


def test_the_key_is_another_one_than_that_of_the_sealed_records() -> None:
    """What is made for one cipher is not good for the other, whoever mistakes them."""
    with pytest.raises(InvalidTag):
        AES_GCM.aead(KEY).decrypt(NONCE, ClearText(KEY).encrypt(NONCE, b"", None), None)
    with pytest.raises(InvalidTag):
        ClearText(KEY).decrypt(NONCE, AES_GCM.aead(KEY).encrypt(NONCE, b"", None), None)
    assert KEY.hex() not in repr(ClearText(KEY))


def test_two_that_are_willing_talk_in_clear_and_both_know() -> None:
    world = World(terms=(CLEAR, CLEAR))
    talk(world)
    assert is_legible(world)
    assert len(world.delivered["b"]) == 5
    assert len(world.delivered["a"]) == 30
    assert len(world.segments_delivered["b"]) == 44
    for node in world.nodes.values():
        assert node.session.terms == CLEAR
        assert [event.terms for event in node.events if isinstance(event, HandshakeCompleted)] == [CLEAR]
        assert not node.session.drops


@pytest.mark.parametrize("terms", [(CLEAR, SEALED), (SEALED, CLEAR), (SEALED, SEALED)])
def test_one_alone_gets_a_sealed_session(terms: tuple[Terms, Terms]) -> None:
    world = World(terms=terms)
    talk(world)
    assert not is_legible(world)
    assert len(world.delivered["b"]) == 5
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)


def test_nobody_else_can_inject_alter_or_repeat_what_is_in_clear() -> None:
    world = World(terms=(CLEAR, CLEAR))
    world.send(world.a)
    world.run(1)
    before = dict(world.delivered["b"])
    datagrams = [each for each, source, _ in world.captured if source == world.a.address and MARKER in each]
    header = datagrams[0][:16]
    for forged, reason in (
        (datagrams[0], DropReason.REPLAYED),
        (
            header[:8] + (int.from_bytes(header[8:], "little") + (9 << 12)).to_bytes(8, "little") + datagrams[0][16:],
            None,
        ),
        (datagrams[0][:-17] + b"!" + datagrams[0][-16:], DropReason.REPLAYED),
    ):
        drops = world.b.session.drops.copy()
        world.do(world.b, lambda session, forged=forged: session.receive([lone(forged, OFF_PATH)], world.now))
        lost = world.b.session.drops - drops
        assert lost == {reason or DropReason.NOT_AUTHENTIC: 1}
    assert world.delivered["b"] == before
    assert world.b.session.endpoint == world.a.address


@pytest.mark.parametrize(
    ("terms", "mark", "reason"),
    [
        (SEALED, 0x0200, DropReason.PLAINTEXT_REFUSED),
        (SEALED, 0x0300, DropReason.PLAINTEXT_REFUSED),
        (SEALED, 0x0100, DropReason.NOT_AGREED),
        (CLEAR, 0x0000, DropReason.NOT_AGREED),
        (CLEAR, 0x0300, DropReason.NOT_AGREED),
        (CLEAR, 0x0400, DropReason.NOT_AGREED),  # of the sparse lane, and sealed
        (SEALED, 0x0600, DropReason.PLAINTEXT_REFUSED),
        (CLEAR, 0x0800, DropReason.MALFORMED),
    ],
)
def test_a_record_of_another_form_is_refused_by_name(terms: Terms, mark: int, reason: DropReason) -> None:
    """Table C, rows 35 and 31: nothing in clear for a session that is to be sealed, nor the other way round."""
    world = World(terms=(terms, terms))
    world.send(world.a)
    world.run(1)
    keys = world.b.session._ring.current
    assert keys is not None
    counter = keys.top + 1
    datagram = (
        keys.local_index.to_bytes(4, "little")
        + (0).to_bytes(2, "little")
        + (1 | mark).to_bytes(2, "little")
        + (counter << 12).to_bytes(8, "little")
        + b"\x45" * 40
    )
    world.do(world.b, lambda session: session.receive([lone(datagram, world.a.address)], world.now))
    assert world.b.session.drops == {reason: 1}
    assert keys.top == counter - 1


def test_a_record_in_clear_made_with_the_sealed_key_itself_is_refused() -> None:
    """Not by its mark alone: also a peer that has the keys is held to what was agreed on."""
    world = World()
    world.send(world.a)
    world.run(1)
    keys = world.a.session._ring.current
    assert keys is not None
    keys._seal = ClearText(bytes(32))
    serials = world.send(world.a, size=40)  # too short for the marker that is looked for on the wire
    world.run(1)
    assert serials[0] not in world.delivered["b"]
    assert world.b.session.drops == {DropReason.NOT_AUTHENTIC: 1}


def test_when_one_side_takes_its_word_back_the_next_key_is_sealed() -> None:
    world = World(terms=(CLEAR, CLEAR))
    world.send(world.a)
    world.run(10)
    world.terms["a"] = SEALED
    world.do(world.a, lambda session: session.set_terms(SEALED, world.now))
    world.run(1)
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)
    world.captured.clear()
    world.send(world.b, 3)
    world.run(1)
    assert not is_legible(world)
    assert len(world.delivered["a"]) == 3
    world.terms["a"] = CLEAR
    world.do(world.a, lambda session: session.set_terms(CLEAR, world.now))
    world.run(10)
    assert (world.a.session.terms, world.b.session.terms) == (CLEAR, CLEAR)


def test_nothing_is_said_in_clear_after_that_was_taken_back_though_nobody_answers() -> None:
    world = World(terms=(CLEAR, CLEAR))
    world.send(world.a)
    world.run(10)
    world.network.cut.add("b")
    world.terms["a"] = SEALED
    world.do(world.a, lambda session: session.set_terms(SEALED, world.now))
    world.captured.clear()
    serials = world.send(world.a, 3)
    world.run(20)
    assert world.captured, "it calls"
    assert not is_legible(world)
    assert (world.a.session.staged, world.a.session.terms) == (3, None)
    world.network.cut.clear()
    world.run(10)
    assert not is_legible(world)
    assert set(serials) <= set(world.delivered["b"])
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)


def test_what_the_peer_says_in_clear_meanwhile_is_still_heard() -> None:
    world = World(terms=(CLEAR, CLEAR))
    world.send(world.a)
    world.run(1)
    serials = world.send(world.b)
    world.do(world.a, lambda session: session.set_terms(SEALED, world.now))
    world.run(1)
    assert set(serials) <= set(world.delivered["a"])


def test_a_response_to_what_was_taken_back_makes_no_key_in_clear() -> None:
    world = World(terms=(CLEAR, CLEAR))
    serials = world.send(world.a)
    world.terms["a"] = SEALED
    world.do(world.a, lambda session: session.set_terms(SEALED, world.now))
    world.run(1)
    assert world.a.session.drops == {DropReason.PLAINTEXT_REFUSED: 1}
    assert world.a.session.terms is None
    world.run(10)
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)
    assert set(serials) <= set(world.delivered["b"])
    assert not is_legible(world)


def test_an_answer_that_was_given_in_clear_makes_no_key_in_clear_after_that_was_taken_back() -> None:
    world = World(terms=(CLEAR, CLEAR), b_knows_a=False)
    serials = world.send(world.a)
    while world.b.session.state is not State.CONFIRMING:
        world.run(0.001)
    world.do(world.b, lambda session: session.set_terms(SEALED, world.now))
    assert world.b.session.state is State.IDLE
    world.run(0.5)
    assert set(serials) <= set(world.delivered["b"]), "what was said by then is heard"
    assert world.b.session.terms is None
    world.run(10)
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)


@pytest.mark.parametrize("who", ["a", "b"])
def test_terms_that_change_in_the_middle_of_a_handshake_are_asked_for_after_it(who: str) -> None:
    """Whoever began it, or answered."""
    world = World(terms=(SEALED, SEALED), b_knows_a=False)
    world.terms["a"] = world.terms["b"] = CLEAR
    (other,) = {"a", "b"} - {who}
    world.do(world.nodes[other], lambda session: session.set_terms(CLEAR, world.now))
    world.send(world.a)
    while world.b.session.state is not State.CONFIRMING:
        world.run(0.001)
    world.do(world.nodes[who], lambda session: session.set_terms(CLEAR, world.now))
    world.run(0.5)
    assert (world.a.session.terms, world.b.session.terms) == (SEALED, SEALED)
    world.run(10)
    assert (world.a.session.terms, world.b.session.terms) == (CLEAR, CLEAR)
    handshakes = world.a.session.handshakes_total
    world.run(60)
    assert world.a.session.handshakes_total == handshakes, "once"


def test_a_session_is_not_asked_for_terms_that_it_cannot_keep() -> None:
    with pytest.raises(LocalError, match="agrees on none"):
        World(WIREGUARD, terms=(CLEAR, SEALED))
    with pytest.raises(LocalError, match="no codec"):
        World(terms=(Terms.LZ4, SEALED))
    world = World()
    with pytest.raises(LocalError, match="no codec"):
        world.a.session.set_terms(Terms.LZ4, 0.0)
