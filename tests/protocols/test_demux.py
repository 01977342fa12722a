"""The demultiplexer: every datagram finds its session or a counter, strangers get little work out of us and less
data."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.cookies import MacWriter
from holloway.protocols.demux import (
    HANDSHAKES_SWAMPED,
    HANDSHAKES_UNDER_LOAD,
    INDICES_PER_PEER,
    MAX_PEERS,
    RESET_BYTES,
    Demux,
    PeerLinks,
    index_secret,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.events import DropReason
from holloway.protocols.indices import MAX_INDICES
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import Initiator, initiation_bytes, response_bytes
from holloway.protocols.ratelimit import BURST_TOKENS
from holloway.protocols.suites import AES_GCM, SUITES, MessageType, Suite

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
OURS, PEER, STRANGER = (StaticKey(bytes((number,)) * 32) for number in (1, 2, 3))
HERE: Address = ("192.0.2.7", 1099)


def node(seed: int = 0) -> tuple[Demux[str], PeerLinks[str]]:
    """A node with one peer, `peer`."""
    demux: Demux[str] = Demux(OURS, secret=index_secret(b"\x01" * 32), entropy=random.Random(seed).randbytes)
    return demux, demux.register(PEER.public, "peer")


def initiation(suite: Suite, static: StaticKey = PEER, writer: MacWriter | None = None, number: int = 0) -> bytes:
    message = Initiator(
        suite,
        static,
        OURS.public,
        bytes(32),
        shared=static.exchange(OURS.public),
        ephemeral=StaticKey(random.Random(number).randbytes(32)),
        local_index=0xABCDEF00,
        timestamp=bytes(12),
        token=bytes(suite.token_bytes),
    ).message
    return (writer or MacWriter(OURS.public)).append(message, 0.0)


def response(suite: Suite, index: int, writer: MacWriter | None = None) -> bytes:
    body = struct.pack("<III", suite.response, 1, index).ljust(response_bytes(suite) - 32, b"r")
    return (writer or MacWriter(OURS.public)).append(body, 0.0)


def sort(demux: Demux[str], *datagrams: bytes, now: float = 0.0, source: Address = HERE):  # type: ignore[no-untyped-def]
    return demux.sort([lone(datagram, source) for datagram in datagrams], now)


@both_suites
def test_datagrams_go_to_the_owner_of_their_receiver_index_in_order(suite: Suite) -> None:
    demux, links = node()
    other = demux.register(STRANGER.public, "other")
    mine, theirs = links.allocate(), other.allocate()
    first, second, third = (transport(suite, *each, 32) for each in ((mine, b"1"), (theirs, b"2"), (mine, b"3")))
    answer = response(suite, mine)
    cookie = struct.pack("<II", suite.cookie_reply, theirs).ljust(64, b"c")
    found = sort(demux, first, second, answer, third, cookie)
    assert found.arrivals == {
        "peer": [lone(datagram, HERE) for datagram in (first, answer, third)],
        "other": [lone(datagram, HERE) for datagram in (second, cookie)],
    }
    assert demux.drops == Counter()


def transport(suite: Suite, index: int, fill: bytes = b"x", length: int = 60) -> bytes:
    """What looks like a transport datagram for `index`."""
    head = struct.pack("<I", index) if suite is AES_GCM else struct.pack("<II", 4, index)
    return head.ljust(length, fill)


@both_suites
@pytest.mark.parametrize("last", [60, 59, 33])
@pytest.mark.parametrize("view", [bytes, lambda data: memoryview(bytearray(data))], ids=["bytes", "memoryview"])
def test_a_run_for_one_index_stays_one_arrival(
    suite: Suite, last: int, view: Callable[[bytes], bytes | memoryview]
) -> None:
    demux, links = node()
    index = links.allocate()
    datagrams = [transport(suite, index, b"%d" % n) for n in range(5)] + [transport(suite, index, b"z", last)]
    run = Arrival(HERE, view(b"".join(datagrams)), 60)
    assert demux.sort([run], 0.0).arrivals == {"peer": [run]}
    assert demux.drops == Counter()


@both_suites
def test_a_mixed_run_is_taken_apart_and_every_datagram_finds_its_place_in_order(suite: Suite) -> None:
    demux, links = node()
    other = demux.register(STRANGER.public, "other")
    mine, theirs, unknown = links.allocate(), other.allocate(), 0xABCD_EF01
    before, after = (lone(transport(suite, mine, fill), HERE) for fill in (b"b", b"a"))
    datagrams = [transport(suite, index, b"%d" % n) for n, index in enumerate((mine, theirs, mine, unknown))]
    datagrams.append(transport(suite, mine, b"l"))
    datagrams.append(struct.pack("<I", 77).ljust(31, b"t"))
    found = demux.sort([before, Arrival(HERE, b"".join(datagrams), 60), after], 0.0)
    assert found.arrivals == {
        "peer": [before, *(lone(datagrams[n], HERE) for n in (0, 2, 4)), after],
        "other": [lone(datagrams[1], HERE)],
    }
    assert demux.drops == {DropReason.UNKNOWN_INDEX: 1, DropReason.UNKNOWN_TYPE: 1}


def with_halves(*halves: int) -> tuple[Demux[str], list[int]]:
    """A node with one peer, `peer`, and its indices, by their upper halves."""
    drawn = iter(halves)
    demux: Demux[str] = Demux(
        OURS,
        secret=index_secret(b"\x01" * 32),
        entropy=lambda n: next(drawn).to_bytes(2, "little") if n == 2 else bytes(n),
    )
    links = demux.register(PEER.public, "peer")
    return demux, [links.allocate() for _ in halves]


@pytest.mark.parametrize("half", [0x0001, 0x4001], ids=["upper byte zero", "upper byte not zero"])
@both_suites
def test_a_handshake_between_the_datagrams_of_a_run_is_noticed(suite: Suite, half: int) -> None:
    demux, (index,) = with_halves(half)
    before, after = (transport(suite, index, fill, response_bytes(suite)) for fill in (b"b", b"a"))
    run = Arrival(HERE, before + response(suite, index) + after, response_bytes(suite))
    assert demux.sort([run], 0.0).arrivals == {
        "peer": [lone(datagram, HERE) for datagram in (before, response(suite, index), after)]
    }
    assert demux.drops == Counter()


def test_a_run_that_begins_and_ends_for_one_index_without_a_handshake_is_left_to_its_session() -> None:
    demux, (index, other) = with_halves(0x4001, 0x4002)
    datagrams = [transport(AES_GCM, each) for each in (index, other, index)]
    run = Arrival(HERE, b"".join(datagrams), 60)
    assert demux.sort([run], 0.0).arrivals == {"peer": [run]}
    # With a last datagram that is too short to say whose it is, it is not known to be for one.
    cut = Arrival(HERE, b"".join(datagrams) + datagrams[0][:3], 60)
    assert demux.sort([cut], 0.0).arrivals == {"peer": [lone(datagram, HERE) for datagram in datagrams]}
    assert demux.drops == {DropReason.BAD_LENGTH: 1}


def test_handshake_messages_in_a_run_are_sorted_one_by_one() -> None:
    demux, links = node()
    links.expect_reset(b"t" * 16)
    reset = struct.pack("<I", MessageType.RESET) + b"t" * 16
    found = demux.sort([Arrival(HERE, initiation(AES_GCM) * 2, 165), Arrival(HERE, reset * 3, 20)], 0.0)
    assert [handle for handle, *_ in found.initiations] == ["peer", "peer"]
    assert found.resets == [("peer", b"t" * 16, HERE)] * 3
    assert not found.arrivals
    cookie = struct.pack("<II", AES_GCM.cookie_reply, links.allocate()).ljust(64, b"c")
    assert demux.sort([Arrival(HERE, cookie * 2, 64)], 0.0).arrivals == {"peer": [lone(cookie, HERE)] * 2}
    assert demux.drops == Counter()


def test_a_run_for_an_index_that_we_lost_is_counted_datagram_by_datagram_and_answered_once() -> None:
    demux, links = node()
    index = links.allocate()
    token = links.token(index)
    links.release(index)
    run = Arrival(HERE, transport(AES_GCM, index) * 40, 60)
    assert demux.sort([run], 0.0).replies == [(struct.pack("<I", MessageType.RESET) + token, HERE)]
    short = Arrival(HERE, transport(AES_GCM, index)[:30] * 7, 30)
    assert demux.sort([short], 0.0).replies == []
    assert demux.drops == {DropReason.UNKNOWN_INDEX: 40, DropReason.BAD_LENGTH: 7}


@both_suites
def test_an_initiation_is_opened_for_the_peer_that_it_names(suite: Suite) -> None:
    demux, _ = node()
    found = sort(demux, initiation(suite))
    ((handle, opened, source),) = found.initiations
    assert (handle, source, opened.peer_public, opened.suite) == ("peer", HERE, PEER.public, suite)
    assert not found.arrivals
    assert not found.replies


@both_suites
def test_an_initiation_of_a_stranger_or_for_another_node_stops_here(suite: Suite) -> None:
    demux, _ = node()
    for_another = initiation(suite)[:-32]
    broken = bytearray(for_another)
    broken[50] ^= 1
    whole = MacWriter(OURS.public).append(bytes(broken), 0.0)
    found = sort(demux, initiation(suite, STRANGER), whole)
    assert not found.initiations
    assert demux.drops == {DropReason.UNKNOWN_PEER: 1, DropReason.NOT_FOR_US: 1}


@both_suites
def test_without_a_valid_mac1_no_work_is_done(suite: Suite) -> None:
    demux, links = node()
    index = links.allocate()
    messages = [
        initiation(suite, writer=MacWriter(PEER.public)),
        response(suite, index, MacWriter(PEER.public)),
        initiation(suite)[:-32] + bytes(32),
    ]
    found = sort(demux, *messages)
    assert not found.initiations
    assert not found.arrivals
    assert demux.drops == {DropReason.BAD_MAC1: 3}


def test_wrong_lengths_and_unknown_types_are_counted() -> None:
    demux, links = node()
    index = links.allocate()
    for word, length in [
        (MessageType.WIREGUARD_INITIATION, 148),
        (MessageType.INITIATION, 165),
        (MessageType.WIREGUARD_RESPONSE, 92),
        (MessageType.RESPONSE, 109),
        (MessageType.WIREGUARD_COOKIE_REPLY, 64),
        (MessageType.COOKIE_REPLY, 64),
        (MessageType.RESET, RESET_BYTES),
    ]:
        for wrong in (length - 1, length + 1):
            sort(demux, struct.pack("<I", word).ljust(wrong, b"\0"))
    sort(demux, struct.pack("<II", 4, index).ljust(31, b"\0"), struct.pack("<I", index).ljust(31, b"\0"))
    assert demux.drops == {DropReason.BAD_LENGTH: 16}
    demux.drops.clear()
    known = {int(kind) for kind in MessageType}
    for word in set(range(256)) - known:
        sort(demux, struct.pack("<I", word).ljust(148, b"\0"))
    assert demux.drops == {DropReason.UNKNOWN_TYPE: 256 - len(known)}


def test_the_shortest_datagrams_are_of_bad_length() -> None:
    demux, _ = node()
    sort(demux, b"", b"\x01", b"\x04", b"\x21\0", b"\x24\0\0", b"\xff\xff\xff", b"\0\0\0")
    assert demux.drops == {DropReason.BAD_LENGTH: 7}


def test_an_index_that_nobody_has_is_counted_and_a_guess_is_not_answered() -> None:
    demux, _ = node()
    found = sort(
        demux,
        struct.pack("<I", 0x12345678).ljust(64, b"\0"),
        struct.pack("<II", 4, 0x12345678).ljust(64, b"\0"),
        response(AES_GCM, 0x12345678),
        struct.pack("<II", MessageType.COOKIE_REPLY, 0x12345678).ljust(64, b"\0"),
    )
    assert demux.drops == {DropReason.UNKNOWN_INDEX: 4}
    assert not found.replies


# Resets.


def test_an_index_of_an_earlier_life_is_answered_with_the_token_that_it_was_given_with() -> None:
    earlier, links = node(seed=1)
    index = links.allocate()
    token = links.token(index)
    later, _ = node(seed=2)
    stray = struct.pack("<I", index).ljust(32, b"\0")
    found = sort(later, stray)
    assert found.replies == [(struct.pack("<I", MessageType.RESET) + token, HERE)]
    assert len(found.replies[0][0]) == RESET_BYTES < len(stray)
    assert not sort(earlier, stray).replies, "as long as the index is in use nobody is told otherwise"


def test_resets_are_limited_for_each_source() -> None:
    _, links = node(seed=1)
    index = links.allocate()
    later, _ = node(seed=2)
    strays = [struct.pack("<I", index).ljust(32, b"\0")] * 100
    assert len(sort(later, *strays).replies) == BURST_TOKENS
    assert len(sort(later, *strays, source=("192.0.2.8", 1)).replies) == BURST_TOKENS
    assert len(sort(later, *strays, now=1.0).replies) == BURST_TOKENS


def test_the_wireguard_suite_gets_no_resets() -> None:
    _, links = node(seed=1)
    later, _ = node(seed=2)
    assert not sort(later, struct.pack("<II", 4, links.allocate()).ljust(32, b"\0")).replies


def test_a_reset_reaches_the_session_that_expects_its_token_and_no_other() -> None:
    demux, links = node()
    token = b"t" * 16
    reset = struct.pack("<I", MessageType.RESET) + token
    assert not sort(demux, reset).resets
    links.expect_reset(token)
    assert sort(demux, reset).resets == [("peer", token, HERE)]
    links.forget_reset(token)
    links.forget_reset(token)
    assert not sort(demux, reset).resets
    assert demux.drops == {DropReason.UNKNOWN_RESET: 2}


def test_a_peer_that_names_the_token_of_another_neither_takes_nor_removes_it() -> None:
    demux, links = node()
    hostile = demux.register(STRANGER.public, "hostile")
    token = b"t" * 16
    links.expect_reset(token)
    hostile.expect_reset(token)
    reset = struct.pack("<I", MessageType.RESET) + token
    assert sort(demux, reset).resets == [("peer", token, HERE)]
    hostile.forget_reset(token)
    demux.unregister(STRANGER.public)
    assert sort(demux, reset).resets == [("peer", token, HERE)]


# Load.


def loaded(suite: Suite) -> Demux[str]:
    """A node that has just had as many handshake messages as it likes in a second."""
    demux, _ = node()
    found = sort(demux, *[initiation(suite)] * HANDSHAKES_UNDER_LOAD)
    assert len(found.initiations) == HANDSHAKES_UNDER_LOAD
    assert not found.replies
    return demux


@both_suites
def test_under_load_a_sender_must_show_that_it_gets_our_answers(suite: Suite) -> None:
    demux, writer = loaded(suite), MacWriter(OURS.public)
    found = sort(demux, initiation(suite, writer=writer))
    assert not found.initiations
    ((cookie, source),) = found.replies
    assert source == HERE
    assert demux.drops == {DropReason.COOKIE_REQUIRED: 1}
    assert writer.read_cookie_reply(cookie, 0.0)
    with_mac2 = initiation(suite, writer=writer)
    assert len(sort(demux, with_mac2).initiations) == 1
    assert not sort(demux, with_mac2, source=("192.0.2.99", 1099)).initiations
    assert not sort(demux, with_mac2, source=("192.0.2.7", 1100)).initiations
    assert demux.drops == {DropReason.COOKIE_REQUIRED: 3}


def test_a_swamped_node_makes_no_more_cookies_but_admits_who_has_one() -> None:
    demux, writer = loaded(AES_GCM), MacWriter(OURS.public)
    ((cookie, _),) = sort(demux, initiation(AES_GCM, writer=writer)).replies
    assert writer.read_cookie_reply(cookie, 0.0)
    without, many = initiation(AES_GCM), HANDSHAKES_SWAMPED - HANDSHAKES_UNDER_LOAD
    assert len(sort(demux, *[without] * (many + 100)).replies) == many - 1
    assert demux.drops == {DropReason.COOKIE_REQUIRED: many, DropReason.RATE_LIMITED: 101}
    assert len(sort(demux, initiation(AES_GCM, writer=writer)).initiations) == 1


@both_suites
def test_under_load_responses_need_a_cookie_as_well(suite: Suite) -> None:
    demux, writer = loaded(suite), MacWriter(OURS.public)
    index = demux._peers[PEER.public].allocate()
    found = sort(demux, response(suite, index, writer))
    assert not found.arrivals
    assert writer.read_cookie_reply(found.replies[0][0], 0.0)
    assert len(sort(demux, response(suite, index, writer)).arrivals["peer"]) == 1


def test_under_load_even_proven_senders_are_limited() -> None:
    demux, writer = loaded(AES_GCM), MacWriter(OURS.public)
    assert writer.read_cookie_reply(sort(demux, initiation(AES_GCM, writer=writer)).replies[0][0], 0.0)
    found = sort(demux, *[initiation(AES_GCM, writer=writer)] * 20)
    assert len(found.initiations) == BURST_TOKENS
    assert demux.drops[DropReason.RATE_LIMITED] == 20 - BURST_TOKENS


def test_load_ends_after_a_calm_second() -> None:
    demux = loaded(AES_GCM)
    assert not sort(demux, initiation(AES_GCM), now=0.5).initiations
    assert not sort(demux, initiation(AES_GCM), now=1.4).initiations, "one window more"
    assert len(sort(demux, initiation(AES_GCM), now=2.5).initiations) == 1


def test_what_has_no_valid_mac1_makes_no_load() -> None:
    demux, _ = node()
    sort(demux, *[initiation(AES_GCM)[:-32] + bytes(32)] * 1000)
    assert len(sort(demux, initiation(AES_GCM)).initiations) == 1


# Registration.


def test_own_key_and_known_keys_are_refused() -> None:
    demux, _ = node()
    with pytest.raises(LocalError, match="our own public key"):
        demux.register(OURS.public, "self")
    with pytest.raises(LocalError, match="two peers"):
        demux.register(PEER.public, "again")
    assert repr(demux) == "<Demux 1 peers, 0 indices, 0 tokens>"


def test_no_more_peers_are_registered_than_there_are_indices_for() -> None:
    demux, _ = node()
    assert MAX_PEERS * INDICES_PER_PEER <= MAX_INDICES
    for number in range(1, MAX_PEERS):
        demux.register(number.to_bytes(32, "big"), "peer")
    with pytest.raises(LocalError, match="too many peers"):
        demux.register(b"one more".ljust(32), "peer")
    demux.unregister(PEER.public)
    demux.register(b"one more".ljust(32), "peer")


def test_unregistering_gives_everything_back_and_the_old_session_cannot_touch_it() -> None:
    demux, stale = node()
    index = stale.allocate()
    stale.expect_reset(b"t" * 16)
    demux.unregister(PEER.public)
    demux.unregister(PEER.public)
    assert repr(demux) == "<Demux 0 peers, 0 indices, 0 tokens>"
    with pytest.raises(LocalError, match="not registered"):
        stale.allocate()
    fresh = demux.register(PEER.public, "fresh")
    fresh.expect_reset(b"t" * 16)
    while True:  # until the same index is given out again
        again = fresh.allocate()
        if again == index:
            break
        fresh.release(again)
    stale.release(index)
    stale.forget_reset(b"t" * 16)
    stale.expect_reset(b"u" * 16)
    assert repr(demux) == "<Demux 1 peers, 1 indices, 1 tokens>"
    assert fresh.handle == "fresh"


def test_a_peer_that_is_not_registered_any_more_is_unknown() -> None:
    demux, _ = node()
    demux.unregister(PEER.public)
    assert not sort(demux, initiation(AES_GCM)).initiations
    assert demux.drops == {DropReason.UNKNOWN_PEER: 1}


def test_index_secret_is_the_same_in_every_life_and_not_the_key() -> None:
    assert index_secret(b"\x01" * 32) == index_secret(b"\x01" * 32)
    assert index_secret(b"\x01" * 32) not in (b"\x01" * 32, index_secret(b"\x02" * 32), OURS.public)


# Anything.

WORDS = st.sampled_from([*map(int, MessageType), 0, 5, 255, 256, 0xFFFFFFFF])
LENGTHS = st.sampled_from([0, 3, 4, 8, 20, 31, 32, 64, 92, 109, 148, 165, 1500])
HOSTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "fe80::1%eth0", "::ffff:1.2.3.4", "::", "1.2.3.4", "not a host"])
)


@given(
    st.lists(
        st.tuples(WORDS, LENGTHS, st.binary(max_size=40), st.booleans(), HOSTS, st.integers(0, 65535)), max_size=20
    )
)
def test_nothing_raises_and_everything_is_counted(
    pieces: list[tuple[int, int, bytes, bool, str, int]],
) -> None:
    demux, _ = loaded_once
    links_before = repr(demux)
    demux.drops.clear()
    batch: list[Arrival] = []
    for word, length, filling, has_mac1, host, port in pieces:
        data = (struct.pack("<I", word) + filling).ljust(length, b"\0")[:length]
        if has_mac1 and length > 36:
            data = MacWriter(OURS.public).append(data[:-32], 0.0)
        batch.append(lone(data, (host, port)))
    found = demux.sort(batch, 0.0)
    assert not found.initiations
    assert not found.resets
    delivered = sum(map(len, found.arrivals.values())) + len(found.dtls)
    assert delivered + sum(demux.drops.values()) == len(pieces)
    assert repr(demux) == links_before


@given(
    st.lists(st.tuples(WORDS, st.binary(max_size=40)), min_size=1, max_size=20),
    st.integers(1, 200),
    st.integers(0, 200),
    st.booleans(),
)
def test_runs_raise_nothing_and_every_datagram_is_somewhere(
    pieces: list[tuple[int, bytes]], stride: int, last: int, is_one: bool
) -> None:
    demux, _ = loaded_once
    demux.drops.clear()
    words = [pieces[0] if is_one else piece for piece in pieces]
    datagrams = [(struct.pack("<I", word) + filling).ljust(stride, b"\0")[:stride] for word, filling in words]
    datagrams[-1] = datagrams[-1][: max(1, min(last, stride))]
    run = Arrival(HERE, memoryview(b"".join(datagrams)), stride)
    assert run.datagrams() == datagrams
    found = demux.sort([run], 0.0)
    delivered = sum(arrival.datagram_count for batch in found.arrivals.values() for arrival in batch)
    assert delivered + sum(demux.drops.values()) + len(found.resets) + len(found.dtls) == len(datagrams)


loaded_once = node()
sort(loaded_once[0], *[initiation(AES_GCM)] * (HANDSHAKES_UNDER_LOAD + 1))


def test_lengths_in_the_tables_are_those_of_the_messages() -> None:
    for suite in SUITES.values():
        assert len(initiation(suite)) == initiation_bytes(suite)
        assert len(response(suite, 1)) == response_bytes(suite)
