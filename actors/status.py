"""What a node says of itself: the objects behind `status` and `peers`, in the form that the command line prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from holloway.protocols.addresses import format_address
from holloway.protocols.keys import encode_key

if TYPE_CHECKING:
    from holloway.actors.peer_session import PeerSession

STATUS_SCHEMA = "holloway.status/1"
PEERS_SCHEMA = "holloway.peers/1"
PING_SCHEMA = "holloway.ping/1"


def program_version() -> str:
    """The version of the installed program."""
    return version("holloway")


def peer_status(peer: PeerSession, now: float) -> dict[str, object]:
    """One element of `peers` in `status`. Times are seconds ago, round trips milliseconds, as of monotonic `now`."""
    session = peer.session
    endpoint = session.endpoint
    return {
        "name": peer.peer.name,
        "addresses": [str(prefix.network_address) for prefix in host_prefixes(peer.peer.allowed)],
        "endpoint": format_address(endpoint) if endpoint else None,
        "state": peer.health(),
        "suite": peer.peer.suite,
        "epoch": session.epoch,
        "last_handshake_s": _since(session.last_handshake_at, now),
        "rtt_ms": None if session.round_trip_s is None else round(session.round_trip_s * 1000, 3),
        "rx": {"packets": session.received.packets, "bytes": session.received.bytes},
        "tx": {"packets": session.transmitted.packets, "bytes": session.transmitted.bytes},
    }


def peer_details(peer: PeerSession, now: float) -> dict[str, object]:
    """One element of `peers`: the same and more."""
    return peer_status(peer, now) | {
        "public_key": encode_key(peer.peer.public_key),
        "allowed": [str(prefix) for prefix in peer.peer.allowed],
        "keepalive_s": peer.peer.keepalive_s,
        "handshakes": peer.session.handshakes_total,
        "last_received_s": _since(peer.session.last_received_at, now),
        "drops": dict(sorted(peer_drops(peer).items())),
    }


def peer_drops(peer: PeerSession) -> Counter[str]:
    """Everything dropped at one peer, by reason."""
    drops = Counter(peer.drops)
    for reason, count in peer.session.drops.items():
        drops[reason.value] += count
    return drops


def host_prefixes(prefixes: Iterable[IPv4Network | IPv6Network]) -> list[IPv4Network | IPv6Network]:
    """Those of one address."""
    return [prefix for prefix in prefixes if prefix.prefixlen == prefix.max_prefixlen]


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 3)
