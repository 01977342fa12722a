"""Which peer a packet of the host is for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_world import host, inner, packet

from holloway.actors.router import Router
from holloway.protocols.inspection import Inspector
from holloway.protocols.packets import SuperPacket

OWN = (host(1), ip_network("192.168.1.0/24"), ip_network("fd99::1/128"))
A, B, C = (type("Peer", (), {})() for _ in range(3))


def router() -> Router:
    return Router(OWN)


def test_a_batch_is_sorted_by_peer_and_keeps_each_peers_order() -> None:
    made = router()
    made.assign(A, (host(2),))
    made.assign(B, (host(3), ip_network("10.99.0.0/24")))
    large = SuperPacket(packet(1, 2, 4, size=3000), 1000)
    batch = [packet(1, 2, 1), packet(1, 3, 2), packet(1, 2, 3), large, packet(1, 200, 5)]
    assert made.sort(batch) == {A: [batch[0], batch[2], large], B: [batch[1], batch[4]]}
    assert made.drops == {}


def test_what_is_for_nobody_is_counted() -> None:
    made = router()
    made.assign(A, (host(2),))
    assert made.sort([packet(1, 9, 1), packet(1, 1, 2), b"", b"\x45", bytes(100), b"\x65" + bytes(39)]) == {}
    assert made.drops == {"no_route": 3, "not_ip": 3}


def test_our_own_prefixes_lead_nowhere_though_a_peer_has_all_around_them() -> None:
    made = router()
    made.assign(A, (ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("192.168.1.128/25")))
    lookup = made.routes.lookup
    assert lookup(inner(1)) is None
    assert lookup(ip_address("192.168.1.5").packed) is None
    assert lookup(ip_address("fd99::1").packed) is None
    assert lookup(inner(2)) is A
    assert lookup(ip_address("fd99::2").packed) is A
    assert lookup(ip_address("192.168.1.200").packed) is A  # a piece that the configuration gives away


def test_a_peer_that_may_send_from_anywhere_does_not_send_in_our_name() -> None:
    made = router()
    made.assign(A, (ip_network("0.0.0.0/0"),))
    judge: Inspector[Any] = Inspector(made.routes, A, made.local)
    assert judge(packet(2, 1, 1)) is None
    refusal = judge(packet(1, 1, 1))
    assert refusal is not None
    assert refusal.value == "source_not_allowed"


def test_a_prefix_moves_to_the_peer_that_it_is_given_to_last() -> None:
    made = router()
    made.assign(A, (host(2), host(3)))
    made.assign(B, (host(3), host(4)))
    assert made.sort([packet(1, 3, 1)]) == {B: [packet(1, 3, 1)]}
    made.assign(A, (host(2),))  # which gives nothing of B's back
    made.remove(A)
    assert made.sort([packet(1, 3, 1)]) == {B: [packet(1, 3, 1)]}
    made.assign(B, ())
    made.remove(B)
    made.remove(C)
    assert len(made.routes) == len(OWN)


peers = st.sampled_from([A, B, C])
prefixes = st.lists(st.sampled_from([host(number) for number in range(2, 8)]), unique=True).map(tuple)


@given(st.lists(st.tuples(peers, st.one_of(st.none(), prefixes)), max_size=30))
def test_every_prefix_has_its_last_owner_and_the_table_is_empty_when_all_have_left(steps: list[Any]) -> None:
    made, owner = router(), {}
    for peer, given_prefixes in steps:
        for prefix in [prefix for prefix, has in owner.items() if has is peer]:
            del owner[prefix]
        if given_prefixes is None:
            made.remove(peer)
        else:
            made.assign(peer, given_prefixes)
            owner |= dict.fromkeys(given_prefixes, peer)
        assert {prefix: has for prefix, has in made.routes.entries() if has is not None} == owner
    for peer in (A, B, C):
        made.remove(peer)
    assert len(made.routes) == len(OWN)
    assert (made._owners, made._prefixes) == ({}, {})


@pytest.mark.parametrize("size", [0, 1, 19])
def test_a_packet_without_a_whole_header_is_no_packet(size: int) -> None:
    made = router()
    made.assign(A, (ip_network("0.0.0.0/0"),))
    assert made.sort([packet(1, 2, 1)[:size]]) == {}
    assert made.drops == {"not_ip": 1}


def test_a_borrowed_address_is_ours_and_goes_back_to_the_peer_it_was_assigned_to_last() -> None:
    made, floating = router(), host(200)
    lookup = made.routes.lookup
    made.assign(A, (host(2), floating))
    made.borrow(floating, lambda: True)
    assert lookup(inner(200)) is None
    assert inner(200) in made.local
    made.assign(A, (host(2), floating))
    assert lookup(inner(200)) is None
    made.assign(A, (host(2),))
    made.assign(B, (host(3), floating))
    made.give_back(floating)
    made.give_back(floating)
    assert lookup(inner(200)) is B
    assert inner(200) not in made.local
    made.borrow(floating, lambda: True)
    made.assign(B, (host(3),))
    made.give_back(floating)
    assert lookup(inner(200)) is None
    assert lookup(inner(2)) is A


PIECES = [
    b"",
    b"\x45",
    bytes(20),
    packet(1, 2, 1),
    packet(1, 3, 2),
    packet(1, 2, 3),
    packet(1, 9, 4),
    b"\x45" + bytes(15) + inner(2),
    b"\x65" + bytes(15) + inner(2),
    SuperPacket(packet(1, 2, 5), 8),
    SuperPacket(packet(1, 3, 6), 8),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_long_rows_are_sorted_as_each_packet_would_be_alone(batch: list[Any]) -> None:
    together, alone = router(), router()
    for made in (together, alone):
        made.assign(A, (host(2),))
        made.assign(B, (host(3),))
    expected: dict[Any, list[Any]] = {}
    for each in batch:
        peer = alone.find(each)
        if peer is not None:
            expected.setdefault(peer, []).append(each)
    found = together.sort(batch)
    assert (found, list(found), together.drops) == (expected, list(expected), alone.drops)
