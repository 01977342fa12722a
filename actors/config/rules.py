"""What must hold between the values of a configuration, beyond each value by itself.

The rules see a plain table of typed values, in which a value that was already refused is missing: a rule that needs it
keeps quiet. The same rules judge files and configurations that a program built. Not responsible for finding the line of
a key: they name key paths, and ask `where` for the words that place an earlier mention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import Any, TypeAlias

from holloway.actors.config.model import BACKENDS, MAX_FLOATING, SUITES, InterfaceAddress, Prefix
from holloway.actors.config.problems import KeyPath
from holloway.actors.config.schema import MAX_DTLS_MTU, MIN_MTU_IPV6

DTLS_BACKENDS = BACKENDS[1:]
Values: TypeAlias = dict[str, Any]
"""Section name to its values; for `peer` and `floating` a list of them."""

Where: TypeAlias = Callable[[KeyPath], str]
"""` (line 12)` for a key path with a known line, else nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: the key to change, what is wrong, what mends it."""

    key: KeyPath
    what: str
    fix: str


def broken_rules(values: Values, where: Where) -> Iterator[Finding]:
    """Every rule that `values` breaks."""
    yield from _interface(values.get("interface", {}))
    yield from _identity(values)
    yield from _dtls(values)
    yield from _security(values)
    yield from _timers(values.get("session", {}))
    peers: Sequence[Values] = values.get("peer", ())
    yield from _peer_names(values.get("node", {}).get("name"), peers, where)
    yield from _peer_keys(peers, where)
    yield from _prefixes(values, peers, where)
    yield from _floating(values, peers, where)
    yield from _gateway(values, peers)


def _interface(interface: Values) -> Iterator[Finding]:
    addresses: Sequence[InterfaceAddress] = interface.get("addresses", ())
    mtu = interface.get("mtu")
    if mtu is not None and mtu < MIN_MTU_IPV6 and any(address.version == 6 for address in addresses):
        yield Finding(
            ("interface", "mtu"),
            f"{mtu} is too small for an IPv6 address, which needs {MIN_MTU_IPV6} (RFC 8200)",
            f"use {MIN_MTU_IPV6} or more, or remove the IPv6 address",
        )
    seen = set()
    for position, address in enumerate(addresses):
        if address.ip in seen:
            yield Finding(("interface", "addresses", position), f"{address.ip} is listed twice", "remove one")
        seen.add(address.ip)


def _identity(values: Values) -> Iterator[Finding]:
    if values.get("identity"):
        return
    if values.get("registry", {}).get("trust") == "authority":
        fix = "join the network: holloway join TOKEN; or make one: holloway init NETWORK"
        yield Finding(("registry", "trust"), "authority needs an [identity], with a certificate", fix)


def _dtls(values: Values) -> Iterator[Finding]:
    dtls, backend = values.get("dtls"), values.get("node", {}).get("backend")
    if backend in DTLS_BACKENDS and not dtls and not values.get("identity"):
        fix = "join a network (holloway join TOKEN), or name certificates in a [dtls] section"
        yield Finding(("node", "backend"), "dtls needs a certificate", fix)
    if dtls and backend == "session":
        yield Finding(("node", "backend"), "there are certificates for dtls, and it is not used", 'write "dtls"')
    if dtls and dtls.get("ca_file") is None and dtls.get("skip_verify") is False:
        fix = "name the authority, or ask for skip_verify"
        yield Finding(("dtls", "cert_file"), "without ca_file no certificate of others is believed", fix)
    mtu = values.get("interface", {}).get("mtu")
    if mtu is not None and mtu > MAX_DTLS_MTU and (dtls or backend in DTLS_BACKENDS):
        yield Finding(("interface", "mtu"), f"a record of DTLS holds {MAX_DTLS_MTU} bytes at most", "use no more")
    for position, peer in enumerate(values.get("peer", ())):
        if backend in DTLS_BACKENDS and peer.get("suite", SUITES[0]) != SUITES[0]:
            fix = "use another network for it, or the session backend"
            yield Finding(("peer", position, "suite"), "it is a session's, and this node speaks dtls", fix)
        if peer.get("plain_dtls"):
            yield from _plain_dtls(peer, position, backend)


def _plain_dtls(peer: Values, position: int, backend: str | None) -> Iterator[Finding]:
    """Where the back end is left to the network, a node finds out at its start."""
    if backend == "session":
        yield Finding(
            ("peer", position, "plain_dtls"), "this node speaks session", 'write backend = "dtls" under [node]'
        )
    if "endpoint" in peer and peer["endpoint"] is None:
        yield Finding(("peer", position, "plain_dtls"), "nobody says where to dial it", "add an endpoint")
    if peer.get("keepalive_s"):
        yield Finding(("peer", position, "keepalive_s"), "it would take a keepalive for a packet", "leave it out")


def _security(values: Values) -> Iterator[Finding]:
    """Where the back end is left to the network, a node finds out at its start."""
    backend, session = values.get("node", {}).get("backend"), values.get("session", {})
    if values.get("security", {}).get("require") == "dtls" and backend == "session":
        yield Finding(("security", "require"), "this node speaks session, so it would have no peers", 'write "session"')
    if session.get("compression", "none") != "none" and backend in DTLS_BACKENDS:
        yield Finding(("session", "compression"), "over dtls nothing is compressed", "leave it out")


def _timers(session: Values) -> Iterator[Finding]:
    reject, rekey, retry = (session.get(key) for key in ("reject_after_s", "rekey_after_s", "rekey_timeout_s"))
    if reject is None or rekey is None or retry is None:
        return
    if reject <= rekey + retry:
        yield Finding(
            ("session", "reject_after_s"),
            f"{reject:g} leaves no time to rekey: rekey_after_s {rekey:g} + rekey_timeout_s {retry:g} is {rekey + retry:g}",
            f"use more than {rekey + retry:g}, or lower the other two",
        )


def _peer_names(own: str | None, peers: Sequence[Values], where: Where) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for position, peer in enumerate(peers):
        name, key = peer.get("name"), ("peer", position, "name")
        if name is None:
            continue
        if name == own:
            yield Finding(key, f'"{name}" is this node\'s own name{where(("node", "name"))}', "name the peer otherwise")
        elif name in first:
            place = where(("peer", first[name], "name"))
            yield Finding(key, f'"{name}" is already the name of another peer{place}', "give each peer its own name")
        else:
            first[name] = position


def _peer_keys(peers: Sequence[Values], where: Where) -> Iterator[Finding]:
    first: dict[bytes, int] = {}
    for position, peer in enumerate(peers):
        key = peer.get("public_key")
        if key is None:
            continue
        if key in first:
            place = where(("peer", first[key], "public_key"))
            what = f"this key is already {_peer_words(peers, first[key])}'s{place}"
            yield Finding(("peer", position, "public_key"), what, "give each peer its own key")
        else:
            first[key] = position


def _prefixes(values: Values, peers: Sequence[Values], where: Where) -> Iterator[Finding]:
    """Each prefix leads to one place only; a longer one inside another's is routing, not a mistake."""
    owners: dict[Prefix, tuple[str, KeyPath]] = {}
    for position, prefix in enumerate(values.get("node", {}).get("prefixes", ())):
        owners.setdefault(prefix, ("behind this node", ("node", "prefixes", position)))
    own = {address.ip for address in values.get("interface", {}).get("addresses", ())}
    for position, peer in enumerate(peers):
        for place, prefix in enumerate(peer.get("allowed", ())):
            key: KeyPath = ("peer", position, "allowed", place)
            if prefix.num_addresses == 1 and prefix.network_address in own:
                fix = "name the peer's address, not this node's"
                yield Finding(key, f"{prefix} is this node's own address", fix)
            elif prefix in owners:
                owner, first = owners[prefix]
                yield Finding(key, f"{prefix} is already {owner}{where(first)}", "let each prefix lead to one place")
            else:
                owners[prefix] = (f"allowed to {_peer_words(peers, position)}", key)


def _floating(values: Values, peers: Sequence[Values], where: Where) -> Iterator[Finding]:
    """A floating address is nobody's for long: neither this node's own, nor a peer's, nor behind one of them."""
    sections: Sequence[Values] = values.get("floating", ())
    if not sections:
        return
    trust = values.get("registry", {}).get("trust")
    if not values.get("registry"):
        yield Finding(("floating", 0, "address"), "nodes agree on it in a [registry], and there is none", "add one")
    elif trust == "pinned":
        fix = 'use trust = "authority" or "store", or leave the address out'
        yield Finding(("floating", 0, "address"), "with pinned peers nobody says who may have it", fix)
    if len(sections) > MAX_FLOATING:
        what = f"there are {len(sections)} floating addresses"
        yield Finding(("floating", MAX_FLOATING, "address"), what, f"a node may have {MAX_FLOATING}")
    fixed: dict[Prefix, str] = {
        ip_network(address.ip): "this node's own address"
        for address in values.get("interface", {}).get("addresses", ())
    }
    fixed |= dict.fromkeys(values.get("node", {}).get("prefixes", ()), "behind this node")
    for position, peer in enumerate(peers):
        fixed |= dict.fromkeys(peer.get("allowed", ()), f"allowed to {_peer_words(peers, position)}")
    first: dict[IPv4Address, int] = {}
    for position, each in enumerate(sections):
        address: IPv4Address | None = each.get("address")
        if address is None:
            continue
        key: KeyPath = ("floating", position, "address")
        owner = fixed.get(ip_network(address))
        if owner is not None:
            yield Finding(key, f"{address} is already {owner}", "let it float, or let it stay")
        elif address in first:
            place = where(("floating", first[address], "address"))
            yield Finding(key, f"{address} has a section already{place}", "remove one")
        first.setdefault(address, position)


def _gateway(values: Values, peers: Sequence[Values]) -> Iterator[Finding]:
    gateway, node = values.get("gateway", {}), values.get("node", {})
    through, behind = gateway.get("through"), node.get("prefixes", ())
    key: KeyPath = ("gateway", "through")
    if gateway.get("masquerade") and not behind and "prefixes" in node:
        fix = 'offer a default route: [node] prefixes = ["0.0.0.0/0"]'
        yield Finding(("gateway", "masquerade"), "no network lies behind this node", fix)
    if through is None:
        if gateway.get("strict"):
            yield Finding(("gateway", "strict"), "there is no gateway", "name one: [gateway] through")
        return
    if through == node.get("name"):
        yield Finding(key, "that is this node itself", "name another node")
    elif any(not prefix.prefixlen for prefix in behind):
        yield Finding(
            key, "this node offers a default route itself", "take it out of [node] prefixes, or name no gateway"
        )
    peer = next((each for each in peers if each.get("name") == through), None)
    if peer is None and not values.get("registry"):
        yield Finding(key, f'there is no peer "{through}"', "name a [[peer]], or add a [registry] to find it in")
    elif peer is not None and all(prefix.prefixlen for prefix in peer.get("allowed", ())):
        fix = 'add "0.0.0.0/0", "::/0", or both to its allowed prefixes'
        yield Finding(key, f'"{through}" is allowed no default route', fix)


def _peer_words(peers: Sequence[Values], position: int) -> str:
    name = peers[position].get("name")
    return f'"{name}"' if name is not None else f"peer {position}"
