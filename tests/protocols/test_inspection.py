"""Inner addresses: the source must be the peer's, the destination ours, whatever was asked before."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.events import DropReason
from holloway.protocols.inspection import VERDICTS, Inspector, LocalPrefixes
from holloway.protocols.routes import RouteTable


def packet(source: str, destination: str) -> bytes:
    from_address, to_address = ip_address(source).packed, ip_address(destination).packed
    if len(from_address) == 4:
        return b"\x45\x00\x00\x14" + bytes(8) + from_address + to_address
    return b"\x60" + bytes(7) + from_address + to_address


def inspector() -> tuple[Inspector[str], RouteTable[str]]:
    """Of the peer `bob`, who has 10.0.0.2, 192.168.7.0/24 and fd00::2; `carol` has 10.0.0.3 and 192.168.7.9."""
    routes: RouteTable[str] = RouteTable()
    for prefix, peer in (
        ("10.0.0.2/32", "bob"),
        ("192.168.7.0/24", "bob"),
        ("fd00::2/128", "bob"),
        ("10.0.0.3/32", "carol"),
        ("192.168.7.9/32", "carol"),
    ):
        routes.add(ip_network(prefix), peer)
    local = LocalPrefixes([ip_network("10.0.0.1/32"), ip_network("172.16.0.0/12"), ip_network("fd00::1/128")])
    return Inspector(routes, "bob", local), routes


@pytest.mark.parametrize(
    ("source", "destination", "verdict"),
    [
        ("10.0.0.2", "10.0.0.1", None),
        ("192.168.7.8", "172.20.1.1", None),
        ("fd00::2", "fd00::1", None),
        ("10.0.0.3", "10.0.0.1", DropReason.SOURCE_NOT_ALLOWED),
        ("192.168.7.9", "10.0.0.1", DropReason.SOURCE_NOT_ALLOWED),
        ("8.8.8.8", "10.0.0.1", DropReason.SOURCE_NOT_ALLOWED),
        ("10.0.0.1", "10.0.0.1", DropReason.SOURCE_NOT_ALLOWED),
        ("fd00::3", "fd00::1", DropReason.SOURCE_NOT_ALLOWED),
        ("10.0.0.2", "10.0.0.3", DropReason.DESTINATION_NOT_OURS),
        ("10.0.0.2", "255.255.255.255", DropReason.DESTINATION_NOT_OURS),
        ("fd00::2", "ff02::1", DropReason.DESTINATION_NOT_OURS),
    ],
)
def test_verdicts(source: str, destination: str, verdict: DropReason | None) -> None:
    inspect, _ = inspector()
    for _ in range(3):  # the second answer comes from memory
        assert inspect(packet(source, destination)) is verdict


def test_a_changed_route_changes_the_verdict() -> None:
    inspect, routes = inspector()
    assert inspect(packet("10.0.0.2", "10.0.0.1")) is None
    routes.add(ip_network("10.0.0.2/32"), "carol")
    assert inspect(packet("10.0.0.2", "10.0.0.1")) is DropReason.SOURCE_NOT_ALLOWED
    routes.add(ip_network("10.0.0.2/32"), "bob")
    assert inspect(packet("10.0.0.2", "10.0.0.1")) is None
    routes.remove(ip_network("10.0.0.2/32"))
    assert inspect(packet("10.0.0.2", "10.0.0.1")) is DropReason.SOURCE_NOT_ALLOWED


def test_memory_is_bounded_and_answers_stay_right_when_it_is_full() -> None:
    inspect, _ = inspector()
    for number in range(VERDICTS + 100):
        address = f"11.0.{number >> 8}.{number & 255}"
        assert inspect(packet(address, "10.0.0.1")) is DropReason.SOURCE_NOT_ALLOWED
        assert len(inspect._verdicts) <= VERDICTS
    assert inspect(packet("10.0.0.2", "10.0.0.1")) is None


def test_remembered_verdicts_are_used() -> None:
    class Counting(RouteTable[str]):
        asked = 0

        def lookup(self, address: bytes) -> str | None:
            Counting.asked += 1
            return super().lookup(address)

    routes = Counting()
    routes.add(ip_network("10.0.0.2/32"), "bob")
    inspect = Inspector(routes, "bob", LocalPrefixes([ip_network("10.0.0.1/32")]))
    for _ in range(5):
        assert inspect(packet("10.0.0.2", "10.0.0.1")) is None
    assert Counting.asked == 1


def test_a_cut_ipv6_header_is_not_taken_for_a_remembered_ipv4_pair() -> None:
    inspect, _ = inspector()
    good = packet("10.0.0.2", "10.0.0.1")
    assert inspect(good) is None
    assert inspect(b"\x60" + bytes(7) + good[12:20]) is DropReason.MALFORMED


@given(st.binary(max_size=60))
def test_any_bytes_get_a_verdict(data: bytes) -> None:
    inspect, _ = inspector()
    verdict = inspect(data)
    version = data[0] >> 4 if data else 0
    if (version == 4 and len(data) >= 20) or (version == 6 and len(data) >= 40):
        assert verdict in (DropReason.SOURCE_NOT_ALLOWED, DropReason.DESTINATION_NOT_OURS)
    else:
        assert verdict is DropReason.MALFORMED


def test_local_prefixes() -> None:
    local = LocalPrefixes([ip_network("10.0.0.0/24")])
    assert ip_address("10.0.0.77").packed in local
    assert ip_address("10.0.1.77").packed not in local
    assert b"" not in local


def test_a_borrowed_address_is_ours_for_as_long_as_somebody_says_so() -> None:
    routes: RouteTable[str] = RouteTable()
    routes.add(ip_network("10.0.0.2/32"), "bob")
    local = LocalPrefixes([ip_network("10.0.0.1/32")])
    inspect, borrowed = Inspector(routes, "bob", local), ip_address("10.0.0.9").packed
    owns = True
    local.borrow(borrowed, lambda: owns)
    found = packet("10.0.0.2", "10.0.0.9")
    assert inspect(found) is None
    owns = False
    assert inspect(found) is DropReason.DESTINATION_NOT_OURS
    owns = True
    assert inspect(found) is None
    assert inspect(packet("10.0.0.3", "10.0.0.9")) is DropReason.SOURCE_NOT_ALLOWED
    local.give_back(borrowed)
    local.give_back(borrowed)
    assert inspect(found) is DropReason.DESTINATION_NOT_OURS
