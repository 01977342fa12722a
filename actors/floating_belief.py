"""Who is believed about floating addresses, in the two modes of trust that know them.

* `store`: whoever can write the store. A node is known by the fingerprint of its session key.
* `authority`: whoever has a certificate with the address as a prefix (`protocols.floating_seals`).

Not responsible for reading the store, nor for what follows from a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address
from typing import Protocol

from holloway.actors.enrolled import Enrolled
from holloway.actors.registry import Entry
from holloway.actors.store_member import StoreMember
from holloway.actors.wanted import Claimant
from holloway.protocols.address_claims import fingerprint_of
from holloway.protocols.floating_seals import FloatingSeals, Sealed, seal_floating

MICROSECOND_NS = 1000
SECOND_NS = 10**9

Opener = Callable[[str, Entry], "bytes | Enum"]
"""Gives the claim or challenge that stands in a place (`floating/10.99.2.1`), or why it is not believed."""


class FloatingBelief(Protocol):
    """One mode of trust."""

    name: str
    key: str
    """Our fingerprint."""

    def seal(self, place: str, lease: int, claim: bytes) -> bytes:
        """What we say about a floating address, as it goes into the store. Raises `LocalError` when nobody would believe it."""
        ...

    def opener(self, address: IPv4Address) -> Opener:
        """What opens the claims of others, and ours."""
        ...

    def may_float(self, address: IPv4Address) -> bool:
        """Whether the address may be a floating one at all."""
        ...

    def claimant(self, name: str, key: str) -> Claimant:
        """The peer that a believed claim of this name and fingerprint is of."""
        ...

    def standing(self) -> int | None:
        """None while the others do not believe us; otherwise a number, and another one once what we said is to be said anew."""
        ...


class StoreFloating(FloatingBelief):
    """Whoever can write the store is believed."""

    def __init__(self, name: str, public_key: bytes, member: StoreMember | None = None) -> None:
        """`member`: what the network says, where it says anything."""
        self.name, self.key = name, fingerprint_of(public_key)
        self._member = member

    def seal(self, place: str, lease: int, claim: bytes) -> bytes:
        """See `FloatingBelief`."""
        return claim

    def opener(self, address: IPv4Address) -> Opener:
        """See `FloatingBelief`."""
        return lambda place, entry: entry.value

    def may_float(self, address: IPv4Address) -> bool:
        """See `FloatingBelief`."""
        return self._member is None or self._member.settings.is_floating(address)

    def claimant(self, name: str, key: str) -> Claimant:
        """See `FloatingBelief`."""
        return Claimant(name, bytes.fromhex(key))

    def standing(self) -> int | None:
        """See `FloatingBelief`."""
        return 0


class AuthorityFloating(FloatingBelief):
    """Certificates are believed."""

    def __init__(self, enrolled: Enrolled, wall_ns: Callable[[], int]) -> None:
        self._enrolled, self._wall_ns = enrolled, wall_ns
        self.name, self.key = enrolled.certificate.name, enrolled.identity.public.fingerprint.hex()
        self._serial = 0

    def seal(self, place: str, lease: int, claim: bytes) -> bytes:
        """See `FloatingBelief`."""
        self._serial = max(self._serial + 1, self._wall_ns() // MICROSECOND_NS)
        enrolled = self._enrolled
        return seal_floating(claim, place, lease, self._serial, enrolled.identity, enrolled.certificate)

    def opener(self, address: IPv4Address) -> Opener:
        """See `FloatingBelief`."""
        seals = FloatingSeals(address, self._enrolled.trust)

        def opened(place: str, entry: Entry) -> bytes | Enum:
            return seals.open(place, Sealed(entry.value, entry.create_revision, entry.lease), self._now)

        return opened

    def may_float(self, address: IPv4Address) -> bool:
        """See `FloatingBelief`."""
        return self._enrolled.settings.is_floating(address)

    def claimant(self, name: str, key: str) -> Claimant:
        """See `FloatingBelief`."""
        return Claimant(name)

    def standing(self) -> int | None:
        """See `FloatingBelief`."""
        certificate = self._enrolled.certificate
        return None if self._enrolled.trust.problem(certificate, self._now) is not None else certificate.serial

    @property
    def _now(self) -> int:
        return self._wall_ns() // SECOND_NS
