"""A network with an authority, made of counted entropy: the same in every run.

    world = Network()                                    # one authority, its bundle and its trust
    node = world.node("node-a", "10.99.0.1")             # an identity and its certificate
    value = node.seal(serial=1)                          # its record, as it goes into the store

Responsible for what the tests of identity, certificates, records and enrolment have in common, hostile bytes included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from holloway.protocols.authorities import Bundle, make_bundle
from holloway.protocols.certificates import NodeCertificate
from holloway.protocols.identity import ENTROPY_BYTES, Identity
from holloway.protocols.issuing import Authority
from holloway.protocols.keys import StaticKey
from holloway.protocols.membership import NodeRecord
from holloway.protocols.revocation import RevocationList, Revoked, make_list
from holloway.protocols.signed_records import SignedRecords, seal_record
from holloway.protocols.trust import Trust

NOW = 1_790_000_000  # a day in 2026
DAY = 86_400
NETWORK = "net"


def entropy(seed: object, length: int) -> bytes:
    """Bytes that look random, and are the same for the same seed."""
    return hashlib.shake_128(repr(seed).encode()).digest(length)


def identity(seed: object) -> Identity:
    return Identity.from_entropy(entropy(("identity", seed), ENTROPY_BYTES))


def serial(seed: object) -> bytes:
    return entropy(("serial", seed), 16)


def authority(seed: object = "authority", network: str = NETWORK, **changes: Any) -> Authority:
    return Authority.create(network, identity(seed), **{"now": NOW, "serial": serial(seed)} | changes)


@dataclass
class Node:
    """A node with everything it needs to sign."""

    identity: Identity
    certificate: NodeCertificate

    def record(self, **changes: Any) -> NodeRecord:
        """A record that says everything that the certificate allows."""
        name = self.certificate.name
        made = NodeRecord(
            name=name,
            public_key=StaticKey(entropy(("static", name), 32)).public,
            endpoints=(("192.0.2.1", 1099),),
            addresses=tuple(ip_interface(each) for each in sorted(map(str, self.certificate.addresses))),
            prefixes=tuple(ip_network(each) for each in sorted(map(str, self.certificate.prefixes))),
            serial=1,
        )
        return replace(made, **changes)

    def seal(self, **changes: Any) -> bytes:
        return seal_record(self.record(**changes), self.identity, self.certificate)


class Network:
    """One network, and what a node of it trusts."""

    def __init__(self, *authorities: Authority) -> None:
        self.authorities = authorities or (authority(),)
        self.authority = self.authorities[-1]
        self.bundle = self.make_bundle(1)
        self.trust = Trust(self.bundle)
        self.records = SignedRecords(self.trust)
        self._issued = 0

    def make_bundle(self, number: int, signers: Iterable[Authority] | None = None) -> Bundle:
        certificates = [each.certificate for each in self.authorities]
        return make_bundle(NETWORK, number, certificates, list(signers or self.authorities))

    def node(
        self,
        name: str = "node-a",
        *addresses: str,
        prefixes: Iterable[str] = (),
        key: Identity | None = None,
        **changes: Any,
    ) -> Node:
        key = key or identity(name)
        self._issued += 1
        issued = self.authority.issue(
            key.public,
            name,
            [ip_address(each) for each in addresses or ("10.99.0.1",)],
            [ip_network(each) for each in prefixes],
            **{"now": NOW, "serial": serial((name, self._issued))} | changes,
        )
        return Node(key, issued)

    def revoke(self, number: int, *nodes: Node, by: Authority | None = None) -> RevocationList:
        revoked = [Revoked(each.certificate.serial, NOW, each.certificate.not_after) for each in nodes]
        return make_list(by or self.authority, number, revoked, now=NOW)


def mutations(value: bytes, count: int, seed: object = 0) -> Iterator[bytes]:
    """Damaged copies: a byte changed, a bit turned, a piece cut out, doubled, or cut off. None is the original."""
    for number in range(count):
        drawn = entropy((seed, number, value), 12)
        at, length = int.from_bytes(drawn[:4], "big") % len(value), 1 + drawn[4] % 8
        match drawn[5] % 5:
            case 0:
                made = value[:at] + bytes([drawn[6]]) + value[at + 1 :]
            case 1:
                made = value[:at] + bytes([value[at] ^ 1 << drawn[6] % 8]) + value[at + 1 :]
            case 2:
                made = value[:at] + value[at + length :]
            case 3:
                made = value[: at + length] + value[at:]
            case _:
                made = value[:at]
        if made != value:
            yield made
