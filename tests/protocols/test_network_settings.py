"""Settings of a network: what is written is read, what is hostile is refused for a reason, and ranges make sense."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.errors import LocalError
from holloway.protocols.network_settings import (
    MAX_NETWORK_BITS,
    MAX_SETTINGS_BYTES,
    MIN_NETWORK_BITS,
    Backend,
    NetworkSettings,
    SettingsProblem,
    decode_settings,
    encode_settings,
    random_network6,
    ranges_of,
)

STANDARD = NetworkSettings()
ULA = IPv6Network("fd12:3456:789a::/64")


def fields(**changes: Any) -> bytes:
    """The standard settings as JSON, with some fields of others' making; `...` leaves one out."""
    every = json.loads(encode_settings(STANDARD)) | changes
    return json.dumps({name: value for name, value in every.items() if value is not ...}).encode()


@st.composite
def networks(draw: st.DrawFn) -> IPv4Network:
    bits = draw(st.integers(MIN_NETWORK_BITS, MAX_NETWORK_BITS))
    return IPv4Network((10 << 24 | draw(st.integers(0, 2**24 - 1)) & -1 << 32 - bits, bits))


@st.composite
def settings(draw: st.DrawFn) -> NetworkSettings:
    network = draw(networks())
    static, floating = ranges_of(network)
    return NetworkSettings(
        number=draw(st.integers(1, 2**53 - 1)),
        network=network,
        network6=draw(st.none() | st.binary(min_size=16, max_size=32).map(random_network6)),
        static_range=draw(st.sampled_from((static, None))),
        floating_range=draw(st.sampled_from((floating, None))),
        lease_s=draw(st.integers(10, 31_536_000)),
        rest_s=draw(st.integers(0, 31_536_000)),
        backend=draw(st.sampled_from(Backend)),
        port=draw(st.integers(1, 65_535)),
        brokers=tuple(
            draw(st.lists(st.from_regex(r"[A-Za-z0-9][a-z0-9._-]{0,62}", fullmatch=True), max_size=16, unique=True))
        ),
    )


def test_the_form_is_what_other_versions_rely_on() -> None:
    assert json.loads(encode_settings(replace(STANDARD, network6=ULA))) == {
        "v": 1,
        "number": 1,
        "network": "10.99.0.0/16",
        "network6": "fd12:3456:789a::/64",
        "static_range": "10.99.0.0/23",
        "floating_range": "10.99.2.0/23",
        "lease_s": 172_800,
        "rest_s": 3_600,
        "backend": "session",
        "port": 1099,
    }


def test_who_may_have_a_broker_is_left_out_where_nobody_may_and_is_bounded() -> None:
    assert json.loads(encode_settings(replace(STANDARD, brokers=("a", "b.c"))))["brokers"] == ["a", "b.c"]
    assert decode_settings(fields(brokers=[])) == STANDARD
    for said in ("a", None, [1], {"a": 1}, [["a"]], ["a"] * 17):
        assert decode_settings(fields(brokers=said)) is SettingsProblem.BAD_FIELD
    for said in (["a", "a"], [""], ["a/b"], ["x" * 64], ["a\n"]):
        assert decode_settings(fields(brokers=said)) is SettingsProblem.UNUSABLE


@given(settings())
def test_what_is_written_is_read_and_always_written_alike(made: NetworkSettings) -> None:
    value = encode_settings(made)
    assert decode_settings(value) == made
    assert encode_settings(replace(made)) == value
    assert len(value) <= MAX_SETTINGS_BYTES


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_and_nothing_raises(value: bytes) -> None:
    assert isinstance(decode_settings(value), SettingsProblem)


@given(
    st.dictionaries(
        st.sampled_from(tuple(json.loads(encode_settings(STANDARD)))),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers(), max_size=2)
        | st.just("10.99.0.0/16"),
        min_size=1,
    )
)
def test_whatever_a_field_holds_what_is_read_can_be_written_again(changes: dict[str, Any]) -> None:
    read = decode_settings(fields(**changes))
    if isinstance(read, NetworkSettings):
        assert decode_settings(encode_settings(read)) == read
    else:
        assert read in SettingsProblem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b" " * (MAX_SETTINGS_BYTES + 1), SettingsProblem.TOO_BIG),
        (b"[" * 4000, SettingsProblem.NOT_JSON),
        (b"{}"[:1], SettingsProblem.NOT_JSON),
        (b"[1]", SettingsProblem.NOT_JSON),
        (b"\xff\xfe", SettingsProblem.NOT_JSON),
        (fields(v=2), SettingsProblem.WRONG_VERSION),
        (fields(v=True), SettingsProblem.WRONG_VERSION),
        (fields(v=...), SettingsProblem.WRONG_VERSION),
        (fields(port="1099"), SettingsProblem.BAD_FIELD),
        (fields(port=True), SettingsProblem.BAD_FIELD),
        (fields(lease_s=1e9), SettingsProblem.BAD_FIELD),
        (fields(network=10), SettingsProblem.BAD_FIELD),
        (fields(network=None), SettingsProblem.BAD_FIELD),
        (fields(network="10.99.0.1/16"), SettingsProblem.BAD_FIELD),
        (fields(network6="fd00::%1/64"), SettingsProblem.BAD_FIELD),
        (fields(network6=...), SettingsProblem.BAD_FIELD),
        (fields(rest_s=...), SettingsProblem.BAD_FIELD),
        (fields(backend="udp"), SettingsProblem.BAD_FIELD),
        (fields(backend=[]), SettingsProblem.BAD_FIELD),
        (fields(number=0), SettingsProblem.UNUSABLE),
        (fields(number=2**53), SettingsProblem.UNUSABLE),
        (fields(port=0), SettingsProblem.UNUSABLE),
        (fields(network="10.98.0.0/16"), SettingsProblem.UNUSABLE),
        (fields(network6="2001:db8::/64"), SettingsProblem.UNUSABLE),
    ],
)
def test_hostile_settings_are_refused_for_a_reason(value: bytes, problem: SettingsProblem) -> None:
    assert decode_settings(value) is problem


def test_a_field_of_a_later_version_is_left_alone() -> None:
    assert decode_settings(fields(colour="green")) == STANDARD


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"static_range": IPv4Network("10.98.0.0/23")}, "static_range 10.98.0.0/23"),
        ({"floating_range": IPv4Network("10.0.0.0/8")}, "floating_range 10.0.0.0/8"),
        ({"floating_range": IPv4Network("10.99.1.0/24")}, "overlaps"),
        ({"static_range": IPv4Network("10.99.0.0/17"), "floating_range": IPv4Network("10.99.128.0/17")}, "no address"),
        ({"static_range": IPv4Network("10.99.0.0/16"), "floating_range": None}, "no address"),
        ({"network": IPv4Network("10.0.0.0/7", strict=False)}, "7 bits"),
        ({"network": IPv4Network("10.99.0.0/30")}, "30 bits"),
        ({"network": IPv4Network("127.0.0.0/16")}, "no addresses of hosts"),
        ({"network": IPv4Network("224.0.0.0/16")}, "no addresses of hosts"),
        ({"network": IPv4Network("169.254.0.0/16")}, "no addresses of hosts"),
        ({"network": IPv4Network("240.0.0.0/16")}, "no addresses of hosts"),
        ({"network": IPv4Network("0.0.0.0/8")}, "cannot be sent to"),
        ({"network6": IPv6Network("fd00::/48")}, "/64"),
        ({"network6": IPv6Network("fc00::/64")}, "unique local"),
        ({"lease_s": 9}, "lease_s 9"),
        ({"lease_s": 31_536_001}, "lease_s"),
        ({"rest_s": -1}, "rest_s -1"),
        ({"port": 65_536}, "port 65536"),
        ({"number": 0}, "number 0"),
    ],
)
def test_unusable_settings_are_answered_with_what_why_and_what_to_do(changes: dict[str, Any], about: str) -> None:
    with pytest.raises(LocalError) as refused:
        replace(STANDARD, **changes)
    assert about in f"{refused.value.what} {refused.value.why}"
    assert refused.value.why
    assert refused.value.fix


def test_a_range_may_be_as_large_as_leaves_one_address() -> None:
    made = NetworkSettings(
        network=IPv4Network("10.0.0.0/29"),
        static_range=IPv4Network("10.0.0.0/30"),
        floating_range=IPv4Network("10.0.0.4/32"),
    )
    assert made.is_host(IPv4Address("10.0.0.5"))
    with pytest.raises(LocalError, match="leave no address"):
        replace(made, floating_range=IPv4Network("10.0.0.4/31"))


@given(networks())
def test_the_ranges_nobody_chose_fit_every_network(network: IPv4Network) -> None:
    static, floating = ranges_of(network)
    made = NetworkSettings(network=network, static_range=static, floating_range=floating)
    assert (static is None) == (floating is None) == (network.prefixlen >= 22)
    if static is not None:
        assert made.is_static(static[0])
        assert not made.is_floating(static[0])


def test_the_standard_ranges_are_those_of_the_standard_network() -> None:
    assert ranges_of(STANDARD.network) == (STANDARD.static_range, STANDARD.floating_range)


@given(st.binary(min_size=16, max_size=40), st.binary(min_size=16, max_size=40))
def test_a_drawn_network_is_a_unique_local_one_and_depends_on_every_byte(first: bytes, second: bytes) -> None:
    drawn = random_network6(first)
    assert drawn.prefixlen == 64
    assert drawn.subnet_of(IPv6Network("fd00::/8"))
    assert int(drawn.network_address) >> 64 & 0xFFFF == 0, "the subnet is the first"
    assert (drawn == random_network6(second)) == (first == second)


def test_few_random_bytes_are_refused() -> None:
    with pytest.raises(LocalError, match="15 random bytes"):
        random_network6(bytes(15))


def test_an_ipv6_address_follows_from_the_ipv4_one() -> None:
    made = replace(STANDARD, network6=ULA)
    assert made.address6(IPv4Address("10.99.4.1")) == IPv6Address("fd12:3456:789a::a63:401")
    assert STANDARD.address6(IPv4Address("10.99.4.1")) is None


def test_hosts_are_neither_the_first_nor_the_last_nor_elsewhere() -> None:
    for text, is_host in {"10.99.0.0": False, "10.99.0.1": True, "10.99.255.255": False, "10.98.0.1": False}.items():
        assert STANDARD.is_host(IPv4Address(text)) is is_host
    bare = replace(STANDARD, static_range=None, floating_range=None)
    assert not bare.is_static(IPv4Address("10.99.0.1"))
    assert not bare.is_floating(IPv4Address("10.99.2.1"))
