"""What a daemon tells the control plane: read whole or refused, and no key changes hands because somebody else names it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.broker_places import BrokerPlace
from holloway.protocols.control_plane.network_view import AgentsView, KnownBroker, NetworkKeys, read_agents, read_view
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


@given(st.lists(CLAIMS, max_size=8))
def test_a_key_stays_with_its_owner_for_as_long_as_he_names_it(rounds: list[list[tuple[str, str]]]) -> None:
    keys = NetworkKeys()
    for claims in rounds:
        before = dict(keys.names)
        keys.take(claims)
        assert set(keys.names) == {key for _, key in claims}
        for key, name in keys.names.items():
            claimants = [claimant for claimant, claimed in claims if claimed == key]
            assert name == (before[key] if before.get(key) in claimants else claimants[0])
            assert (name, key) in claims
            assert set(keys.disputed.get(key, ())) == set(claimants) - {name}
