"""What a node says of its routes: the object behind `routes`, and the part `node.gateway` of `status`.

Of each prefix: to whom packets for it go, why, and whether the kernel of this host sends them to us. Not responsible for making
routes (`kernel_routes`, `gateway`), nor for whose a prefix is (`wanted`).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING

from holloway.actors.wanted import PrefixSet

if TYPE_CHECKING:
    from holloway.actors.config import Config
    from holloway.actors.config.model import Prefix
    from holloway.actors.gateway import Gateway
    from holloway.actors.roster import Roster
    from holloway.actors.wanted import Peer

ROUTES_SCHEMA = "holloway.routes/1"
_EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def routes_answer(config: Config, roster: Roster, gateway: Gateway) -> dict[str, object]:
    """The answer to `routes`."""
    rows = [*_own(config), *_peers(config, roster), *_refused(roster), *_offered(roster), *_gateway(roster, gateway)]
    rows.sort(key=lambda row: (row[0].version, row[0], row[2], row[1] or ""))
    return {
        "schema": ROUTES_SCHEMA,
        "gateway": gateway_status(gateway),
        "routes": [
            {"prefix": str(prefix), "via": via, "kind": kind, "kernel": kernel, "why": why}
            for prefix, via, kind, kernel, why in rows
        ],
    }


def gateway_status(gateway: Gateway) -> dict[str, object] | None:
    """How the gateway is, or None when this node neither uses one nor masquerades."""
    if gateway.through is None and not gateway.masquerades:
        return None
    return {
        "through": gateway.through,
        "state": gateway.state,
        "problem": gateway.problem,
        "masquerade": gateway.masquerades,
    }


Row = tuple["Prefix", str | None, str, str, str | None]
"""Prefix, peer, kind, what the kernel has, and why it has not."""


def _own(config: Config) -> Iterator[Row]:
    for address in config.interface.addresses:
        yield ip_network(address.ip), None, "local", "connected", None
    for prefix in config.node.prefixes:
        yield prefix, None, "announced", "none", None


def _peers(config: Config, roster: Roster) -> Iterator[Row]:
    connected = PrefixSet(address.network for address in config.interface.addresses)
    refused = roster.routes.refused if roster.routes is not None else {}
    made = set(roster.routes.made) if roster.routes is not None else set()
    for name, peer in roster.plan.peers.items():
        for prefix in peer.allowed:
            if not prefix.prefixlen:
                if name != roster.gateway:
                    yield prefix, name, "peer", "unused", f"`holloway up --gateway {name}` uses it"
            elif connected.covers(prefix):
                yield prefix, name, "peer", "connected", None
            elif prefix in made:
                yield prefix, name, "peer", "installed", None
            else:
                yield prefix, name, "peer", "refused", refused.get(prefix, "it is not made yet")


def _refused(roster: Roster) -> Iterator[Row]:
    for each in roster.plan.refused:
        if each.prefix is not None:
            yield each.prefix, each.name, "peer", "refused", str(each)


def _offered(roster: Roster) -> Iterator[Row]:
    """Default routes that found peers offer, and nobody has asked for."""
    for name, peer in _found(roster):
        for prefix in peer.allowed:
            if not prefix.prefixlen and prefix not in roster.plan.peers[name].allowed and name != roster.gateway:
                yield prefix, name, "peer", "unused", f"`holloway up --gateway {name}` uses it"


def _found(roster: Roster) -> Iterator[tuple[str, Peer]]:
    for peer in roster.found:
        wanted = roster.plan.peers.get(peer.name)
        if wanted is not None and wanted.public_key == peer.public_key:
            yield peer.name, peer


def _gateway(roster: Roster, gateway: Gateway) -> Iterator[Row]:
    if gateway.plan is None:
        return
    peer = roster.plan.peers.get(gateway.through or "")
    offered = set() if peer is None else set(peer.allowed)
    led = {route.version for route in gateway.plan.routes if route.into_device}
    for version, prefix in _EVERYTHING.items():
        if gateway.problem is not None:
            yield prefix, gateway.through, "gateway", "refused", gateway.problem
        elif version not in led:
            reason = "this node has no address of its own of this family"
            if prefix not in offered:
                reason = f"{gateway.through} does not offer it"
            yield prefix, gateway.through, "gateway", "unreachable", reason
        else:
            why = None if prefix in offered else f"{gateway.through} does not offer it: all packets are dropped"
            yield prefix, gateway.through, "gateway", "installed", why
