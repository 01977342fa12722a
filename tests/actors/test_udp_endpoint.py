"""The actor of the sockets: what it sorts, counts and sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from node_world import PORT, World, config, drops, name, outer, packet, peer, private_key, the_peer
from trio.testing import MockClock

from holloway.actors.ports import DatagramPort
from holloway.actors.udp_endpoint import UdpEndpoint
from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import Arrival
from holloway.protocols.demux import HANDSHAKES_UNDER_LOAD, index_secret
from holloway.protocols.errors import PortError
from holloway.protocols.keys import StaticKey
from holloway.protocols.runs import Run, flatten
from holloway.protocols.suites import AES_GCM


class Socket(DatagramPort):
    """A socket that only remembers what it was told to send."""

    def __init__(self, local: Address) -> None:
        self.local = local
        self.drops = Counter({"udp_eagain": 1})
        self.sent: list[tuple[list[bytes], Address]] = []
        self.fragmentable: list[bytes] = []

    async def receive(self) -> list[Arrival]:
        await trio.sleep_forever()
        raise AssertionError

    def send(self, datagrams: Sequence[bytes], destination: Address, *, may_fragment: bool = False) -> None:
        self.sent.append((list(datagrams), destination))
        self.fragmentable += datagrams if may_fragment else ()

    def close(self) -> None:
        pass


def endpoint(*sockets: Socket) -> UdpEndpoint:
    key = private_key(1)
    return UdpEndpoint(list(sockets), StaticKey(key), index_secret(key), World().ports(1))


def test_a_datagram_leaves_by_the_socket_of_its_family() -> None:
    four, six = Socket(("0.0.0.0", 1)), Socket(("::", 1, 0, 0))
    made = endpoint(four, six)
    made.send([b"a"], ("192.0.2.1", 2))
    made.send([b"b", b"c"], ("2001:db8::1", 2, 0, 0))
    made.send_lone(b"d", ("192.0.2.1", 2), may_fragment=True)
    assert four.sent == [([b"a"], ("192.0.2.1", 2)), ([b"d"], ("192.0.2.1", 2))]
    assert four.fragmentable == [b"d"]
    assert six.sent == [([b"b", b"c"], ("2001:db8::1", 2, 0, 0))]
    assert made.listening == [("0.0.0.0", 1), ("::", 1, 0, 0)]
    assert made.drops() == {"udp_eagain": 2}


def test_a_datagram_may_be_fragmented_only_if_its_sender_says_so() -> None:
    four = Socket(("0.0.0.0", 1))
    made = endpoint(four)
    for may_fragment, word in ((False, b"a"), (True, b"b")):
        made.send([word], ("192.0.2.1", 2), may_fragment=may_fragment)
        made.send_runs([Run((word * 5,), 2, 5)], ("192.0.2.1", 2), may_fragment=may_fragment)
    assert [datagrams for datagrams, _ in four.sent] == [[b"a"], [b"aa", b"aa", b"a"], [b"b"], [b"bb", b"bb", b"b"]]
    assert four.fragmentable == [b"b", b"bb", b"bb", b"b"]


def test_what_has_no_socket_of_its_family_is_counted() -> None:
    made = endpoint(Socket(("0.0.0.0", 1)))
    made.send([b"b", b"c"], ("2001:db8::1", 2, 0, 0))
    made.send_lone(b"d", ("2001:db8::1", 2, 0, 0))
    assert made.drops() == {"udp_eagain": 1, "udp_no_socket_of_family": 3}
    assert made.can_reach(("192.0.2.1", 2))
    assert not made.can_reach(("2001:db8::1", 2, 0, 0))


def test_a_way_to_one_destination_is_that_of_its_family() -> None:
    four = Socket(("0.0.0.0", 1))
    made = endpoint(four)
    made.lone_sender(("192.0.2.1", 2))(b"a")
    made.lone_sender(("192.0.2.1", 3), may_fragment=True)(b"b")
    made.lone_sender(("2001:db8::1", 2, 0, 0))(b"nowhere")
    assert four.sent == [([b"a"], ("192.0.2.1", 2)), ([b"b"], ("192.0.2.1", 3))]
    assert four.fragmentable == [b"b"]
    assert made.drops() == {"udp_eagain": 1, "udp_no_socket_of_family": 1}


async def test_a_run_of_datagrams_is_taken_apart(autojump_clock: MockClock) -> None:
    """As the kernel hands them over with GRO: one arrival, several datagrams, the last one shorter."""
    made = endpoint(Socket(("0.0.0.0", 1)))
    made._offer([Arrival(("192.0.2.9", 9), memoryview(bytes(250)), 100), Arrival(("192.0.2.9", 9), b"", 0)])
    assert made.drops() == {"udp_eagain": 1, "unknown_type": 3, "bad_length": 1}


async def test_a_stranger_under_load_gets_a_cookie_and_no_more_bytes_than_it_sent(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(config(1, peers=[peer(2)]), world.ports(1)) as a:
        async with world.node(config(2, peers=[peer(1)]), world.ports(2)):
            await trio.sleep(1)
        (initiation,) = {
            datagram
            for _, source, _, datagram in world.wire
            if source[0] == outer(2) and datagram[:4] == AES_GCM.initiation.to_bytes(4, "little")
        }
        world.wire.clear()
        stranger = world.network.bind("203.0.113.9", 5)
        stranger.send([initiation] * (HANDSHAKES_UNDER_LOAD + 50), (outer(1), PORT))
        await trio.sleep(1)
        answers = [datagram for _, source, _, datagram in world.wire if source[0] == outer(1)]
        cookies = [each for each in answers if each[:4] == AES_GCM.cookie_reply.to_bytes(4, "little")]
        assert len(cookies) == 50
        assert drops(a)["cookie_required"] == 50
        assert sum(map(len, answers)) < sum(len(d) for _, source, _, d in world.wire if source[0] == "203.0.113.9")


async def test_counters_of_a_socket_outlive_it(autojump_clock: MockClock) -> None:
    async with World().pair() as (a, _, left, _):
        stranger = left.network.bind("203.0.113.9", 5)
        for round_number in range(3):
            stranger.send([b"x"] * 10, (outer(1), PORT))
            await trio.sleep(60)
            left.crash_udp()
            await trio.sleep(1)
            assert drops(a)["bad_length"] == 10 * (round_number + 1)


async def test_sockets_that_cannot_be_bound_are_an_error_that_says_why(autojump_clock: MockClock) -> None:
    world = World()
    ports = world.ports(1)
    ports.datagrams_refused = 1
    with pytest.raises(Exception, match="did not start") as raised:
        async with world.node(config(1), ports):
            pytest.fail("it started")
    cause: Any = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, PortError)
    assert world.network._sockets == {}


async def test_both_sockets_of_a_node_are_read(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with both families has a socket of each, and a peer that changes from one to the other is followed."""
    world = World()
    left, right = world.ports(1), world.ports(2)
    six = world.network.bind("2001:db8::1", PORT)
    open_four = left.open_datagrams
    monkeypatch.setattr(left, "open_datagrams", lambda address, port, **mark: [*open_four(address, port, **mark), six])
    async with world.node(config(1, peers=[peer(2)]), left) as a, world.node(config(2, peers=[peer(1)]), right) as b:
        with trio.fail_after(10):
            await a.connected(name(2))
        assert a.status()["node"]["listen"] == [f"{outer(1)}:{PORT}", f"[2001:db8::1]:{PORT}"]  # type: ignore[index]
        session = b.roster.running[name(1)]
        datagrams: list[bytes] = []
        monkeypatch.setattr(session._udp, "send_runs", lambda runs, destination, **_: datagrams.extend(flatten(runs)))
        session.offer_packets([packet(2, 1, 1)])
        world.network.bind("2001:db8::2", PORT).send(datagrams, ("2001:db8::1", PORT, 0, 0))
        with trio.fail_after(1):
            assert await left.tun.collect() == [packet(2, 1, 1)]
        assert the_peer(a, 2)["endpoint"] == f"[2001:db8::2]:{PORT}"


async def test_what_comes_by_a_second_socket_is_followed_by_what_else_it_has_and_not_by_that_of_the_first() -> None:
    first, second = Socket(("0.0.0.0", 1)), Socket(("0.0.0.0", 1))
    first.sparse = second
    asked: list[Socket] = []
    for each in (first, second):
        each.more = partial(asked.append, each)  # type: ignore[assignment, func-returns-value]

    async def serve(port: object, take: Any, take_lone: Any = None, *, sparse: Any = None) -> None:
        sparse[0]([])
        take([])
        assert sparse[1] == take_lone

    made = endpoint(first)
    made._ports = SimpleNamespace(serve=serve)  # type: ignore[assignment]
    made._offer = lambda arrivals: None  # type: ignore[method-assign]
    await made.read(first)
    assert asked == [second, first]
