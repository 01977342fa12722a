"""The plan: who is a peer, and whose a prefix is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_world import host, name, public_key
from node_world import peer as configured

from holloway.actors import Endpoint
from holloway.actors.wanted import MAX_PEERS, MAX_ROUTES, Claimant, Floating, Peer, Plan, PrefixSet, settle

OWN_KEY = public_key(1)
OURS = (host(1), ip_network("192.168.1.0/24"))


def net(text: str) -> Any:
    return ip_network(text)


def found(number: int, *allowed: str, key: int | None = None, called: str | None = None) -> Peer:
    prefixes = tuple(map(net, allowed)) if allowed else (host(number),)
    return Peer(name=called or name(number), public_key=public_key(number if key is None else key), allowed=prefixes)


def plan(configured: Any = (), found: Any = ()) -> Plan:
    return settle(configured, found, own_key=OWN_KEY, own_prefixes=OURS)


def refusals(made: Plan) -> list[tuple[str, str, str | None]]:
    return [(each.name, each.reason.value, each.prefix and str(each.prefix)) for each in made.refused]


def test_configured_and_found_peers_are_all_wanted() -> None:
    made = plan([Peer.from_config(configured(2))], [found(3)])
    assert made.peers == {name(2): Peer.from_config(configured(2)), name(3): found(3)}
    assert made.refused == ()


def test_the_identity_of_a_peer_is_what_a_session_is_made_for() -> None:
    one = Peer.from_config(configured(2))
    moved = Peer.from_config(configured(2, endpoint=Endpoint("198.51.100.1", 9), allowed=(net("10.0.0.0/8"),)))
    assert one.identity == moved.identity
    assert one.identity != Peer.from_config(configured(2, keepalive_s=5)).identity
    assert one.identity != Peer.from_config(configured(2, suite="wireguard")).identity
    assert one.identity != found(2, key=3).identity


def test_we_are_no_peer_of_ours() -> None:
    assert plan(found=[found(3, key=1)]).peers == {}


def test_a_configured_peer_is_not_found_again_under_the_name_it_has_in_the_registry() -> None:
    made = plan([Peer.from_config(configured(2))], [found(2, called="its-own-name")])
    assert list(made.peers) == [name(2)]
    assert made.refused == ()


def test_the_registry_tells_where_a_configured_peer_is_after_what_the_configuration_tells() -> None:
    here, there = Endpoint("192.0.2.2", 1099), Endpoint("192.0.2.99", 7)
    calls = replace(found(2), name="another-name", endpoints=(there, here))
    for endpoint, places in ((None, (there, here)), (here, (here, there))):
        made = plan([Peer.from_config(configured(2, endpoint=endpoint))], [calls])
        assert made.peers[name(2)].endpoints == places
        assert list(made.peers) == [name(2)]


def test_a_found_peer_does_not_take_the_name_of_a_configured_one() -> None:
    made = plan([Peer.from_config(configured(2))], [found(9, called=name(2))])
    assert made.peers == {name(2): Peer.from_config(configured(2))}
    assert refusals(made) == [(name(2), "peer_name_taken", None)]


def test_of_two_found_peers_with_one_key_the_first_is_wanted() -> None:
    made = plan(found=[found(2), found(2, called="another")])
    assert list(made.peers) == [name(2)]
    assert refusals(made) == [("another", "peer_key_taken", None)]


def test_of_two_claims_to_one_prefix_the_first_is_granted_and_the_rest_of_the_second_too() -> None:
    made = plan(found=[found(2, "10.99.0.2/32", "10.5.0.0/16"), found(3, "10.5.0.0/16", "10.99.0.3/32")])
    assert made.peers[name(2)].allowed == (net("10.99.0.2/32"), net("10.5.0.0/16"))
    assert made.peers[name(3)].allowed == (net("10.99.0.3/32"),)
    assert refusals(made) == [(name(3), "prefix_taken", "10.5.0.0/16")]
    alone = plan(found=[found(3, "10.5.0.0/16", "10.99.0.3/32")])
    assert alone.peers[name(3)].allowed == (net("10.5.0.0/16"), net("10.99.0.3/32"))


@pytest.mark.parametrize("prefix", ["10.99.0.1/32", "192.168.1.0/24", "192.168.1.128/25", "192.168.1.7/32"])
def test_what_is_ours_is_no_found_peers_not_even_a_piece(prefix: str) -> None:
    made = plan(found=[found(2, prefix, "10.99.0.2/32")])
    assert made.peers[name(2)].allowed == (host(2),)
    assert refusals(made) == [(name(2), "prefix_ours", prefix)]


@pytest.mark.parametrize("prefix", ["10.50.0.0/16", "10.50.0.0/17", "10.50.7.7/32"])
def test_a_found_peer_takes_no_piece_of_what_the_configuration_gave_to_another(prefix: str) -> None:
    pinned = Peer.from_config(configured(2, allowed=(net("10.50.0.0/16"),)))
    made = plan([pinned], [found(3, prefix, "10.99.0.3/32")])
    assert made.peers[name(3)].allowed == (host(3),)
    assert refusals(made) == [(name(3), "prefix_taken", prefix)]


def test_a_network_around_ours_or_around_anothers_is_routing() -> None:
    pinned = Peer.from_config(configured(2, allowed=(net("10.50.0.0/16"),)))
    around = found(3, "10.48.0.0/12", "192.168.0.0/16", "0.0.0.0/0")
    inside = found(4, "10.48.1.0/24")
    made = plan([pinned], [around, inside])
    assert made.refused == ()
    assert made.peers[name(4)].allowed == (net("10.48.1.0/24"),)


def test_a_found_default_route_counts_for_the_gateway_alone_and_is_no_refusal() -> None:
    offers = [found(number, f"10.99.0.{number}/32", "0.0.0.0/0", "::/0") for number in (3, 4, 5)]
    made = settle((), offers, own_key=OWN_KEY, own_prefixes=OURS, gateway=name(4))
    assert made.refused == ()
    assert {each: len(peer.allowed) for each, peer in made.peers.items()} == {name(3): 1, name(4): 3, name(5): 1}
    assert all(len(peer.allowed) == 1 for peer in plan(found=offers).peers.values())


def test_a_default_route_takes_nothing_from_others_wherever_it_is_from() -> None:
    everything = (net("0.0.0.0/0"), net("::/0"))
    pinned = Peer.from_config(configured(2, allowed=(host(2), *everything)))
    for made in (
        settle((), [found(3)], own_key=OWN_KEY, own_prefixes=(*OURS, *everything)),
        settle((pinned,), [found(3, "10.99.0.3/32", "10.7.0.0/16")], own_key=OWN_KEY, own_prefixes=OURS),
    ):
        assert host(3) in made.peers[name(3)].allowed
        assert made.refused == ()


def test_a_default_route_that_the_configuration_gives_away_is_not_found_again() -> None:
    pinned = Peer.from_config(configured(2, allowed=(host(2), net("0.0.0.0/0"))))
    offer = found(3, "10.99.0.3/32", "0.0.0.0/0")
    made = settle((pinned,), [offer], own_key=OWN_KEY, own_prefixes=OURS, gateway=name(3))
    assert refusals(made) == [(name(3), "prefix_taken", "0.0.0.0/0")]


def test_the_configuration_may_give_a_piece_of_the_network_behind_us_to_a_peer_but_not_our_address() -> None:
    piece = Peer.from_config(configured(2, allowed=(net("192.168.1.64/26"), host(1))))
    made = plan([piece])
    assert made.peers[name(2)].allowed == (net("192.168.1.64/26"),)
    assert refusals(made) == [(name(2), "prefix_ours", "10.99.0.1/32")]


def test_a_prefix_that_a_record_lists_twice_is_one_prefix() -> None:
    made = plan(found=[found(2, "10.5.0.0/16", "10.5.0.0/16")])
    assert made.peers[name(2)].allowed == (net("10.5.0.0/16"),)
    assert made.refused == ()


def test_peers_beyond_the_limit_are_refused_by_name() -> None:
    many = [
        Peer(name=f"n{number}", public_key=number.to_bytes(32, "big"), allowed=()) for number in range(MAX_PEERS + 2)
    ]
    made = plan([Peer.from_config(configured(2))], many)
    assert len(made.peers) == MAX_PEERS
    assert [each.name for each in made.refused] == ["n4095", "n4096", "n4097"]
    assert {each.reason.value for each in made.refused} == {"peer_too_many"}


def test_prefixes_beyond_the_size_of_the_routing_table_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ROUTES >= 60_000
    monkeypatch.setattr("holloway.actors.wanted.MAX_ROUTES", 5)
    made = plan(found=[found(2, "10.1.0.0/16", "10.2.0.0/16"), found(3, "10.3.0.0/16", "10.4.0.0/16")])
    assert [len(each.allowed) for each in made.peers.values()] == [2, 1]
    assert refusals(made) == [(name(3), "prefix_too_many", "10.4.0.0/16")]


def test_every_refusal_can_be_told() -> None:
    pinned = Peer.from_config(configured(2))
    made = plan([pinned], [found(9, called=name(2)), found(3), found(3, called="x"), found(4, "10.99.0.1/32")])
    made = Plan({}, (*made.refused, *plan(found=[found(5), found(6, "10.99.0.5/32")]).refused))
    assert all(len(str(each)) > 10 for each in made.refused)
    assert "10.99.0.1/32 is this node's own" in str(made.refused[2])


four = st.builds(
    lambda number, length: net(f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}.0/24").supernet(
        new_prefix=length
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 24),
)


@given(st.lists(four, max_size=12), four)
def test_a_prefix_set_covers_what_lies_inside(prefixes: list[Any], asked: Any) -> None:
    made = PrefixSet(prefixes)
    assert made.covers(asked) == any(asked.subnet_of(prefix) for prefix in prefixes)
    assert made.has(asked) == (asked in prefixes)
    assert not made.covers(net("fd00::/8"))


@given(st.lists(st.tuples(st.integers(2, 6), st.lists(st.sampled_from([host(n) for n in range(1, 8)]))), max_size=8))
def test_whatever_is_claimed_every_prefix_has_one_peer_and_ours_has_none(claims: list[Any]) -> None:
    claimants = [
        Peer(name=f"n{position}", public_key=public_key(number), allowed=tuple(prefixes))
        for position, (number, prefixes) in enumerate(claims)
    ]
    made = plan(found=claimants)
    granted = [prefix for each in made.peers.values() for prefix in each.allowed]
    assert len(granted) == len(set(granted))
    assert host(1) not in granted
    assert len({each.public_key for each in made.peers.values()}) == len(made.peers)
    assert made == plan(found=claimants)


def floated(holders: dict[str, Claimant], range_: str | None = None, **peers: Any) -> Plan:
    floating = Floating({net(each): holder for each, holder in holders.items()}, range_ and net(range_))
    return settle(
        peers.get("configured", ()), peers.get("found", ()), own_key=OWN_KEY, own_prefixes=OURS, floating=floating
    )


def test_a_floating_address_belongs_to_whoever_holds_it() -> None:
    pinned, others = Peer.from_config(configured(2)), [found(3), found(4)]
    by_name = floated({"10.99.0.200/32": Claimant(name(3))}, configured=[pinned], found=others)
    assert by_name.peers[name(3)].allowed == (host(3), net("10.99.0.200/32"))
    key = hashlib.sha256(public_key(2)).digest()
    by_key = floated({"10.99.0.200/32": Claimant("whatever", key)}, configured=[pinned], found=others)
    assert by_key.peers[name(2)].allowed == (host(2), net("10.99.0.200/32"))
    assert by_key.peers[name(2)].identity == pinned.identity
    stranger = floated({"10.99.0.200/32": Claimant("nobody"), "10.99.0.201/32": Claimant("", bytes(32))}, found=others)
    assert stranger.peers == {name(3): found(3), name(4): found(4)}


def test_a_floating_address_takes_nothing_from_anybody() -> None:
    holders = {f"{each}/32": Claimant(name(4)) for each in ("10.99.0.1", "192.168.1.7", "10.99.0.2", "10.99.0.3")}
    made = floated(holders, configured=[Peer.from_config(configured(2))], found=[found(3), found(4)])
    assert made.peers[name(4)].allowed == (host(4),)
    assert [each.reason.value for each in made.refused] == ["prefix_ours"] * 2 + ["prefix_taken"] * 2


def test_nobody_has_an_address_of_the_floating_range_by_its_record() -> None:
    greedy = found(3, "10.99.0.3/32", "10.99.2.1/32", "10.99.2.0/28")
    made = floated({"10.99.2.1/32": Claimant(name(4))}, "10.99.2.0/24", found=[greedy, found(4)])
    assert made.peers[name(3)].allowed == (host(3),)
    assert made.peers[name(4)].allowed == (host(4), net("10.99.2.1/32"))
    assert refusals(made) == [
        (name(3), "prefix_floating", "10.99.2.1/32"),
        (name(3), "prefix_floating", "10.99.2.0/28"),
    ]
    pinned = floated({}, "10.99.2.0/24", configured=[Peer.from_config(configured(2, allowed=(net("10.99.2.1/32"),)))])
    assert pinned.peers[name(2)].allowed == (net("10.99.2.1/32"),)
