"""Which peers a node should have and which prefixes belong to each: configuration and registry made into one plan.

The rules, in this order. Configured peers come before found ones, and those in the order in which they are given.

* A name and a key have one peer: the first that has it. Nobody is a peer who has our key.
* A prefix has one peer: the first that claims it. What is ours is nobody else's, and a found peer cannot take a piece of
  what the configuration gives to another one or to us. (Of two found peers either may have a network inside the other's:
  that is routing. An address alone has no inside, so it cannot be taken.)
* A floating address belongs to the peer that is believed to hold it, if all this leaves it to anybody. In a network that has
  a range for them nobody else gets one of these.
* A default route of a found peer counts for the one that this node has chosen as its gateway; everybody may offer one. Nobody's
  prefix is a piece of a default route.
* There is room for `MAX_PEERS` peers and `MAX_ROUTES` prefixes, ours included.

Whoever loses a claim loses that and no more, and has it back as soon as nobody is before it. Pure: the same input gives
the same plan, and nothing here remembers. Not responsible for where peers are found (`membership`), nor for carrying a
plan out (`roster`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Network
from types import MappingProxyType

from holloway.actors.config import Endpoint, PeerConfig
from holloway.actors.config.model import SUITES, Prefix
from holloway.protocols.demux import MAX_PEERS
from holloway.protocols.offers import Offers
from holloway.protocols.routes import MAX_ROUTES

__all__ = ["MAX_PEERS", "Claimant", "Floating", "Peer", "Plan", "PrefixSet", "Refusal", "Refused", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer, wherever it is known from. `endpoints`: where it may be called, best first. `allowed`: inner prefixes."""

    name: str
    public_key: bytes
    allowed: tuple[Prefix, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    suite: str = SUITES[0]
    keepalive_s: int = 0
    is_plain_dtls: bool = False
    """A program that speaks DTLS and nothing of ours."""
    offers: Offers | None = None
    """What its record offers; None for a configured peer, which needs no record."""

    @classmethod
    def from_config(cls, config: PeerConfig) -> Peer:
        """The peer that a `[[peer]]` table describes."""
        return cls(
            name=config.name,
            public_key=config.public_key,
            allowed=config.allowed,
            endpoints=() if config.endpoint is None else (config.endpoint,),
            suite=config.suite,
            keepalive_s=config.keepalive_s,
            is_plain_dtls=config.plain_dtls,
        )

    @property
    def identity(self) -> Peer:
        """What a session is made for. The rest may change while it lives."""
        return replace(self, allowed=(), endpoints=(), offers=None)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who holds a floating address: the peer of that name; or, where names prove nothing, the one whose session key has the
    SHA-256 `key`, whatever it is called."""

    name: str
    key: bytes | None = None

    def is_of(self, peer: Peer) -> bool:
        """Whether this is that peer."""
        return peer.name == self.name if self.key is None else hashlib.sha256(peer.public_key).digest() == self.key


@dataclass(frozen=True, slots=True)
class Floating:
    """The floating addresses, each as a prefix, and who holds them; `range`: where only such addresses are, if anywhere."""

    holders: Mapping[Prefix, Claimant] = field(default_factory=lambda: MappingProxyType({}))
    range: IPv4Network | None = None

    def reserves(self, prefix: Prefix) -> bool:
        """Whether no node has this prefix by its record."""
        return self.range is not None and isinstance(prefix, IPv4Network) and prefix.subnet_of(self.range)


class Refusal(Enum):
    """Why a claim is not granted; the value is the name under which `status` counts it."""

    NAME_TAKEN = "peer_name_taken"
    KEY_TAKEN = "peer_key_taken"
    TOO_MANY_PEERS = "peer_too_many"
    PREFIX_OURS = "prefix_ours"
    PREFIX_TAKEN = "prefix_taken"
    PREFIX_FLOATING = "prefix_floating"
    TOO_MANY_PREFIXES = "prefix_too_many"


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim of the peer `name` that is not granted: to be a peer at all, or to one prefix."""

    name: str
    reason: Refusal
    prefix: Prefix | None = None

    def __str__(self) -> str:
        match self.reason:
            case Refusal.NAME_TAKEN:
                return "a configured peer has its name and another key"
            case Refusal.KEY_TAKEN:
                return "another node has its key"
            case Refusal.TOO_MANY_PEERS:
                return f"there are {MAX_PEERS} peers already"
            case Refusal.PREFIX_OURS:
                return f"its prefix {self.prefix} is this node's own"
            case Refusal.PREFIX_TAKEN:
                return f"its prefix {self.prefix} belongs to another peer"
            case Refusal.PREFIX_FLOATING:
                return f"its prefix {self.prefix} lies in the floating range"
            case Refusal.TOO_MANY_PREFIXES:
                return f"there is no room for its prefix {self.prefix}: there are {MAX_ROUTES} already"


@dataclass(frozen=True, slots=True)
class Plan:
    """The peers by name, each with the prefixes that it gets, and the claims that were not granted, in order."""

    peers: Mapping[str, Peer]
    refused: tuple[Refused, ...] = ()


class PrefixSet:
    """Prefixes, and the question whether another one lies inside one of them."""

    def __init__(self, prefixes: Iterable[Prefix] = ()) -> None:
        # IP version -> host bits of a prefix -> network bits as numbers.
        self._numbers: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for prefix in prefixes:
            self.add(prefix)

    def add(self, prefix: Prefix) -> None:
        host_bits = prefix.max_prefixlen - prefix.prefixlen
        self._numbers[prefix.version].setdefault(host_bits, set()).add(int(prefix.network_address) >> host_bits)

    def has(self, prefix: Prefix) -> bool:
        """Whether `prefix` itself is one of these."""
        host_bits = prefix.max_prefixlen - prefix.prefixlen
        return int(prefix.network_address) >> host_bits in self._numbers[prefix.version].get(host_bits, ())

    def covers(self, prefix: Prefix) -> bool:
        """Whether one of these prefixes is `prefix` or contains it."""
        lengths = self._numbers[prefix.version]
        if not lengths:
            return False
        number, own_bits = int(prefix.network_address), prefix.max_prefixlen - prefix.prefixlen
        return any(host_bits >= own_bits and number >> host_bits in lengths[host_bits] for host_bits in lengths)


def settle(
    configured: Iterable[Peer],
    found: Iterable[Peer],
    *,
    own_key: bytes,
    own_prefixes: Iterable[Prefix],
    floating: Floating | None = None,
    gateway: str | None = None,
) -> Plan:
    """The plan that follows from the rules above. `own_prefixes`: this node's addresses and the networks behind it; `gateway`: the
    name of the peer that the default route leads to.
    """
    return _Settlement(own_key, own_prefixes, floating or Floating(), gateway).settle(configured, found)


class _Settlement:
    """The claims granted so far."""

    def __init__(self, own_key: bytes, own_prefixes: Iterable[Prefix], floating: Floating, gateway: str | None) -> None:
        self._own_key = own_key
        self._floating = floating
        self._gateway = gateway
        own_prefixes = set(own_prefixes)
        self._ours = PrefixSet(own_prefixes)
        self._our_networks = PrefixSet(prefix for prefix in own_prefixes if prefix.prefixlen)
        self._room = MAX_ROUTES - len(own_prefixes)
        self._pinned = PrefixSet()
        self._held: set[Prefix] = set()
        self._peers: dict[str, Peer] = {}
        self._keys: set[bytes] = set()
        self._refused: list[Refused] = []

    def settle(self, configured: Iterable[Peer], found: Iterable[Peer]) -> Plan:
        for peer in configured:
            # A network behind us may have a piece behind a peer, if whoever configures this node says so.
            self._admit(peer, self._ours.has)
        pinned = dict(self._peers)
        pinned_keys = {self._own_key, *self._keys}
        for prefix in self._held:
            if prefix.prefixlen:
                self._pinned.add(prefix)
        by_key = {peer.public_key: name for name, peer in pinned.items()}
        for peer in found:
            if peer.public_key in pinned_keys:
                # A node may be pinned under a name of its owner's choice, and be in the registry under its own.
                self._complete(by_key.get(peer.public_key), peer.endpoints)
                continue
            if peer.name in pinned:
                self._refuse(peer, Refusal.NAME_TAKEN)
            elif peer.public_key in self._keys:
                self._refuse(peer, Refusal.KEY_TAKEN)
            elif len(self._peers) >= MAX_PEERS:
                self._refuse(peer, Refusal.TOO_MANY_PEERS)
            else:
                self._admit(peer, self._is_ours, is_found=True)
        self._float()
        return Plan(self._peers, tuple(self._refused))

    def _admit(self, peer: Peer, is_ours: Callable[[Prefix], bool], *, is_found: bool = False) -> None:
        self._keys.add(peer.public_key)
        is_offer = is_found and peer.name != self._gateway
        prefixes = dict.fromkeys(prefix for prefix in peer.allowed if prefix.prefixlen or not is_offer)
        if is_found and self._floating.range is not None:
            for prefix in [each for each in prefixes if self._floating.reserves(each)]:
                self._refuse(peer, Refusal.PREFIX_FLOATING, prefix)
                del prefixes[prefix]
        allowed = self._granted(peer, prefixes, is_ours)
        self._peers[peer.name] = peer if len(allowed) == len(peer.allowed) else replace(peer, allowed=tuple(allowed))

    def _is_ours(self, prefix: Prefix) -> bool:
        return self._our_networks.covers(prefix) or self._ours.has(prefix)

    def _float(self) -> None:
        holders = self._floating.holders
        named = {}
        if any(claimant.key is not None for claimant in holders.values()):
            named = {hashlib.sha256(peer.public_key).digest(): name for name, peer in self._peers.items()}
        for prefix, claimant in holders.items():
            peer = self._peers.get(claimant.name if claimant.key is None else named.get(claimant.key, ""))
            if peer is not None:
                allowed = self._granted(peer, (prefix,), self._is_ours)
                self._peers[peer.name] = replace(peer, allowed=(*peer.allowed, *allowed))

    def _granted(self, peer: Peer, prefixes: Iterable[Prefix], is_ours: Callable[[Prefix], bool]) -> list[Prefix]:
        allowed = []
        for prefix in prefixes:
            if is_ours(prefix):
                self._refuse(peer, Refusal.PREFIX_OURS, prefix)
            elif prefix in self._held or self._pinned.covers(prefix):
                self._refuse(peer, Refusal.PREFIX_TAKEN, prefix)
            elif len(self._held) >= self._room:
                self._refuse(peer, Refusal.TOO_MANY_PREFIXES, prefix)
            else:
                self._held.add(prefix)
                allowed.append(prefix)
        return allowed

    def _complete(self, name: str | None, endpoints: tuple[Endpoint, ...]) -> None:
        """The registry tells where a configured peer is, after what the configuration tells."""
        if name is not None:
            peer = self._peers[name]
            places = tuple(dict.fromkeys((*peer.endpoints, *endpoints)))
            self._peers[name] = replace(peer, endpoints=places)

    def _refuse(self, peer: Peer, reason: Refusal, prefix: Prefix | None = None) -> None:
        self._refused.append(Refused(peer.name, reason, prefix))
