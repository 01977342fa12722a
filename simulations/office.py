"""The authority of a simulated network: who is in, with which certificate and addresses, and what the others must believe of it.

The first node of the network holds the authority's key, so its issuer runs there. Besides the nodes there is an insider, who was
let in, never runs, and signs whatever he likes. Everything follows from the seed. Not responsible for what is done with any
of it (`store_attacker`), nor for judging (`trust_watch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_network

from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.enrolled import REVOKED, identity_in, keep_granted
from holloway.actors.founding import found_network
from holloway.protocols.certificates import NodeCertificate
from holloway.protocols.enrolment import NONCE_BYTES
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.identity import Identity as Signer
from holloway.protocols.joiner import Granted, Joiner
from holloway.protocols.keys import KEY_BYTES, StaticKey
from holloway.protocols.membership import Prefix
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.trust import revoked_key
from holloway.protocols.z85 import encode_z85
from holloway.simulations.disk import Disk
from holloway.simulations.identities import NETWORK4, NETWORK6, Identity
from holloway.simulations.streams import stream

INSIDER = "insider"
INSIDER_ADDRESS = IPv4Address("10.77.255.1")
INVITATION_S = 3600
SETTINGS = NetworkSettings(network=NETWORK4, network6=NETWORK6, static_range=None, floating_range=None)


@dataclass(frozen=True, slots=True)
class Genuine:
    """What is true of a node: its session key, its inner prefixes, and the serial number of its certificate.

    `key` is empty for one that has none.
    """

    key: bytes
    allowed: frozenset[Prefix]
    certificate: int


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody with a certificate, and what it is signed for."""

    signer: Signer
    certificate: NodeCertificate


class Office:
    """The authority of one simulated network."""

    def __init__(self, seed: int, network: str, members: Mapping[str, Identity], now: int) -> None:
        """`members`: the nodes, the one with the authority first. `now`: seconds since 1970."""
        self.network = network
        self._entropy = stream(seed, "office").randbytes
        self.disks = {name: Disk(name) for name in members}
        first = next(iter(members))
        self._disk = self.disks[first]
        self.genuine: dict[str, Genuine] = {}
        self.agent_keys = {
            name: encode_z85(StaticKey(stream(seed, "agent", name).randbytes(KEY_BYTES)).public) for name in members
        }
        """The CURVE key that each node says is its agent's. Each node announces a broker, too, with the same key."""
        self.may_have_brokers = frozenset({first})
        granted = found_network(
            self._disk,
            network,
            replace(SETTINGS, brokers=tuple(self.may_have_brokers)),
            name=first,
            address=IPv4Address(members[first].inner),
            registry="memory:",
            entropy=self._entropy,
            now=now,
        )
        keep_granted(self._disk, granted)
        self._enter(first, members[first].static.public, granted.certificate)
        self._files = AuthorityFiles(self._disk, network, self._entropy)
        for name, own in members.items():
            if name != first:
                member = let_in(self._files, self.disks[name], name, IPv4Address(own.inner), self._entropy, now)
                self._enter(name, own.static.public, member.certificate)
        self.insider = let_in(self._files, Disk(INSIDER), INSIDER, INSIDER_ADDRESS, self._entropy, now)
        self._enter(INSIDER, b"", self.insider.certificate)
        self.published = self._files.statements(now)
        for disk in self.disks.values():
            disk.write(REVOKED, self.published[revoked_key(network)])

    def revoke(self, name: str, now: int) -> dict[bytes, bytes]:
        """Take a node's certificate back. What to publish, by registry key. Raises `PortError` when the disk is full."""
        return self._files.revoke(name, now)

    def _enter(self, name: str, key: bytes, certificate: NodeCertificate) -> None:
        allowed = frozenset(ip_network(address) for address in certificate.addresses) | certificate.prefixes
        self.genuine[name] = Genuine(key, allowed, certificate.serial)


class Elsewhere:
    """Another authority, which has let in whoever an attacker says, under the same names."""

    def __init__(self, seed: int, network: str, now: int) -> None:
        self._entropy = stream(seed, "elsewhere").randbytes
        self._now = now
        self._files = AuthorityFiles.create(Disk("elsewhere"), network, SETTINGS, self._entropy, now)
        self._members: dict[str, Member] = {}
        self.published = self._files.statements(now)

    def member(self, name: str, address: IPv4Address) -> Member:
        """One of its nodes."""
        if name not in self._members:
            self._members[name] = let_in(self._files, Disk(name), name, address, self._entropy, self._now)
        return self._members[name]


def let_in(
    authority: AuthorityFiles, disk: Disk, name: str, address: IPv4Address, entropy: Callable[[int], bytes], now: int
) -> Member:
    """A node is invited, asks, and keeps what it gets."""
    invitation = authority.invite(expires=now + INVITATION_S, registry="memory:", files={}, name=name)
    signer = identity_in(disk, entropy(ENTROPY_BYTES))
    joiner = Joiner(invitation, signer, entropy(NONCE_BYTES), addresses=(address,))
    answer = authority.enrol(invitation.terms.id, joiner.request(), now).decision.answer
    granted = None if answer is None else joiner.read(answer, now)
    assert isinstance(granted, Granted), granted
    keep_granted(disk, granted)
    return Member(signer, granted.certificate)
