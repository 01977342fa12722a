"""Numbers of flows and addresses: what belongs together has one, what does not is spread."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.flows import address_number, flow_number
from holloway.protocols.packets import SuperPacket

TCP, UDP, ICMP = 6, 17, 1


def ipv4(protocol: int, source_port: int = 1000, *, payload: bytes = b"", fragment: int = 0, far: int = 2) -> bytes:
    header = pack(
        ">BBHHHBBH4s4s", 0x45, 0, 24 + len(payload), 7, fragment, 64, protocol, 0, bytes(4), bytes([10, 9, 0, far])
    )
    return header + pack(">HH", source_port, 80) + payload


def ipv6(protocol: int, source_port: int = 1000, *, payload: bytes = b"", far: int = 2) -> bytes:
    header = pack(">IHBB", 6 << 28, 4 + len(payload), protocol, 64) + bytes(16) + bytes(15) + bytes([far])
    return header + pack(">HH", source_port, 80) + payload


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_packets_of_one_flow_have_one_number(make: object, protocol: int) -> None:
    assert callable(make)
    number = flow_number(make(protocol))
    assert flow_number(make(protocol, payload=b"x" * 900)) == number
    assert flow_number(SuperPacket(make(protocol, payload=b"x" * 9000), 100)) == number
    assert flow_number(make(protocol, 1001)) != number
    assert flow_number(make(protocol, far=3)) != number


@pytest.mark.parametrize("queues", [2, 3, 4, 16])
def test_flows_are_spread_evenly(queues: int) -> None:
    for ports in (range(40_000, 40_000 + 64 * queues), range(40_000, 40_000 + 128 * queues, 2)):
        found = Counter(flow_number(ipv4(UDP, port)) % queues for port in ports)
        assert len(found) == queues
        assert max(found.values()) < 2 * 64


def test_what_has_no_ports_is_told_by_its_addresses() -> None:
    assert flow_number(ipv4(ICMP, 1)) == flow_number(ipv4(ICMP, 2))
    assert flow_number(ipv6(58, 1)) == flow_number(ipv6(58, 2))
    first, later = ipv4(UDP, 1, fragment=0x2000), ipv4(UDP, 99, fragment=0x00B9)
    assert flow_number(first) == flow_number(later), "the first fragment has ports, the others have none"
    assert flow_number(first) != flow_number(ipv4(UDP, 1, fragment=0x2000, far=3))
    assert flow_number(ipv4(UDP, 1, fragment=0x4000)) == flow_number(ipv4(UDP, 1)), "do-not-fragment is no fragment"


@given(st.binary(max_size=80))
def test_any_bytes_have_a_number(data: bytes) -> None:
    assert 0 <= flow_number(data) < 1 << 32


def test_addresses_have_the_same_number_in_every_process() -> None:
    addresses = [("192.0.2.1", 1099), ("192.0.2.1", 1100), ("2001:db8::1", 1099, 0, 0)]
    code = f"from holloway.protocols.flows import address_number as n; print(*map(n, {addresses}))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert list(map(int, done.stdout.split())) == [address_number(each) for each in addresses]  # type: ignore[arg-type]
    assert len({address_number(("192.0.2.1", port)) % 4 for port in range(40_000, 40_032)}) == 4
