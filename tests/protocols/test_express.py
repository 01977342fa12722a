"""The short way of a lone packet does what the general way does: byte for byte, deadline for deadline."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_world import World, inner_packet

from holloway.protocols.arrivals import lone
from holloway.protocols.events import DropReason
from holloway.protocols.express import SHORT_BYTES, ExpressLane
from holloway.protocols.offers import SEALED, Terms
from holloway.protocols.record_keys import RecordKeys
from holloway.protocols.record_size import REPORT_GRACE_S, REPORT_S, WORTH_REPORTING
from holloway.protocols.session import Session
from holloway.protocols.states import State
from holloway.protocols.suites import SUITES
from holloway.protocols.transport import TransportKeys

Step = tuple[str, Any]


def steps_of(dice: random.Random, count: int = 60) -> list[Step]:
    """What happens: mostly lone packets to and fro, and now and then everything that makes them take the other way."""
    steps: list[Step] = []
    for _ in range(count):
        side = dice.choice("ab")
        steps.append(
            dice.choice(
                [
                    *[("send", (side, 1, 80))] * 8,
                    *[("run", dice.choice([0.001, 0.02, 0.1]))] * 6,
                    ("send", (side, dice.randint(1, 3), dice.choice([40, SHORT_BYTES, SHORT_BYTES + 1, 1420]))),
                    ("run", dice.choice([0.3, 12.0, 70.0, 200.0])),
                    ("loss", dice.choice([0.0, 0.0, 0.2])),
                    ("duplicate", dice.choice([0.0, 0.0, 0.3])),
                    ("garble", dice.randrange(2**16)),
                    ("again", dice.randrange(50)),
                    ("roam", side),
                    ("restart", side),
                ]
            )
        )
    return steps


@contextmanager
def closed_lane(*, is_closed: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if is_closed:
            patch.setattr(ExpressLane, "send_lone", lambda *_: None)
            patch.setattr(ExpressLane, "receive_lone", lambda *_: None)
        yield


def seen(world: World, steps: list[Step]) -> list[Any]:
    """Everything that can be told from outside after each step."""
    told: list[Any] = []
    world.establish()
    world.run(1.0)
    for what, how in steps:
        if what == "send":
            world.send(world.nodes[how[0]], how[1], how[2])
        elif what == "run":
            world.run(how)
        elif what == "loss":
            world.network.loss = how
        elif what == "duplicate":
            world.network.duplicate = how
        elif what == "roam":
            world.roam(world.nodes[how])
        elif what == "restart":
            world.restart(world.nodes[how])
        elif world.captured:
            datagram, source, _ = world.captured[-1 - how % len(world.captured)]
            if what == "garble":
                place = how % len(datagram)
                datagram = datagram[:place] + bytes([datagram[place] ^ 1]) + datagram[place + 1 :]
            for node in world.nodes.values():
                if node.address != source and node.is_running:
                    world._receive(node, [lone(datagram, source)])
        for node in world.nodes.values():
            session = node.session
            told.append(
                (
                    repr(session._timers),
                    session.last_received_at,
                    repr(session),
                    (session.received.packets, session.received.bytes),
                    (session.transmitted.packets, session.transmitted.bytes),
                    dict(session.drops),
                    session.is_silent,
                    session.staged,
                )
            )
    world.run(5.0)
    return [*told, world.captured, world.delivered, [node.events for node in world.nodes.values()]]


@pytest.mark.parametrize("keepalive_s", [0.0, 25.0])
@pytest.mark.parametrize("terms", [SEALED, Terms.CLEAR], ids=["sealed", "clear"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_nobody_can_tell_which_way_a_packet_took(keepalive_s: float, terms: Terms, seed: int) -> None:
    steps, both = steps_of(random.Random(seed)), []
    for is_closed in (False, True):
        with closed_lane(is_closed=is_closed):
            both.append(seen(World(seed=seed, keepalive_s=keepalive_s, terms=(terms, terms)), steps))
    assert both[0] == both[1]


def counted(patch: pytest.MonkeyPatch, name: str) -> list[bool]:
    """Whether each packet took the short way."""
    results: list[bool] = []
    way: Callable[..., bytes | None] = getattr(ExpressLane, name)

    def counting(self: ExpressLane, *arguments: Any) -> bytes | None:
        came = way(self, *arguments)
        results.append(came is not None)
        return came

    patch.setattr(ExpressLane, name, counting)
    return results


def test_lone_short_packets_take_the_short_way_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.establish()
    world.run(1.0)
    sent, received = counted(monkeypatch, "send_lone"), counted(monkeypatch, "receive_lone")
    for node in (world.a, world.b) * 10:
        world.send(node)
        world.run(0.05)
    assert sent == received == [True] * 20


@pytest.mark.parametrize("size", [SHORT_BYTES + 1, 1420])
def test_long_packets_and_batches_do_not(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    world = World()
    world.establish()
    world.run(1.0)
    sent = counted(monkeypatch, "send_lone")
    world.send(world.a, 1, size)
    world.send(world.a, 2)
    world.run(0.05)
    assert sent == [False]
    assert len(world.delivered["b"]) == len(world.sent)


def test_under_the_other_suite_nothing_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(SUITES["wireguard"])
    world.establish()
    sent = counted(monkeypatch, "send_lone")
    world.send(world.a)
    assert sent == [False]


def waits(session: Session) -> tuple[int, int, int]:
    return len(session._tunnel.outbox), len(session._tunnel.inside.packets), len(session.events)


def test_what_takes_it_is_handed_over_and_leaves_nothing_behind() -> None:
    """The owner of a session need not ask for its outputs, nor for a nearer deadline, when it was given something."""
    world = World()
    world.establish()
    world.run(1.0)
    a, b = world.a.session, world.b.session
    for serial in range(20):
        world.now += 0.05
        before = {id(session): session.next_timeout() for session in (a, b)}
        packet = inner_packet(serial)
        datagram = a.send_lone(packet, world.now)
        assert datagram is not None
        assert b.receive_lone(lone(datagram, world.a.address), world.now) == packet
        a, b = b, a
        world.a, world.b = world.b, world.a
        for session in (a, b):
            assert waits(session) == (0, 0, 0)
            earlier, at = before[id(session)], session.next_timeout()
            assert earlier is not None
            assert at is not None
            assert at >= min(earlier, world.now + session.soonest_s)


def test_what_is_not_one_packet_for_the_host_is_with_the_other_outputs() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    a, b, source = world.a.session, world.b.session, world.a.address
    keys = a._ring.current
    assert isinstance(keys, RecordKeys)
    one, other = inner_packet(0), inner_packet(1, 200)
    for plaintext, packets, drops in (
        (one + other, [one, other], {}),
        (b"", [], {}),
        (b"\x45 and no packet", [], {DropReason.MALFORMED: 1}),
    ):
        datagram = keys.seal_lone(plaintext)
        assert datagram is not None
        assert b.receive_lone(lone(datagram, source), world.now) == b""
        assert (b.packets_to_deliver(), b.drops) == (packets, drops)
    b._tunnel.inside.inspect = lambda packet: DropReason.SOURCE_NOT_ALLOWED
    datagram = a.send_lone(one, world.now)
    assert datagram is not None
    assert b.receive_lone(lone(datagram, source), world.now) == b""
    assert b.packets_to_deliver() == []
    assert b.drops == {DropReason.MALFORMED: 1, DropReason.SOURCE_NOT_ALLOWED: 1}


def test_a_report_that_is_due_leaves_before_the_packet_that_found_it_so() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    a, b, source = world.a.session, world.b.session, world.a.address
    given = []
    for serial in range(WORTH_REPORTING):
        datagram = a.send_lone(inner_packet(serial), world.now)
        assert datagram is not None
        given.append(b.receive_lone(lone(datagram, source), world.now))
        at = b.next_timeout()
        assert at is not None
    assert given == [inner_packet(serial) for serial in range(WORTH_REPORTING - 1)] + [b""]
    assert at == world.now + REPORT_S + REPORT_GRACE_S
    assert b.packets_to_deliver() == [inner_packet(WORTH_REPORTING - 1)]
    datagram = a.send_lone(inner_packet(100), world.now)
    assert datagram is not None
    assert b.receive_lone(lone(datagram, source), at) == b""
    assert len(b.runs_to_send()) == 1
    assert b.packets_to_deliver() == [inner_packet(100)]


@pytest.mark.parametrize("place", ["outbox", "packets"])
def test_nothing_overtakes_what_waits_in_the_outputs(place: str) -> None:
    world = World()
    world.establish()
    world.run(1.0)
    a, b, source = world.a.session, world.b.session, world.a.address
    datagram = a.send_lone(inner_packet(0), world.now)
    assert datagram is not None
    if place == "outbox":
        b.announce(world.now)
        assert b.send_lone(inner_packet(9), world.now) is None
    else:
        b._tunnel.inside.packets.append(inner_packet(9))
    assert b.receive_lone(lone(datagram, source), world.now) is None
    b.receive([lone(datagram, source)], world.now)
    assert b.packets_to_deliver()[-1] == inner_packet(0)


def test_a_datagram_from_elsewhere_moves_the_endpoint_as_ever() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    world.roam(world.a)
    world.send(world.a)
    world.run(0.1)
    assert world.b.session.endpoint == world.a.address


def test_the_same_datagram_is_not_taken_twice() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    world.send(world.a)
    datagram, source, _ = world.captured[-1]
    world.run(0.1)
    world._receive(world.b, [lone(datagram, source)])
    assert world.b.session.drops == {DropReason.REPLAYED: 1}


def test_a_forged_datagram_is_opened_once_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.establish()
    world.run(1.0)
    world.send(world.a)
    datagram, source, _ = world.captured[-1]
    session, keys = world.b.session, world.b.session._ring.current
    assert keys is not None
    tried, decrypt = [], keys._receive.decrypt
    monkeypatch.setattr(keys, "_receive", SimpleNamespace(decrypt=lambda *words: tried.append(1) or decrypt(*words)))
    before = repr(session._timers), session.last_received_at, session.endpoint, keys.top
    world._receive(world.b, [lone(datagram[:-1] + bytes([datagram[-1] ^ 1]), source)])
    assert tried == [1]
    assert session.drops == {DropReason.NOT_AUTHENTIC: 1}
    assert (repr(session._timers), session.last_received_at, session.endpoint, keys.top) == before


def test_no_key_outlives_its_time_or_its_session() -> None:
    def keys() -> int:
        gc.collect()
        return sum(isinstance(each, TransportKeys) for each in gc.get_objects())

    before = keys()
    world = World()
    world.establish()
    world.run(1.0)
    for node in (world.a, world.b):
        world.send(node)
        world.run(0.1)
    assert keys() > before
    world.run(400.0)
    assert world.a.session._ring.current is None
    assert keys() == before
    world.establish()
    world.run(1.0)
    world.send(world.a)
    world.run(0.1)
    assert keys() > before
    for node in (world.a, world.b):
        node.session.close()
    assert keys() == before


@pytest.mark.parametrize("sent", range(2, 7))
def test_a_key_that_wears_out_is_replaced_at_the_same_packet(sent: int) -> None:
    states = []
    for is_closed in (False, True):
        with closed_lane(is_closed=is_closed):
            world = World(replace(SUITES["aes-gcm"], rekey_after_messages=100, reject_after_messages=1 << 30))
            world.establish()
            world.run(6.0)  # so that a handshake may begin at once
            keys = world.a.session._ring.current
            assert keys is not None
            keys._sent = 100 - sent
            for _ in range(5):
                world.send(world.a)
                states.append((world.a.session.state, keys._sent))
    assert states[:5] == states[5:]
    assert any(state is State.REKEYING for state, _ in states) == (sent <= 5)


def test_what_its_peer_seals_beyond_the_range_of_its_key_is_refused() -> None:
    world = World()
    world.establish()
    world.run(1.0)
    keys = world.a.session._ring.current
    assert isinstance(keys, RecordKeys)
    keys._first_out += world.suite.reject_after_messages
    datagram = keys.seal_lone(inner_packet(0))
    assert datagram is not None
    world._receive(world.b, [lone(datagram, world.a.address)])
    assert world.b.session.drops == {DropReason.NOT_AUTHENTIC: 1}
    assert world.delivered["b"] == {}
