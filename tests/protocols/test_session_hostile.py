"""Hostile datagrams: nothing raised, nothing accepted, each one counted, and no memory kept of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from session_world import LinkTable, World, watched

from holloway.protocols.arrivals import lone
from holloway.protocols.cookies import MacWriter
from holloway.protocols.demux import HANDSHAKES_UNDER_LOAD, Demux
from holloway.protocols.events import DropReason
from holloway.protocols.journal import EVENTS
from holloway.protocols.keys import StaticKey
from holloway.protocols.noise import Initiator, initiation_bytes, response_bytes
from holloway.protocols.runs import flatten
from holloway.protocols.session import Session
from holloway.protocols.states import State
from holloway.protocols.suites import AES_GCM, SUITES, MessageType, Suite

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
ATTACKER = ("203.0.113.66", 6)


def flip(datagram: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(datagram))
    return datagram[:place] + bytes((datagram[place] ^ 1 << rng.randrange(8),)) + datagram[place + 1 :]


def seasoned(suite: Suite) -> World:
    """A session in use, which has rekeyed and exchanged packets; everything on the wire was captured."""
    world = World(suite)
    world.establish()
    for _ in range(3):
        world.send(world.a, 3)
        world.send(world.b, 3)
        world.run(6.0)
        world.do(world.b, lambda session: session.rekey(world.now))
        world.run(6.0)
    return world


def snapshot(world: World) -> tuple[object, ...]:
    """What an attacker must not change."""
    session, demux = world.a.session, world.a.demux
    ring = session._ring
    return (
        session.state,
        session.endpoint,
        session.epoch,
        session.staged,
        session.last_received_at,
        session.received.packets,
        session.received.bytes,
        session.next_timeout(),
        {index: keys.top for index, keys in ring.by_index.items()},
        repr(demux),
        len(demux._indices),
        len(demux._resets),
        len(demux._peers),
    )


def drops(world: World) -> int:
    return sum(world.a.session.drops.values()) + sum(world.a.demux.drops.values())


def attack(world: World, datagrams: list[bytes], source: tuple[str, int] = ATTACKER) -> None:
    """Let datagrams arrive at `a`; each must be counted, and change nothing."""
    before, counted = snapshot(world), drops(world)
    for datagram in datagrams:
        found = world.a.demux.sort([lone(datagram, source)], world.now)
        session: Session = world.a.session
        for batch in found.arrivals.values():
            session.receive(batch, world.now)
        for _, opened, origin in found.initiations:
            session.receive_initiation(opened, origin, world.now)
        for _, token, origin in found.resets:
            session.receive_reset(token, origin, world.now)
        assert sum(len(reply) for reply, _ in found.replies) <= len(datagram)
        assert session.packets_to_deliver() == []
        assert flatten(session.runs_to_send()) == []
    assert snapshot(world) == before
    assert drops(world) == counted + len(datagrams)


def random_bytes(world: World, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 3, 4, 15, 16, 20, 31, 32, 64, 92, 109, 148, 165, 300, 1500)))


def plausible(world: World, rng: random.Random) -> bytes:
    """A known type or index, the right length, and noise."""
    suite = world.plain_suite
    indices = [*world.a.session._ring.by_index, rng.getrandbits(32)]
    index = struct.pack("<I", rng.choice(indices))
    kind = rng.randrange(6)
    if kind == 0:
        return struct.pack("<I", suite.initiation) + rng.randbytes(initiation_bytes(suite) - 4)
    if kind == 1:
        return struct.pack("<II", suite.response, 1) + index + rng.randbytes(response_bytes(suite) - 12)
    if kind == 2:
        return struct.pack("<I", suite.cookie_reply) + index + rng.randbytes(56)
    if kind == 3:
        return struct.pack("<I", MessageType.RESET) + rng.randbytes(16)
    head = index if suite is AES_GCM else struct.pack("<I", 4) + index
    return head + rng.randbytes(rng.choice((28, 60, 1400)))


def with_a_valid_mac1(world: World, rng: random.Random) -> bytes:
    """What somebody who knows our public key can make."""
    suite = world.plain_suite
    index = struct.pack("<I", rng.choice(list(world.a.session._ring.by_index)))
    if rng.random() < 0.5:
        body = struct.pack("<I", suite.initiation) + rng.randbytes(initiation_bytes(suite) - 36)
    else:
        body = struct.pack("<II", suite.response, 1) + index + rng.randbytes(response_bytes(suite) - 44)
    return MacWriter(StaticKey(world.a.private).public).append(body, 0.0)


def to_a(world: World, rng: random.Random) -> bytes:
    datagram, _, _ = rng.choice([sent for sent in world.captured if sent[2] == world.a.address])
    return datagram


def flipped(world: World, rng: random.Random) -> bytes:
    return flip(to_a(world, rng), rng)


def truncated(world: World, rng: random.Random) -> bytes:
    datagram = to_a(world, rng)
    return datagram[: rng.randrange(len(datagram))]


def lengthened(world: World, rng: random.Random) -> bytes:
    return to_a(world, rng) + rng.randbytes(rng.randrange(1, 40))


def reflected(world: World, rng: random.Random) -> bytes:
    datagram, _, _ = rng.choice([sent for sent in world.captured if sent[1] == world.a.address])
    return datagram


MAKERS: list[Callable[[World, random.Random], bytes]] = [
    random_bytes,
    plausible,
    with_a_valid_mac1,
    to_a,  # a replay
    flipped,
    truncated,
    lengthened,
    reflected,
]


@both_suites
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("is_from_peer", [True, False])
def test_nothing_hostile_is_accepted_and_all_of_it_is_counted(
    suite: Suite, make: Callable[[World, random.Random], bytes], is_from_peer: bool
) -> None:
    world, rng = seasoned(suite), random.Random(1)
    source = world.b.address if is_from_peer else ATTACKER
    attack(world, [make(world, rng) for _ in range(300)], source)  # type: ignore[arg-type]
    assert world.is_through()


@both_suites
def test_twenty_thousand_hostile_datagrams_leave_the_tables_as_they_were(suite: Suite) -> None:
    world, rng = seasoned(suite), random.Random(2)
    makers = [maker for maker in MAKERS if maker is not with_a_valid_mac1]
    pool = [rng.choice(makers)(world, rng) for _ in range(4000)]
    before, counted = snapshot(world), drops(world)
    demux, session = world.a.demux, world.a.session
    for number in range(20_000):
        source = (f"198.51.{number >> 8 & 255}.{number & 255}", 1 + number % 60_000)
        found = demux.sort([lone(pool[number % 4000], source)], world.now)
        for batch in found.arrivals.values():
            session.receive(batch, world.now)
        for _, opened, origin in found.initiations:
            session.receive_initiation(opened, origin, world.now)
        for _, token, origin in found.resets:
            session.receive_reset(token, origin, world.now)
    assert snapshot(world) == before
    assert drops(world) == counted + 20_000
    assert len(session._journal.events) <= EVENTS
    assert flatten(session.runs_to_send()) == []
    assert session.packets_to_deliver() == []
    world.now += 10.0
    assert world.is_through()


def test_a_flood_of_initiations_costs_a_bounded_number_of_key_exchanges() -> None:
    world, rng = seasoned(AES_GCM), random.Random(3)
    counted = []
    opens = Demux._open
    try:
        Demux._open = lambda self, *rest: counted.append(opens(self, *rest))  # type: ignore[method-assign,assign]
        for number in range(4 * HANDSHAKES_UNDER_LOAD):
            body = struct.pack("<I", AES_GCM.initiation) + rng.randbytes(initiation_bytes(AES_GCM) - 36)
            datagram = MacWriter(StaticKey(world.a.private).public).append(body, 0.0)
            world.a.demux.sort([lone(datagram, (f"198.51.100.{number % 250}", 1))], world.now)
    finally:
        Demux._open = opens  # type: ignore[method-assign]
    assert len(counted) == HANDSHAKES_UNDER_LOAD
    assert world.a.demux.drops[DropReason.COOKIE_REQUIRED] == 3 * HANDSHAKES_UNDER_LOAD


def test_under_a_flood_a_true_peer_gets_in_with_its_cookie() -> None:
    world = World(AES_GCM)
    writer = MacWriter(StaticKey(world.b.private).public)
    junk = writer.append(struct.pack("<I", AES_GCM.initiation).ljust(initiation_bytes(AES_GCM) - 32, b"x"), 0.0)

    def flood() -> None:
        world.b.demux.sort([lone(junk, ATTACKER)] * (HANDSHAKES_UNDER_LOAD + 1), world.now)
        world.at(0.5, flood)

    flood()
    serials = world.send(world.a)
    world.run(12.0)
    assert not world.lost(serials, world.b)
    names = [line.split(maxsplit=1)[1] for line in world.transcript]
    assert names[:4] == ["a>b initiation", "b>a cookie", "a>b initiation", "b>a response"]
    assert world.b.demux.drops[DropReason.COOKIE_REQUIRED] > 1000


def test_under_a_flood_the_initiator_demands_a_cookie_of_the_responder() -> None:
    world = World(AES_GCM)
    writer = MacWriter(StaticKey(world.a.private).public)
    junk = writer.append(struct.pack("<I", AES_GCM.initiation).ljust(initiation_bytes(AES_GCM) - 32, b"x"), 0.0)

    def flood() -> None:
        world.a.demux.sort([lone(junk, ATTACKER)] * (HANDSHAKES_UNDER_LOAD + 1), world.now)
        world.at(0.5, flood)

    flood()
    serials = world.send(world.a)
    world.run(12.0)
    assert not world.lost(serials, world.b)
    names = [line.split(maxsplit=1)[1] for line in world.transcript]
    assert names[:3] == ["a>b initiation", "b>a response", "a>b cookie"]


@both_suites
def test_a_replayed_initiation_neither_moves_the_endpoint_nor_takes_the_next_key(suite: Suite) -> None:
    world = World(suite)
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(0.06)
    initiation = world.captured[0][0]
    assert world.a.session.state is State.CONFIRMING
    world.now += 0.03
    attack(world, [initiation] * 10)
    world.run(1.0)
    assert world.a.session.state is State.ESTABLISHED
    attack(world, [initiation] * 10)


@both_suites
def test_a_response_is_accepted_once_and_never_a_forged_one(suite: Suite) -> None:
    world = World(suite)
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(0.06)
    response = next(sent for sent in world.captured if sent[1] == world.b.address)[0]
    keys = StaticKey(world.a.private).public
    for place in (5, 20, 50, 60) if suite is AES_GCM else (20, 50, 60):  # WireGuard does not authenticate the index
        body = response[:place] + bytes((response[place] ^ 1,)) + response[place + 1 : -32]
        attack(world, [MacWriter(keys).append(body, 0.0)])
    assert world.a.session.state is State.INITIATING
    world.run(1.0)
    assert world.a.session.state is State.ESTABLISHED
    attack(world, [response] * 3)
    assert world.a.session.drops[DropReason.UNEXPECTED_RESPONSE] == 3


@both_suites
def test_somebody_with_another_key_cannot_pass_for_the_peer(suite: Suite) -> None:
    """An initiation that names the peer's public key, made without its private key."""
    world = World(suite)
    rng = random.Random(4)
    thief, peer_public = StaticKey(rng.randbytes(32)), StaticKey(world.b.private).public
    ours = StaticKey(world.a.private).public

    class Pretender:
        public = peer_public

    message = Initiator(
        watched(suite, set()),
        Pretender(),  # type: ignore[arg-type]
        ours,
        b"p" * 32,
        shared=thief.exchange(ours),
        ephemeral=StaticKey(rng.randbytes(32)),
        local_index=77,
        timestamp=b"\xff" * 12,
        token=bytes(suite.token_bytes),
    ).message
    attack(world, [MacWriter(ours).append(message, 0.0)])
    assert world.a.session.drops == {DropReason.HANDSHAKE_NOT_AUTHENTIC: 1}
    world.send(world.b)
    world.run(1.0)
    assert world.a.session.state is State.ESTABLISHED, "the stolen timestamp did not count"


def test_datagrams_of_the_other_suite_are_refused() -> None:
    for suite, other in ((AES_GCM, "wireguard"), (SUITES["wireguard"], "aes-gcm")):
        world = World(suite)
        world.establish()
        (index,) = world.a.session._ring.by_index
        foreign = World(SUITES[other])
        foreign.a.private, foreign.b.private = world.a.private, world.b.private
        foreign.restart(foreign.b)
        foreign.restart(foreign.a)
        foreign.do(foreign.b, lambda session: session.connect(0.0))
        ours = struct.pack("<I", index)
        attack(world, [foreign.captured[-1][0]])
        counted = world.a.session.drops[DropReason.WRONG_SUITE]
        assert counted == 1
        strays = [
            ours.ljust(40, b"x") if other == "aes-gcm" else struct.pack("<I", 4) + ours.ljust(40, b"x"),
            struct.pack("<I", SUITES[other].cookie_reply) + ours.ljust(60, b"x"),
        ]
        attack(world, strays)
        assert world.a.session.drops == {DropReason.WRONG_SUITE: 3}


def test_a_session_that_is_handed_junk_directly_counts_it() -> None:
    for suite in SUITES.values():
        world = World(suite)
        world.establish()
        session = world.a.session
        rng = random.Random(5)
        before = session.state, session.endpoint, session.epoch
        junk = [lone(rng.randbytes(length), ("not a host", 0)) for length in range(200)]
        junk += [lone(struct.pack("<I", word), ATTACKER) for word in range(300)]
        session.receive(junk, world.now)
        assert sum(session.drops.values()) == len(junk)
        assert (session.state, session.endpoint, session.epoch) == before
        assert session.packets_to_deliver() == flatten(session.runs_to_send()) == []


def test_a_hostile_peer_may_name_any_index_and_token_without_hurting_us() -> None:
    """The remote index and reset token are the peer's choice: even a message type, even another session's token."""
    for index in (0, 1, 4, 0x22, 0x24, 255):
        world = World(AES_GCM)
        liar = LinkTable()
        liar.allocate = lambda index=index: index  # type: ignore[method-assign,misc]
        liar.token = lambda index: bytes(16)  # type: ignore[method-assign]
        world.b.session._handshakes._links = liar
        serials = world.send(world.a)
        world.run(2.0)
        assert world.a.session.is_ready
        assert world.lost(serials, world.b) == serials, "b does not find its own session"
        world.arrive(struct.pack("<I", MessageType.RESET) + bytes(16), world.b.address, world.a.address)
        assert world.a.session.is_ready
        del world.b.session._handshakes._links
        world.restart(world.b)
        assert world.seconds_to_talk(10.0) <= 10.0
