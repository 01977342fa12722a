"""What a daemon tells the control plane: read whole or refused, and no key changes hands because somebody else names it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.control_plane.effects import Forget, Keep
from holloway.protocols.control_plane.key_owners import owner_changes, take_owners
from holloway.protocols.control_plane.network_view import (
    MAX_KEYS,
    AgentsView,
    KnownBroker,
    NetworkKeys,
    read_agents,
    read_view,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.z85 import encode_z85

KEYS = [encode_z85(bytes([number]) * 32) for number in range(10, 14)]
PLACE = {"address": "10.99.4.1", "command_port": 23002, "file_port": 23003, "curve_key": KEYS[0]}
VIEW: dict[str, Any] = {
    "schema": "holloway.brokers/1",
    "node": {"name": "b", "network": "home", "addresses": ["10.99.4.2", "fd00::2"]},
    "signed": True,
    "brokers": [{"node": "a", **PLACE}],
    "named": ["a", "d"],
    "ignored": ["c"],
}


def test_a_view_says_who_has_a_broker_and_where() -> None:
    view = read_view(VIEW)
    broker = KnownBroker("a", BrokerPlace(ip_address("10.99.4.1"), 23002, 23003, KEYS[0]))
    assert (view.node, view.network, view.addresses) == ("b", "home", ("10.99.4.2", "fd00::2"))
    assert (view.is_signed, view.brokers, view.named, view.ignored) == (True, (broker,), ("a", "d"), ("c",))
    assert (view.of_node("a"), view.of_node("c"), view.of_key(KEYS[0]), view.of_key(KEYS[1])) == (broker, None) * 2
    assert broker.place.where == "10.99.4.1:23002"
    assert BrokerPlace(ip_address("fd00::1"), 1, 2, KEYS[0]).where == "[fd00::1]:1"


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        VIEW | {"node": None},
        VIEW | {"node": {"name": "b/c", "network": "home", "addresses": []}},
        VIEW | {"brokers": None},
        VIEW | {"brokers": [{"node": "a"}]},
        VIEW | {"brokers": [{"node": "\x1b[2J", **PLACE}]},
        VIEW | {"brokers": [{"node": "a", **PLACE, "curve_key": "~" * 40}]},
        VIEW | {"brokers": [{"node": "a", **PLACE, "address": "a.example"}]},
        VIEW | {"brokers": [{"node": "a", **PLACE, "command_port": 65536}]},
        VIEW | {"ignored": [1]},
        VIEW | {"named": None},
    ],
)
def test_what_is_no_view_is_told(said: Any) -> None:
    with pytest.raises(LocalError):
        read_view(said)


@pytest.mark.parametrize("said", [None, {}, {"agents": {}}, {"agents": [["a"]]}, {"agents": [["a", "~" * 40]]}])
def test_what_is_no_list_of_agents_is_told(said: Any) -> None:
    with pytest.raises(LocalError):
        read_agents(said)
    assert read_agents({"agents": [["a", KEYS[0]]]}) == AgentsView((("a", KEYS[0]),), False, False)


CLAIMS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(KEYS)), max_size=6)


@given(st.lists(CLAIMS, max_size=8), st.booleans())
def test_a_key_stays_with_its_owner_and_one_that_two_have_named_does_in_his_absence_and_in_another_life(
    rounds: list[list[tuple[str, str]]], restarts: bool
) -> None:
    keys = NetworkKeys()
    owners: dict[str, str] = {}
    for claims in rounds:
        before = dict(keys.names)
        if restarts:
            remembered, keys, before = keys.owners, NetworkKeys(), {}
            keys.remember(remembered)
        keys.take(claims)
        for key in {key for _, key in claims}:
            claimants = [claimant for claimant, claimed in claims if claimed == key]
            first = before[key] if before.get(key) in claimants else claimants[0]
            if len(set(claimants)) > 1:
                owners.setdefault(key, first)
            owner = owners.get(key, first)
            assert keys.names.get(key) == (owner if owner in claimants else None)
            assert set(keys.disputed.get(key, ())) == set(claimants) - {owner}
        assert set(keys.names) <= {key for _, key in claims}
        assert keys.owners == owners


def test_who_holds_a_key_says_whose_it_is_and_only_of_those_who_say_so_too() -> None:
    keys = NetworkKeys()
    keys.take([("thief", KEYS[0]), ("web", KEYS[0]), ("db", KEYS[1])])
    assert keys.names[KEYS[0]] == "thief"
    assert not keys.said(KEYS[0], "db")
    assert not keys.said(KEYS[1], "web")
    assert not keys.said(KEYS[0], "thief")
    assert keys.said(KEYS[0], "web")
    assert (keys.names[KEYS[0]], keys.disputed[KEYS[0]], keys.owners) == ("web", ("thief",), {KEYS[0]: "web"})
    keys.take([("thief", KEYS[0])])
    assert (keys.names, keys.disputed) == ({}, {KEYS[0]: ("thief",)})


def test_of_the_keys_that_two_have_named_only_so_many_are_remembered() -> None:
    keys = NetworkKeys()
    many = [encode_z85(number.to_bytes(32, "big")) for number in range(1, MAX_KEYS + 9)]
    for half in (many[: MAX_KEYS // 2], many[MAX_KEYS // 2 :]):
        keys.take([(name, key) for key in half for name in ("web", "thief")])
    assert len(keys.owners) == MAX_KEYS
    assert set(keys.owners) == set(many[8:])


def test_owners_are_read_back_as_they_were_kept_and_damaged_ones_are_counted() -> None:
    before, after = {KEYS[0]: "web", KEYS[1]: "db"}, {KEYS[1]: "db2", KEYS[2]: "web"}
    disk: dict[str, bytes] = {"job/x": b"kept"}
    for change in (*owner_changes({}, before), *owner_changes(before, after)):
        match change:
            case Keep(key, record):
                disk[key] = record
            case Forget(key):
                del disk[key]
    assert owner_changes(after, dict(after)) == []
    disk |= {"owner/zz": b"web", "owner/" + "00" * 31: b"web", "owner/" + "11" * 32: b"\xff"}
    assert take_owners(disk) == (after, 3)
    assert disk == {"job/x": b"kept"}
