"""The plan of a gateway, carried out by a model of the kernel's rules: what goes where, for any packet."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.gateway import (
    MAIN_TABLE,
    MAX_PINS,
    DefaultRoute,
    GatewayPlan,
    Pin,
    closed,
    gateway_table,
    plan_gateway,
)

LOCAL = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"), ip_network("10.99.0.0/16"))
"""What the main table of the model knows besides its default routes."""

ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.sampled_from([ip_address("192.0.2.9"), ip_address("2001:db8::9"), ip_address("10.99.0.2")]),
)
PINS = st.lists(st.builds(Pin, ADDRESSES, st.integers(1, 65535)), max_size=4)
VERSIONS = st.sets(st.sampled_from([4, 6]))
OFFERS = st.none() | VERSIONS


@dataclass(frozen=True)
class Packet:
    """A packet of this host; `port` of TCP, or None for another protocol."""

    to: IPv4Address | IPv6Address
    mark: int = 0
    port: int | None = None


def way(plan: GatewayPlan, packet: Packet, *, has_device: bool = True) -> str:
    """Where the kernel sends it: `near`, `underlay`, `device`, `unreachable`."""
    version = packet.to.version
    near = any(packet.to in network for network in LOCAL)
    for rule in sorted((rule for rule in plan.rules if rule.version == version), key=lambda rule: rule.priority):
        fits = (packet.mark & rule.mask) == rule.mark
        if rule.pin is not None:
            fits = fits and (packet.to, packet.port) == (rule.pin.address, rule.pin.port)
        if fits == rule.is_inverted:
            continue
        if rule.table == MAIN_TABLE:
            if near or not rule.is_near:
                return "near" if near else "underlay"
            continue
        assert rule.table == plan.table
        routes = {route for route in plan.routes if route.version == version and (has_device or not route.into_device)}
        if routes:
            return "device" if min(routes, key=lambda route: route.metric).into_device else "unreachable"
    return "near" if near else "underlay"


@given(ADDRESSES, VERSIONS, OFFERS, PINS, st.booleans(), st.none() | st.integers(1, 65535))
def test_nothing_but_the_store_goes_around_the_tunnel(
    to: IPv4Address | IPv6Address,
    own: set[int],
    offered: set[int] | None,
    pins: list[Pin],
    is_strict: bool,
    port: int | None,
) -> None:
    plan = plan_gateway("hw0", own=own, offered=offered, pins=pins, is_strict=is_strict)
    found = way(plan, Packet(to, port=port))
    if any(to in network for network in LOCAL):
        assert found == "near"
    elif port is not None and Pin(to, port) in pins:
        assert found == "underlay"
    elif to.version in own and (offered is None or to.version in offered):
        assert found == "device"
    else:
        assert found == "unreachable"


@given(ADDRESSES, VERSIONS, OFFERS, PINS, st.booleans())
def test_the_nodes_own_datagrams_go_as_if_there_were_no_gateway(
    to: IPv4Address | IPv6Address, own: set[int], offered: set[int] | None, pins: list[Pin], is_strict: bool
) -> None:
    plan = plan_gateway("hw0", own=own, offered=offered, pins=pins, is_strict=is_strict)
    assert way(plan, Packet(to, mark=plan.table)) in ("near", "underlay")


@given(ADDRESSES, VERSIONS, OFFERS)
def test_without_the_device_a_strict_plan_lets_nothing_out_and_another_one_all(
    to: IPv4Address | IPv6Address, own: set[int], offered: set[int] | None
) -> None:
    strict = plan_gateway("hw0", own=own, offered=offered, pins=(), is_strict=True)
    assert way(strict, Packet(to), has_device=False) in ("near", "unreachable")
    lax = plan_gateway("hw0", own=own, offered=offered, pins=())
    if DefaultRoute(to.version, into_device=True) in lax.routes:
        assert way(lax, Packet(to), has_device=False) in ("near", "underlay")


@given(ADDRESSES, VERSIONS, PINS)
def test_a_closed_way_lets_out_the_nodes_own_datagrams_and_what_is_for_the_store(
    to: IPv4Address | IPv6Address, own: set[int], pins: list[Pin]
) -> None:
    plan = closed(plan_gateway("hw0", own=own, offered=own, pins=pins))
    assert way(plan, Packet(to), has_device=False) in ("near", "unreachable")
    assert way(plan, Packet(to, mark=plan.table), has_device=False) in ("near", "underlay")
    for pin in pins:
        assert way(plan, Packet(pin.address, port=pin.port), has_device=False) in ("near", "underlay")


def test_many_pins_are_cut_and_each_counts_once() -> None:
    pins = [Pin(ip_address(f"203.0.113.{number}"), 2379) for number in range(MAX_PINS + 9)]
    plan = plan_gateway("hw0", own={4}, offered={4}, pins=[*pins[:1], *pins])
    assert {rule.pin for rule in plan.rules} - {None} == set(pins[:MAX_PINS])


@given(st.text(min_size=1, max_size=15))
def test_a_table_is_beyond_those_that_administrators_number_and_its_bits_are_nobody_elses(name: str) -> None:
    table = gateway_table(name)
    assert 0xFFFF < table < 1 << 31
    assert not table & 0xC000


def test_devices_of_one_host_have_tables_of_their_own() -> None:
    assert len({gateway_table(f"hw{number}") for number in range(32)}) == 32
