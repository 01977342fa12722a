"""What the demo reports, and how it decides that the wire showed nothing. Shared by its tiers."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

from holloway.actors.status import summary

NAMES = ("a", "b")
OUTER = ("192.0.2.1", "192.0.2.2")  # RFC 5737
INNER = ("10.99.0.1", "10.99.0.2")
PING_INTERVAL_S = 0.1


def report(suites: Sequence[str], sent: int, times_ms: Sequence[float], wire: Sequence[bytes], marker: bytes) -> Any:
    """The part of the result that all tiers share.

    `suites`: what each node says it uses. `times_ms`: the round trip of each answered ping. `wire`: the UDP payloads that
    a capture of the underlay saw. `marker`: bytes that were inside each ping.
    """
    return {
        "nodes": [
            {"name": name, "address": address, "suite": suite}
            for name, address, suite in zip(NAMES, INNER, suites, strict=True)
        ],
        "ping": {"sent": sent, "received": len(times_ms), "rtt_ms": summary(times_ms)},
        "encrypted": is_encrypted(wire, len(times_ms), marker),
    }


def is_encrypted(wire: Sequence[bytes], answered: int, marker: bytes) -> bool:
    """Checked, not assumed: the capture holds enough datagrams to have carried each ping both ways, and nothing inner.

    Inner is what the pings carried, and their pairs of addresses.
    """
    pair = [IPv4Address(address).packed for address in INNER]
    inner = (marker, pair[0] + pair[1], pair[1] + pair[0])
    return len(wire) >= 2 * answered > 0 and not any(part in datagram for datagram in wire for part in inner)
