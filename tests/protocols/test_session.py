"""The session's rules as stories between two nodes: what goes over the wire, when, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from session_world import LATENCY_S, LinkTable, World, inner_packet, name_of

from holloway.protocols.arrivals import lone
from holloway.protocols.errors import LocalError
from holloway.protocols.events import (
    DropReason,
    EndpointMoved,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeStarted,
    KeyExpired,
    PacketDropped,
    PeerForgotUs,
)
from holloway.protocols.journal import DROP_EVENTS, EVENTS
from holloway.protocols.keys import StaticKey
from holloway.protocols.packets import SuperPacket
from holloway.protocols.runs import flatten
from holloway.protocols.session import Session
from holloway.protocols.session_config import SessionConfig
from holloway.protocols.staging import STAGED_PACKETS
from holloway.protocols.states import State
from holloway.protocols.suites import AES_GCM, SUITES, WIREGUARD, Suite
from holloway.protocols.timers import Timers

both_suites = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))


def kinds(world: World, start: int = 0) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in world.transcript[start:]]


# Handshake.


@both_suites
def test_a_packet_starts_the_handshake_and_follows_it(suite: Suite) -> None:
    world = World(suite)
    serials = world.send(world.a)
    world.run(1.0)
    assert kinds(world) == ["a>b initiation", "b>a response", "a>b data"]
    assert not world.lost(serials, world.b)
    assert world.a.events == [HandshakeStarted(1), HandshakeCompleted(1, True, pytest.approx(2 * LATENCY_S))]
    assert world.b.events == [HandshakeCompleted(1, False, None)]
    for node in (world.a, world.b):
        assert (node.session.state, node.session.epoch, node.session.handshakes_total) == (State.ESTABLISHED, 1, 1)
        assert node.session.is_ready
        assert not node.session.is_silent
    assert world.a.session.round_trip_s == pytest.approx(2 * LATENCY_S)
    assert world.b.session.round_trip_s is None


@both_suites
def test_without_packets_the_initiator_confirms_with_a_keepalive(suite: Suite) -> None:
    world = World(suite)
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(1.0)
    assert kinds(world) == ["a>b initiation", "b>a response", "a>b keepalive"]
    assert world.b.session.state is State.ESTABLISHED


@both_suites
def test_the_responder_does_not_use_a_key_that_the_initiator_has_not_confirmed(suite: Suite) -> None:
    world = World(suite)
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)  # the response is on its way
    assert world.b.session.state is State.CONFIRMING
    serials = world.send(world.b, 3)
    assert world.b.session.staged == 3
    assert kinds(world) == ["a>b initiation", "b>a response"], "neither data nor an initiation of its own"
    world.run(1.0)
    assert world.b.session.staged == 0
    assert not world.lost(serials, world.a)
    assert world.b.session.handshakes_total == 1


@both_suites
def test_connect_is_for_sessions_without_a_key(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    before = len(world.transcript)
    world.do(world.a, lambda session: session.connect(world.now))
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(5.0)
    assert len(world.transcript) == before


def test_an_unanswered_initiation_is_repeated_every_five_seconds_and_given_up_after_ninety() -> None:
    world = World()
    world.network.cut = {"b"}
    serials = world.send(world.a, 3)
    world.run(80.0)
    times = [int(line.split()[0]) for line in world.transcript]
    assert len(times) == 16
    assert all(5 <= later - earlier <= 6 for earlier, later in pairwise(times))
    assert world.a.session.is_silent
    world.run(100.0)
    assert kinds(world) == ["a>b initiation (lost)"] * len(world.transcript)
    attempts = len(world.transcript)
    assert world.a.events[-1] == HandshakeGaveUp(attempts)
    assert world.a.session.drops[DropReason.HANDSHAKE_TIMEOUT] == 3
    assert (world.a.session.state, world.a.session.staged) == (State.IDLE, 0)
    assert world.a.session.is_silent
    assert world.a.session.next_timeout() is None
    world.network.cut = set()
    again = world.send(world.a)
    world.run(1.0)
    assert not world.lost(again, world.b)
    assert world.lost(serials, world.b) == serials
    assert not world.a.session.is_silent


def test_an_initiation_is_not_repeated_while_the_peers_handshake_may_still_be_confirmed() -> None:
    world = World()
    world.network.cut = {"b"}
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(4.95)
    world.network.cut = set()
    world.do(world.b, lambda session: session.connect(world.now))  # answered after 5.00 s, confirmed after 5.05 s
    world.run(0.07)
    world.network.cut = {"a"}
    world.run(1.0)  # the repetition falls due
    world.network.cut = set()
    assert kinds(world) == ["a>b initiation (lost)", "b>a initiation", "a>b response", "b>a keepalive (lost)"]
    world.run(5.0)
    assert kinds(world).count("a>b initiation") == 1
    assert world.is_through()


@both_suites
def test_a_late_confirmation_of_an_older_key_does_not_replace_a_newer_one(suite: Suite) -> None:
    world = World(suite, is_a_smaller=False)
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)
    world.network.cut = {"a"}
    world.run(1.0)
    confirmation = world.captured[-1]
    assert kinds(world)[-1] == "b>a keepalive (lost)"
    world.network.cut = set()
    world.run(6.0)
    world.send(world.a)
    world.run(1.0)
    assert world.a.session.epoch == 2
    world.arrive(*confirmation)
    assert world.a.session.epoch == 2
    assert not world.a.session.drops
    assert world.is_through()


@pytest.mark.parametrize(("lost", "after"), [("a", 0.5), ("b", 1.5)], ids=["response", "confirmation"])
def test_a_lost_response_or_confirmation_is_made_good_by_the_next_handshake(lost: str, after: float) -> None:
    world = World()
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(LATENCY_S * after)
    world.network.cut = {lost}
    world.run(1.0)
    world.network.cut = set()
    serials = world.send(world.b)
    world.run(7.0)
    assert not world.lost(serials, world.a)


# Staging.


def test_packets_do_not_outlive_the_dialling_that_they_waited_for() -> None:
    world = World()
    world.network.cut = {"b"}
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(60.0)
    world.send(world.a, 2)
    world.run(40.0)
    assert world.a.session.state is State.IDLE
    assert world.a.session.staged == 0
    assert world.a.session.drops == {DropReason.HANDSHAKE_TIMEOUT: 2}
    assert world.a.session.next_timeout() is None


@both_suites
def test_only_the_newest_packets_wait_for_a_key(suite: Suite) -> None:
    world = World(suite)
    serials = world.send(world.a, STAGED_PACKETS + 50)
    assert world.a.session.staged == STAGED_PACKETS
    assert world.a.session.drops == {DropReason.STAGING_FULL: 50}
    assert not world.a.session.is_ready
    world.run(1.0)
    assert world.lost(serials, world.b) == serials[:50]


def test_packets_without_an_endpoint_wait_for_one() -> None:
    world = World(b_knows_a=False)
    serials = world.send(world.b, 2)
    world.run(20.0)
    assert (world.b.session.staged, world.transcript) == (2, [])
    world.do(world.b, lambda session: session.set_endpoint(world.a.address))
    world.run(1.0)
    assert not world.lost(serials, world.a)
    assert not world.b.session.staged


def test_packets_without_an_endpoint_wait_for_a_call_and_its_confirmation() -> None:
    world = World(b_knows_a=False)
    serials = world.send(world.b, 2)
    world.run(20.0)
    world.do(world.a, lambda session: session.connect(world.now))
    world.run(LATENCY_S * 1.5)
    world.network.cut = {"b"}  # the keepalive that would confirm is lost
    world.run(1.0)
    world.network.cut = set()
    assert (world.b.session.state, world.b.session.staged) == (State.CONFIRMING, 2)
    world.run(6.0)
    assert not world.lost(serials, world.a)


def test_packets_that_wait_in_vain_are_discarded_and_counted() -> None:
    world = World(b_knows_a=False)
    world.send(world.b, 2)
    world.run(60.0)
    world.send(world.b, 1)
    world.run(31.0)
    assert world.b.session.staged == 0
    assert world.b.session.drops == {DropReason.HANDSHAKE_TIMEOUT: 3}
    assert world.b.session.next_timeout() is None


def test_nothing_to_send_is_nothing() -> None:
    world = World()
    world.do(world.a, lambda session: session.send([], world.now))
    assert world.a.session.state is State.IDLE
    assert world.transcript == []


@both_suites
def test_a_malformed_super_packet_waits_for_a_key_and_is_dropped_by_it(suite: Suite) -> None:
    world, junk = World(suite), SuperPacket(b"junk", 1400)
    world.do(world.a, lambda session: session.send([junk], world.now))
    world.run(1.0)
    assert world.a.session.state is State.ESTABLISHED
    assert world.a.session.drops == {DropReason.MALFORMED: 1}
    sent = world.a.session.transmitted
    before = sent.bytes
    world.do(world.a, lambda session: session.send([junk], world.now))
    assert world.a.session.drops == {DropReason.MALFORMED: 2}
    assert (sent.packets, sent.bytes) == (0, before)


# Keepalives.


@both_suites
def test_received_data_is_answered_with_a_keepalive_after_ten_seconds(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    start = len(world.transcript)
    world.send(world.a)
    world.run(9.9)
    assert kinds(world, start) == ["a>b data"]
    world.run(0.3)
    assert kinds(world, start) == ["a>b data", "b>a keepalive"]
    world.run(60.0)
    assert len(kinds(world, start)) == 2, "a keepalive is not answered"


@both_suites
def test_data_both_ways_needs_no_keepalive(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    start = len(world.transcript)
    for _ in range(20):
        world.send(world.a)
        world.run(1.0)
        world.send(world.b)
        world.run(1.0)
    assert set(kinds(world, start)) - {"a>b report", "b>a report"} == {"a>b data", "b>a data"}


def test_more_data_while_a_keepalive_is_due_owes_another() -> None:
    world = World()
    world.establish()
    start = len(world.transcript)
    world.send(world.a)
    world.run(5.0)
    world.send(world.a)
    world.run(30.0)
    assert kinds(world, start) == ["a>b data", "a>b data", "b>a keepalive", "b>a keepalive"]


@both_suites
def test_the_unasked_keepalive_keeps_a_silent_session_alive_for_hours(suite: Suite) -> None:
    world = World(suite, keepalive_s=25.0)
    world.establish()
    world.run(3600.0)
    for node in (world.a, world.b):
        assert node.session.state is State.ESTABLISHED
        assert not [event for event in node.events if isinstance(event, KeyExpired | HandshakeGaveUp)]
    assert world.a.session.handshakes_total >= 25
    assert world.is_through()


def test_the_unasked_keepalive_goes_on_dialling_a_peer_that_is_away() -> None:
    world = World(keepalive_s=25.0)
    world.crash(world.b)
    world.run(600.0)
    assert len(world.transcript) > 80
    world.restart(world.b)
    world.run(26.0)
    assert world.a.session.state is State.ESTABLISHED


def test_the_unasked_keepalive_without_an_endpoint_waits_quietly() -> None:
    world = World(keepalive_s=25.0, b_knows_a=False)
    world.crash(world.a)
    world.run(200.0)
    assert world.transcript == []
    world.restart(world.a)
    world.do(world.b, lambda session: session.set_endpoint(world.a.address))
    world.run(1.0)
    assert world.b.session.state is State.ESTABLISHED


def test_silence_after_data_begins_a_handshake_after_fifteen_seconds() -> None:
    world = World()
    world.establish()
    world.crash(world.b)
    start = len(world.transcript)
    world.send(world.a)
    world.run(14.9)
    assert kinds(world, start) == ["a>b data"]
    assert not world.a.session.is_silent
    world.run(0.5)
    assert kinds(world, start) == ["a>b data", "a>b initiation"]
    assert world.a.session.is_silent


@both_suites
def test_an_announcement_tells_the_peer_where_we_are_now(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    start = len(world.transcript)
    world.roam(world.b)
    world.do(world.b, lambda session: session.announce(world.now))
    world.run(0.5)
    assert kinds(world, start) == ["b>a keepalive"]
    assert world.a.session.endpoint == world.b.address


def test_an_announcement_without_a_key_begins_a_handshake() -> None:
    world = World()
    world.do(world.b, lambda session: session.announce(world.now))
    world.run(0.5)
    assert world.a.session.state is State.ESTABLISHED


# Rekeying.


@both_suites
def test_the_initiator_rekeys_with_the_first_data_after_two_minutes(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    start = len(world.transcript)
    world.run(118.9)
    world.send(world.a)
    world.run(0.3)
    assert kinds(world, start) == ["a>b data"]
    world.run(1.0)
    world.send(world.a)
    world.run(0.3)
    assert kinds(world, start + 1) == ["a>b data", "a>b initiation", "b>a response", "a>b keepalive"]
    assert (world.a.session.epoch, world.b.session.epoch) == (2, 2)


@both_suites
def test_the_initiator_rekeys_on_received_data_when_it_sends_none(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    world.run(162.0)
    world.send(world.b)
    world.run(1.0)
    assert world.a.session.handshakes_total == 1
    world.run(2.0)
    world.send(world.b)
    world.run(1.0)
    assert world.a.session.handshakes_total == 2
    assert world.a.session.epoch == 2


def test_the_responder_rekeys_in_time_when_the_initiator_does_not() -> None:
    world = World()
    world.establish()
    world.run(173.9)
    world.send(world.b)
    world.captured.clear()
    world.network.cut = {"b"}  # a hears b's data and would rekey, but does not get through
    world.run(0.2)
    start = len(world.transcript)
    serials = world.send(world.b)
    world.network.cut = set()
    assert kinds(world, start) == ["b>a data", "b>a initiation"]
    for _ in range(20):
        serials += world.send(world.b)
        world.run(0.5)
    assert not [event for event in world.b.events if isinstance(event, KeyExpired)]
    assert not world.lost(serials, world.a)


@both_suites
def test_a_key_is_replaced_by_the_number_of_its_messages_by_either_side(suite: Suite) -> None:
    few = replace(suite, rekey_after_messages=20, reject_after_messages=1000)
    for sender, receiver in (("a", "b"), ("b", "a")):
        world = World(few)
        world.establish()
        world.run(5.0)
        serials = []
        for _ in range(40):
            serials += world.send(world.nodes[sender])
            world.run(0.01)
        world.run(1.0)
        assert world.nodes[sender].session.epoch == 2
        assert not world.lost(serials, world.nodes[receiver])


def test_a_used_up_key_seals_nothing_more_and_its_packets_wait() -> None:
    world = World(replace(WIREGUARD, rekey_after_messages=20, reject_after_messages=300))
    world.establish()
    world.run(5.0)
    world.network.cut = {"b"}
    lost = world.send(world.a, 290)
    world.network.cut = set()
    serials = world.send(world.a, 20)
    assert world.a.session.staged == 20
    world.run(7.0)
    assert not world.lost(serials, world.b)
    assert world.lost(lost, world.b) == lost


def test_rekey_is_asked_for_at_most_once_in_five_seconds() -> None:
    world = World()
    world.establish()
    start = len(world.transcript)
    for _ in range(10):
        world.do(world.a, lambda session: session.rekey(world.now))
        world.do(world.b, lambda session: session.rekey(world.now))
    assert len(world.transcript) == start
    world.run(3.9)
    assert len(world.transcript) == start
    world.run(2.0)
    assert 2 <= world.a.session.handshakes_total <= 3
    for _ in range(100):
        world.do(world.a, lambda session: session.rekey(world.now))
        world.run(0.1)
    assert world.a.session.handshakes_total <= 5


@both_suites
def test_a_key_is_refused_after_three_minutes_on_both_sides(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    world.send(world.a)
    world.run(1.0)
    held_back = world.captured[-1]
    serials = world.send(world.a)
    late = world.captured[-1]
    world.network.cut = {"b"}
    world.run(177.9)
    assert world.b.session.state is State.ESTABLISHED
    world.run(1.5)
    assert world.b.session.state is State.IDLE
    assert KeyExpired(1) in world.b.events
    world.arrive(*late)
    world.arrive(*held_back)
    world.run(1.0)
    assert len(world.lost(serials, world.b)) in (0, 1)
    assert world.b.demux.drops[DropReason.UNKNOWN_INDEX] == 2
    assert repr(world.b.demux).endswith("0 indices, 0 tokens>")


def test_an_expired_key_is_not_used_even_before_its_deadline_is_acted_on() -> None:
    world = World()
    world.establish()
    datagram = None
    world.network.cut = {"b"}
    world.send(world.a)
    datagram = world.captured[-1]
    world.network.cut = set()
    world.now += 200.0  # nobody calls handle_timeout
    world.arrive(*datagram)
    assert world.b.session.drops == {DropReason.KEY_EXPIRED: 1}
    start = len(world.transcript)
    serials = world.send(world.a)
    assert kinds(world, start) == ["a>b initiation"]
    world.run(1.0)
    assert not world.lost(serials, world.b)


def test_old_keys_leave_the_tables() -> None:
    world = World(timers=Timers(rekey_after_s=1.0, rekey_timeout_s=0.5, reject_after_s=4.0, keepalive_timeout_s=1.0))
    world.establish()
    for _ in range(200):
        world.send(world.a)
        world.send(world.b)
        world.run(0.1)
    assert world.a.session.handshakes_total > 10
    world.run_until_quiet()
    for node in (world.a, world.b):
        assert repr(node.demux).endswith("0 indices, 0 tokens>")
        assert node.session.state is State.IDLE


# Restarts.


def test_a_restarted_peer_is_noticed_by_its_reset_at_once() -> None:
    world = World(AES_GCM)
    world.establish()
    world.run(10.0)
    world.restart(world.b)
    start = len(world.transcript)
    world.send(world.a)
    world.run(0.5)
    assert kinds(world, start) == ["a>b data", "b>a reset", "a>b initiation", "b>a response", "a>b keepalive"]
    assert PeerForgotUs() in world.a.events
    assert world.is_through()


def test_a_restarted_wireguard_peer_is_noticed_by_its_silence() -> None:
    world = World(WIREGUARD)
    world.establish()
    world.run(10.0)
    world.restart(world.b)
    world.send(world.a)
    world.run(16.0)
    assert world.a.session.epoch == 2
    assert world.is_through()


@both_suites
def test_a_restarted_peer_that_has_something_to_say_calls_first(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    world.run(10.0)
    world.restart(world.b)
    serials = world.send(world.b)
    world.run(0.5)
    assert not world.lost(serials, world.a)
    assert world.is_through()


def test_a_restarted_peer_that_knows_no_endpoint_is_called_again() -> None:
    world = World(b_knows_a=False)
    world.establish()
    world.run(10.0)
    world.restart(world.b)
    waiting = world.send(world.b, 2)
    world.send(world.a)
    world.run(0.5)
    assert not world.lost(waiting, world.a)


def test_a_peer_restarted_with_its_clock_in_the_past_is_called_by_us() -> None:
    world = World(AES_GCM)
    world.establish()
    world.do(world.b, lambda session: session.rekey(world.now))
    world.run(10.0)
    world.b.clock_offset_ns = -(10**18)
    world.restart(world.b)
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(1.0)
    assert world.a.session.drops[DropReason.REPLAYED_INITIATION] == 1
    assert world.seconds_to_talk(10.0) <= 1.0


@both_suites
def test_a_peer_restarted_with_its_clock_in_the_past_behind_a_new_address_is_called_back_there(suite: Suite) -> None:
    world = World(suite, b_knows_a=True)
    world.do(world.b, lambda session: session.connect(world.now))  # so that `a` has seen a timestamp of `b`
    world.run(200.0)
    assert not world.a.session.is_ready
    world.crash(world.b)
    world.roam(world.b, ("198.51.100.77", 7777))
    world.b.clock_offset_ns = -(10**18)
    world.restart(world.b)
    serials = world.send(world.b)
    world.run(1.0)
    assert world.a.session.drops[DropReason.REPLAYED_INITIATION] == 1
    assert not world.lost(serials, world.a)
    assert world.a.session.endpoint == world.b.address


@both_suites
def test_a_replayed_initiation_is_called_back_once_in_five_seconds_and_moves_nothing(suite: Suite) -> None:
    world = World(suite)
    world.do(world.b, lambda session: session.connect(world.now))
    world.run(0.06)
    initiation = world.captured[0][0]
    world.run(200.0)
    world.crash(world.b)
    endpoint, before = world.a.session.endpoint, len(world.captured)
    for _ in range(100):
        world.arrive(initiation, ("203.0.113.66", 6), world.a.address)
        world.run(0.06)
    sent = [datagram for datagram, _, target in world.captured[before:] if target == ("203.0.113.66", 6)]
    assert len(sent) == 2
    assert all(len(datagram) <= len(initiation) for datagram in sent)
    assert world.a.session.endpoint == endpoint


def test_a_clock_set_back_while_running_hinders_nothing() -> None:
    world = World()
    world.establish()
    for node in (world.a, world.b):
        node.clock_offset_ns = -(10**18)
        world.run(10.0)
        world.do(node, lambda session: session.rekey(world.now))
        world.run(1.0)
    assert not world.a.session.drops
    assert not world.b.session.drops
    assert world.a.session.handshakes_total == 3


def reset_of(world: World) -> bytes:
    """The reset that would make `a` begin again: what `b` would say if it had forgotten its current key."""
    keys = world.a.session._ring.current
    assert keys is not None
    return b"\x24\0\0\0" + keys.remote_token


def test_a_forged_or_repeated_reset_takes_no_key_away_and_costs_one_handshake_in_five_seconds() -> None:
    world = World()
    world.establish()
    world.run(10.0)
    for _ in range(1000):
        world.arrive(reset_of(world), world.b.address, world.a.address)
        assert world.a.session.is_ready
    assert world.is_through()
    assert world.a.session.handshakes_total == 2
    for _ in range(100):
        world.arrive(reset_of(world), ("203.0.113.66", 6), world.a.address)
        world.run(0.05)
    assert world.a.session.handshakes_total == 3
    assert world.a.session.endpoint == world.b.address
    assert world.a.session.drops[DropReason.RESET_FLOOD] > 1000
    assert world.is_through()


def test_a_reset_for_a_key_that_we_do_not_send_under_is_ignored() -> None:
    world = World()
    world.establish()
    old = reset_of(world)
    world.run(10.0)
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(10.0)
    start = len(world.transcript)
    world.arrive(old, world.b.address, world.a.address)
    world.do(world.b, lambda session: session.receive_reset(b"", world.a.address, world.now))
    world.do(world.b, lambda session: session.receive_reset(b"x" * 16, world.a.address, world.now))
    assert world.a.session.drops == {DropReason.UNKNOWN_RESET: 1}
    assert world.b.session.drops == {DropReason.UNKNOWN_RESET: 2}
    assert len(world.transcript) == start


def test_an_empty_reset_token_does_not_match_a_wireguard_session() -> None:
    world = World(WIREGUARD)
    world.establish()
    world.do(world.a, lambda session: session.receive_reset(b"", world.b.address, world.now))
    assert world.a.session.drops == {DropReason.UNKNOWN_RESET: 1}


# Roaming.


@both_suites
def test_an_authentic_datagram_moves_the_endpoint(suite: Suite) -> None:
    world = World(suite)
    world.establish()
    before = world.b.address
    world.roam(world.b, ("2001:db8::9", 7, 0, 0))
    world.send(world.b)
    world.run(0.5)
    assert world.a.session.endpoint == world.b.address
    assert EndpointMoved(before, world.b.address) in world.a.events
    assert world.is_through()


def test_a_response_from_elsewhere_moves_the_endpoint() -> None:
    world = World()
    before = world.b.address
    world.do(world.a, lambda session: session.connect(world.now))
    world.roam(world.b)
    world.arrive(world.captured[0][0], world.a.address, world.b.address)
    world.run(1.0)
    assert world.a.session.endpoint == world.b.address
    assert EndpointMoved(before, world.b.address) in world.a.events
    assert world.is_through()


def test_a_kept_call_from_elsewhere_is_answered_there_and_moves_nothing() -> None:
    """b restarts, so a recorded initiation of a is new to it; whoever sends it cannot confirm."""
    world = World()
    world.establish()
    (call,) = [
        data for data, _, target in world.captured if name_of(data) == "initiation" and target == world.b.address
    ]
    world.restart(world.b)
    thief = ("203.0.113.9", 9)
    received_at = world.b.session.last_received_at
    world.arrive(call, thief, world.b.address)
    assert [target for data, _, target in world.captured if name_of(data) == "response"][-1] == thief
    assert world.b.session.endpoint == world.a.address
    assert world.b.session.last_received_at == received_at
    assert world.seconds_to_talk(1.0) < 1.0


def test_a_call_from_elsewhere_moves_the_endpoint_once_it_is_confirmed() -> None:
    world = World()
    world.establish()
    world.roam(world.a)
    world.run(60.0)
    world.do(world.a, lambda session: session.rekey(world.now))
    world.run(LATENCY_S * 2.5)
    assert world.b.session.endpoint != world.a.address
    world.run(LATENCY_S)
    assert world.b.session.endpoint == world.a.address


def test_neither_forged_nor_late_nor_repeated_datagrams_move_the_endpoint() -> None:
    world = World()
    world.establish()
    world.network.cut = {"a"}
    world.send(world.b)
    late = world.captured[-1][0]
    world.network.cut = set()
    world.send(world.b)
    newest = world.captured[-1][0]
    world.run(0.5)
    elsewhere = ("203.0.113.66", 6)
    forged = late[:-1] + bytes((late[-1] ^ 1,))
    for datagram in (forged, newest, late):
        world.arrive(datagram, elsewhere, world.a.address)
        assert world.a.session.endpoint == world.b.address
    assert world.a.session.drops == {DropReason.NOT_AUTHENTIC: 1, DropReason.REPLAYED: 1}


def test_both_may_roam_in_turn() -> None:
    world = World()
    world.establish()
    for _ in range(5):
        world.roam(world.a)
        assert world.seconds_to_talk(1.0) <= 1.0
        world.roam(world.b)
        assert world.seconds_to_talk(1.0) <= 1.0


# Refusals.


def test_what_the_inspection_refuses_is_not_delivered_but_counts_as_heard() -> None:
    world = World()
    world.establish()
    world.b.session._tunnel.inside.inspect = lambda packet: DropReason.SOURCE_NOT_ALLOWED
    serials = world.send(world.a, 2)
    world.run(11.0)
    assert world.lost(serials, world.b) == serials
    assert world.b.session.drops == {DropReason.SOURCE_NOT_ALLOWED: 2}
    assert world.b.session.received.packets == 0
    assert kinds(world)[-1] == "b>a keepalive"


def test_a_flood_of_drops_does_not_push_other_news_out() -> None:
    world = World()
    world.establish()
    session = world.a.session
    (index,) = session._ring.by_index
    junk = [lone(index.to_bytes(4, "little") + bytes(60), ("203.0.113.66", 6))] * 1000
    session.receive(junk, world.now)
    session.rekey(world.now + 10.0)
    session.receive(junk, world.now + 10.0)
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    assert HandshakeStarted(1) in events
    assert events.count(PacketDropped(DropReason.MALFORMED, ("203.0.113.66", 6))) == DROP_EVENTS
    assert session.drops == {DropReason.MALFORMED: 2000}


def test_unread_events_are_bounded() -> None:
    world = World()
    world.establish()
    session = world.a.session
    for number in range(EVENTS * 3):
        session._move_endpoint(("192.0.2.9", number), world.now)
    count = 0
    while session.next_event() is not None:
        count += 1
    assert count == EVENTS


def test_without_a_free_index_the_session_tries_again_later() -> None:
    table = LinkTable(limit=0)
    static, peer = StaticKey(b"\x01" * 32), StaticKey(b"\x02" * 32)
    session = Session(
        SessionConfig(suite=AES_GCM, static=static, peer_public=peer.public),
        links=table,
        entropy=bytes,
        wall_ns=lambda: 10**18,
        now=0.0,
        endpoint=("192.0.2.2", 1),
    )
    session.send([inner_packet(0)], 0.0)
    assert flatten(session.runs_to_send()) == []
    assert session.drops == {DropReason.NO_INDEX: 1}
    assert session.next_event() == PacketDropped(DropReason.NO_INDEX, None)
    table.limit = 1
    at = session.next_timeout()
    assert at == 5.0
    session.handle_timeout(at)
    assert len(flatten(session.runs_to_send())) == 1
    assert session.state is State.INITIATING


def test_a_hostile_initiation_finds_no_free_index_and_is_dropped() -> None:
    world = World()
    world.do(world.b, lambda session: session.connect(world.now))
    table = LinkTable(limit=0)
    world.a.session._handshakes._links = table
    world.run(1.0)
    assert world.a.session.drops == {DropReason.NO_INDEX: 1}
    assert world.a.session.state is State.IDLE


# Misuse.


def test_a_closed_session_refuses_intents_and_ignores_the_network() -> None:
    world = World()
    world.establish()
    world.send(world.b)
    world.do(world.b, lambda session: session.rekey(world.now + 10.0))
    waiting = list(world.captured)
    session = world.a.session
    session.connect(world.now)
    session.close()
    session.close()
    assert (session.state, session.next_timeout(), flatten(session.runs_to_send())) == (State.CLOSED, None, [])
    assert repr(world.a.demux).endswith("0 indices, 0 tokens>")
    for misuse in (
        lambda: session.connect(world.now),
        lambda: session.rekey(world.now),
        lambda: session.announce(world.now),
        lambda: session.send([inner_packet(0)], world.now),
    ):
        with pytest.raises(LocalError, match="closed"):
            misuse()
    for datagram, source, destination in waiting:
        world.arrive(datagram, source, destination)
    session.receive([lone(bytes(100), world.b.address)], world.now)
    session.receive_reset(b"x" * 16, world.b.address, world.now)
    session.handle_timeout(world.now + 1000.0)
    session.set_endpoint(("192.0.2.77", 1))
    assert session.state is State.CLOSED
    assert session.next_timeout() is None
    assert world.a.session.drops == {}


def test_closing_counts_what_waited() -> None:
    world = World()
    world.network.cut = {"b"}
    world.send(world.a, 5)
    world.a.session.close()
    assert world.a.session.drops == {DropReason.CLOSED: 5}
    assert world.a.session.staged == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"peer_public": bytes(32)},
        {"peer_public": b"short"},
        {"preshared": b"short"},
        {"keepalive_s": -1.0},
        {"keepalive_s": float("nan")},
        {"keepalive_s": 1e-9},
        {"keepalive_s": 70000.0},
        {"mtu": 0},
    ],
)
def test_an_unusable_configuration_is_refused(changes: dict[str, object]) -> None:
    world = World()
    good = world.a.session._config
    with pytest.raises(LocalError):
        Session(
            replace(good, **changes),  # type: ignore[arg-type]
            links=LinkTable(),
            entropy=bytes,
            wall_ns=lambda: 0,
            now=0.0,
        )


def test_calls_that_are_early_or_late_or_repeated_do_nothing_wrong() -> None:
    world = World()
    world.establish()
    session = world.a.session
    before = len(world.transcript)
    for _ in range(5):
        world.do(world.a, lambda session: session.handle_timeout(world.now))
        world.do(world.a, lambda session: session.receive([], world.now))
    assert len(world.transcript) == before
    session.handle_timeout(world.now + 10_000.0)  # a laptop that slept
    assert session.state is State.IDLE
    assert flatten(session.runs_to_send()) == []


def test_repr_shows_no_key() -> None:
    world = World()
    world.establish()
    assert repr(world.a.session) == "<Session aes-gcm ESTABLISHED epoch 1>"
    text = repr(world.a.session._config) + repr(world.a.session._ring) + repr(world.a.session._handshakes)
    for secret in (world.a.private, b"p" * 32):
        assert repr(secret)[2:-1] not in text


def test_statistics_count_packets_and_all_authentic_bytes() -> None:
    world = World(WIREGUARD)
    world.send(world.a, 3, size=80)
    world.run(1.0)
    sent, received = world.a.session.transmitted, world.b.session.received
    assert (sent.packets, sent.bytes) == (3, 148 + 3 * (80 + 32))
    assert (received.packets, received.bytes) == (sent.packets, sent.bytes)
    assert (world.a.session.received.packets, world.a.session.received.bytes) == (0, 92)
    assert world.b.session.transmitted.bytes == 92
    assert world.a.session.last_handshake_at == pytest.approx(1000.0 + 2 * LATENCY_S)
    assert world.b.session.last_received_at == pytest.approx(1000.0 + 3 * LATENCY_S)
