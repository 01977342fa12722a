"""Longest prefix match against asking every prefix in turn."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols import routes
from holloway.protocols.errors import LocalError
from holloway.protocols.routes import FLOW_CACHE_LIMIT, Prefix, RouteTable


def raw(text: str) -> bytes:
    return IPv6Address(text).packed if ":" in text else IPv4Address(text).packed


def linear(table: dict[Prefix, int], address: bytes) -> int | None:
    """The oracle: the longest of all prefixes that contain the address."""
    host = IPv4Address(address) if len(address) == 4 else IPv6Address(address)
    matches = [prefix for prefix in table if prefix.version == host.version and host in prefix]
    return table[max(matches, key=lambda prefix: prefix.prefixlen)] if matches else None


# Few different bits, so that prefixes nest and addresses hit them.
IPV4_NUMBERS = st.builds(lambda high, low: high | low, st.sampled_from([0, 10 << 24, 2**32 - 256]), st.integers(0, 255))
IPV6_NUMBERS = st.builds(
    lambda high, middle, low: high | middle | low,
    st.sampled_from([0, 0xFD << 120, 2**128 - 2**65]),
    st.sampled_from([0, 1 << 64]),
    st.integers(0, 15),
)
PREFIXES = st.one_of(
    st.builds(lambda n, bits: IPv4Network((n, bits), strict=False), IPV4_NUMBERS, st.integers(0, 32)),
    st.builds(lambda n, bits: IPv4Network((n, bits), strict=False), IPV4_NUMBERS, st.integers(24, 32)),
    st.builds(lambda n, bits: IPv6Network((n, bits), strict=False), IPV6_NUMBERS, st.integers(0, 128)),
    st.builds(lambda n, bits: IPv6Network((n, bits), strict=False), IPV6_NUMBERS, st.integers(124, 128)),
)
ADDRESSES = st.one_of(
    IPV4_NUMBERS.map(lambda n: n.to_bytes(4, "big")),
    IPV6_NUMBERS.map(lambda n: n.to_bytes(16, "big")),
)
TARGETS = st.integers(0, 3)
CHANGES = st.one_of(
    st.tuples(st.just("add"), PREFIXES, TARGETS),
    st.tuples(st.just("add"), PREFIXES, TARGETS),
    st.tuples(st.just("remove"), PREFIXES, TARGETS),
    st.tuples(st.just("remove one"), PREFIXES, TARGETS),
    st.tuples(st.just("remove target"), PREFIXES, TARGETS),
)


@given(st.lists(CHANGES, max_size=25), st.lists(ADDRESSES, min_size=1, max_size=8))
def test_table_agrees_with_a_linear_search_after_every_change(
    changes: list[tuple[str, Prefix, int]], addresses: list[bytes]
) -> None:
    table: RouteTable[int] = RouteTable()
    model: dict[Prefix, int] = {}
    for verb, prefix, target in changes:
        if verb == "add":
            table.add(prefix, target)
            model[prefix] = target
        elif verb == "remove target":
            table.remove_target(target)
            model = {kept: owner for kept, owner in model.items() if owner != target}
        else:
            chosen = prefix if verb == "remove" or not model else list(model)[target % len(model)]
            table.remove(chosen)
            model.pop(chosen, None)
        for address in addresses:
            expected = linear(model, address)
            assert table.lookup(address) == expected
            assert table.lookup(address) == expected, "the cached answer differs"
        assert dict(table.entries()) == model
        assert len(table) == len(model)


def test_longest_prefix_wins_whatever_the_order_of_adding() -> None:
    prefixes = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "0.0.0.0/0"]
    for order in (prefixes, prefixes[::-1]):
        table: RouteTable[str] = RouteTable()
        for text in order:
            table.add(ip_network(text), text)
        assert table.lookup(raw("10.1.2.3")) == "10.1.2.3/32"
        assert table.lookup(raw("10.1.2.4")) == "10.1.2.0/24"
        assert table.lookup(raw("10.1.3.3")) == "10.1.0.0/16"
        assert table.lookup(raw("10.2.2.3")) == "10.0.0.0/8"
        assert table.lookup(raw("11.1.2.3")) == "0.0.0.0/0"


def test_adding_a_prefix_again_moves_it_to_the_new_target() -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("10.0.0.0/24"), "first")
    assert table.lookup(raw("10.0.0.1")) == "first"
    table.add(ip_network("10.0.0.0/24"), "second")
    assert table.lookup(raw("10.0.0.1")) == "second"
    table.remove_target("first")
    assert table.entries() == [(ip_network("10.0.0.0/24"), "second")]


def test_families_are_apart() -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("::/0"), "six")
    assert table.lookup(raw("10.0.0.1")) is None
    assert table.lookup(raw("::ffff:10.0.0.1")) == "six"
    table.add(ip_network("0.0.0.0/0"), "four")
    assert table.lookup(raw("10.0.0.1")) == "four"


@pytest.mark.parametrize("length", [0, 1, 3, 5, 8, 15, 17, 1500])
def test_an_address_of_another_length_has_no_target_and_is_not_remembered(length: int) -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("0.0.0.0/0"), "four")
    table.add(ip_network("::/0"), "six")
    assert table.lookup(bytes(length)) is None
    assert bytes(length) not in table._flows


def test_a_target_may_be_none_and_still_hides_shorter_prefixes() -> None:
    table: RouteTable[str | None] = RouteTable()
    table.add(ip_network("10.0.0.0/8"), "wide")
    table.add(ip_network("10.0.0.0/24"), None)
    assert table.lookup(raw("10.0.0.1")) is None
    table.remove(ip_network("10.0.0.0/24"))
    assert table.lookup(raw("10.0.0.1")) == "wide"


def test_removing_one_of_two_prefixes_of_a_length_leaves_the_other() -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("10.0.0.0/24"), "a")
    table.add(ip_network("10.0.1.0/24"), "b")
    assert (table.lookup(raw("10.0.0.1")), table.lookup(raw("10.0.1.1"))) == ("a", "b")
    table.remove(ip_network("10.0.0.0/24"))
    assert (table.lookup(raw("10.0.0.1")), table.lookup(raw("10.0.1.1"))) == (None, "b")
    table.remove(ip_network("10.0.0.0/24"))
    assert table.entries() == [(ip_network("10.0.1.0/24"), "b")]


def test_generation_grows_with_every_change_and_with_nothing_else() -> None:
    table: RouteTable[str] = RouteTable()
    ten, eleven = ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8")
    generations = [table.generation]
    for change in (
        lambda: table.add(ten, "a"),
        lambda: table.add(ten, "b"),
        lambda: table.add(eleven, "b"),
        lambda: table.remove(ten),
        lambda: table.remove_target("b"),
    ):
        change()
        generations.append(table.generation)
    assert generations == sorted(set(generations)), "a change went unnoticed"
    table.lookup(raw("10.0.0.1"))
    table.remove(ten)
    table.remove_target("b")
    assert table.generation == generations[-1]


def test_entries_are_sorted_by_family_address_and_length() -> None:
    table: RouteTable[int] = RouteTable()
    wanted = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "::/0", "fd00::/8", "fd00::/64"]
    for number, text in enumerate(reversed(wanted)):
        table.add(ip_network(text), number)
    assert [str(prefix) for prefix, _ in table.entries()] == wanted


def test_found_and_missing_addresses_are_remembered_until_a_change() -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("10.0.0.0/8"), "ten")
    for text in ("10.0.0.1", "10.0.0.2", "11.0.0.1"):
        table.lookup(raw(text))
    assert table._flows == {raw("10.0.0.1"): "ten", raw("10.0.0.2"): "ten", raw("11.0.0.1"): None}
    table.add(ip_network("fd00::/8"), "other")
    assert table._flows == {}


def test_flow_cache_is_bounded_and_right_when_it_overflows() -> None:
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("10.0.0.0/8"), "ten")
    for number in range(2 * FLOW_CACHE_LIMIT + 10):
        assert table.lookup((10 << 24 | number).to_bytes(4, "big")) == "ten"
        assert len(table._flows) <= FLOW_CACHE_LIMIT
    assert table.lookup(raw("11.0.0.1")) is None


def test_a_full_table_refuses_another_prefix_and_still_moves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_ROUTES", 2)
    table: RouteTable[str] = RouteTable()
    table.add(ip_network("10.0.0.0/24"), "a")
    table.add(ip_network("10.0.1.0/24"), "b")
    with pytest.raises(LocalError, match="table is full"):
        table.add(ip_network("10.0.2.0/24"), "c")
    assert table.lookup(raw("10.0.2.1")) is None
    table.add(ip_network("10.0.1.0/24"), "c")
    assert table.lookup(raw("10.0.1.1")) == "c"
    assert len(table) == 2
