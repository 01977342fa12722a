"""The authority's own account of its network: who has which name and addresses, what was taken back, what was used.

The authority goes by this and never by the store, which says what whoever owns it wants. It is JSON text, kept in a file that
nobody else can read, written whole and before anything that follows from it is published: a certificate that the ledger
does not know could be issued twice to two machines. For the same reason it must not be restored from an old copy.

A name belongs to one key until it is taken back or released; time alone does not free it. Taking back a name takes back every
certificate of it that still counts. Not responsible for deciding who gets what (`issuer`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address

from holloway.protocols.certificate_names import HostAddress
from holloway.protocols.certificates import CLOCK_SKEW_S, NodeCertificate
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import PublicKey
from holloway.protocols.membership import network_prefix
from holloway.protocols.revocation import KEPT_AFTER_EXPIRY_S, MAX_REVOKED, Revoked

MAX_HOLDINGS = 4096
MAX_USED = 16_384
MAX_EARLIER = 8
"""Certificates of one holding that count besides the newest one. Renewal comes after half a lifetime: two are usual."""


class EndReason(Enum):
    """Why a certificate was taken back."""

    REVOKED = "revoked"
    """Its key is not to be trusted any more, under no name."""
    RELEASED = "released"
    """The name and the addresses are free for another machine."""
    SUPERSEDED = "superseded"
    """The same machine has another one, for less."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one machine has. `invitation`: the one that let it in. `earlier`: older certificates that still count."""

    certificate: NodeCertificate
    invitation: bytes
    earlier: tuple[Revoked, ...] = ()

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Its IPv4 addresses, lowest first: the others follow from them."""
        return tuple(sorted(each for each in self.certificate.addresses if isinstance(each, IPv4Address)))


@dataclass(frozen=True, slots=True)
class Ended:
    """A certificate that was taken back. `key` and `authority`: fingerprints."""

    revoked: Revoked
    name: str
    key: bytes
    authority: bytes
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Used:
    """An invitation that was used, by the key with this fingerprint. Once `expires` is over nobody can use it again."""

    key: bytes
    expires: int


class Ledger:
    """The account of one network. Whatever raises LocalError has changed nothing. Times are seconds since 1970."""

    def __init__(self, network: str) -> None:
        network_prefix(network)  # raises LocalError for a name that cannot be one
        self.network = network
        self.list_number = 0
        self.is_list_due = False
        self._holdings: dict[str, Holding] = {}
        self._ended: dict[int, Ended] = {}
        self._used: dict[bytes, Used] = {}
        self._names: dict[PublicKey, str] = {}
        self._holders: dict[HostAddress, str] = {}
        self._serials: set[int] = set()

    @property
    def holdings(self) -> Collection[Holding]:
        """Everybody who is in, in the order in which they came."""
        return self._holdings.values()

    @property
    def ended(self) -> Collection[Ended]:
        """What was taken back and has to be listed."""
        return self._ended.values()

    @property
    def used(self) -> Iterable[tuple[bytes, Used]]:
        """The invitations that were used, by their ids."""
        return self._used.items()

    def holding(self, name: str) -> Holding | None:
        return self._holdings.get(name)

    def name_of(self, key: PublicKey) -> str | None:
        """The name that belongs to a key."""
        return self._names.get(key)

    def holder_of(self, address: HostAddress) -> str | None:
        """The name that has an address."""
        return self._holders.get(address)

    def is_revoked(self, key: PublicKey) -> bool:
        """Whether the key is not to be trusted any more. Remembered for as long as its certificates are listed."""
        return any(each.key == key.fingerprint and each.reason is EndReason.REVOKED for each in self._ended.values())

    def user_of(self, invitation: bytes) -> bytes | None:
        """The fingerprint of the key that has used an invitation."""
        used = self._used.get(invitation)
        return None if used is None else used.key

    @property
    def is_full(self) -> bool:
        """Whether nobody else can be let in."""
        return (
            len(self._holdings) >= MAX_HOLDINGS
            or len(self._used) >= MAX_USED
            or len(self._ended) + 1 + MAX_EARLIER > MAX_REVOKED
        )

    def hold(self, certificate: NodeCertificate, invitation: bytes, now: int) -> None:
        """Note that a certificate was issued. The one before it goes on counting, unless the new one says less.

        Raises LocalError when it is no successor of what the name, the key or an address belongs to.
        """
        name, old = certificate.name, self._holdings.get(certificate.name)
        others = {self._holders.get(address) for address in certificate.addresses} - {None, name}
        owner = certificate.key if old is None else old.certificate.key
        taken = self._names.get(certificate.key, name) != name or owner != certificate.key or others
        is_known = certificate.serial in self._serials or certificate.serial in self._ended
        if taken or is_known or certificate.network != self.network:
            raise LocalError(
                f"the ledger has no room for this certificate of node {name}",
                "the name, the key, an address or the serial number belongs to another one",
            )
        holding = Holding(certificate, invitation)
        if old is not None:
            before = _listed(old.certificate, now)
            still = tuple(each for each in (*old.earlier, before) if now <= each.expires + CLOCK_SKEW_S)
            if set(old.addresses) <= set(holding.addresses) and old.certificate.prefixes <= certificate.prefixes:
                holding = replace(holding, earlier=still[-MAX_EARLIER:])
                self._take_back(old, still[:-MAX_EARLIER], EndReason.SUPERSEDED)
            else:
                self._take_back(old, still, EndReason.SUPERSEDED)
            self._remove(old)
        self._add(holding)

    def use(self, invitation: bytes, key: PublicKey, expires: int) -> None:
        """Note that an invitation, good until `expires`, was used."""
        self._used.setdefault(invitation, Used(key.fingerprint, expires))

    def end(self, name: str, reason: EndReason, now: int) -> Holding:
        """Take back the name and all that it has. Raises LocalError when nobody has it, or the list is full."""
        holding = self._holdings.get(name)
        if holding is None:
            raise LocalError(f"no node {name} is in network {self.network}", "nobody has the name")
        serials = (*holding.earlier, _listed(holding.certificate, now))
        if len(self._ended) + len(serials) > MAX_REVOKED:
            raise LocalError(
                f"node {name} cannot be taken back",
                f"{len(self._ended)} certificates are listed of {MAX_REVOKED}",
                "roll over to a new authority: certificates of one that is gone need not be listed",
            )
        self._remove(holding)
        self._take_back(holding, tuple(replace(each, at=now) for each in serials), reason)
        return holding

    def prune(self, authorities: Collection[bytes], now: int) -> None:
        """Forget what cannot matter any more. `authorities`: fingerprints of those that are still in the bundle."""
        # Kept for longer than it takes to expire: a clock that is set back must not make a used invitation new.
        self._used = {id_: used for id_, used in self._used.items() if now <= used.expires + KEPT_AFTER_EXPIRY_S}
        self._ended = {
            serial: each
            for serial, each in self._ended.items()
            if now <= each.revoked.expires + KEPT_AFTER_EXPIRY_S and each.authority in authorities
        }

    def next_list(self) -> tuple[int, list[Revoked]]:
        """The number of the next revocation list, and what is on it."""
        self.list_number += 1
        self.is_list_due = False
        return self.list_number, [each.revoked for each in self._ended.values()]

    def restore(self, holdings: Iterable[Holding], ended: Iterable[Ended], used: Iterable[tuple[bytes, Used]]) -> None:
        """Fill an empty ledger with what was kept. Raises LocalError when two entries contradict each other."""
        for each in ended:
            self._ended[each.revoked.serial] = each
        for holding in holdings:
            if holding.certificate.name in self._holdings:
                raise LocalError(f"node {holding.certificate.name} is in the ledger twice", "each has one entry")
            self.hold(holding.certificate, holding.invitation, 0)
            self._holdings[holding.certificate.name] = holding
        self._used.update(used)

    def _take_back(self, holding: Holding, serials: Iterable[Revoked], reason: EndReason) -> None:
        certificate = holding.certificate
        for each in serials:
            self._ended[each.serial] = Ended(
                each, certificate.name, certificate.key.fingerprint, certificate.authority, reason
            )
            self.is_list_due = True

    def _add(self, holding: Holding) -> None:
        certificate = holding.certificate
        self._holdings[certificate.name] = holding
        self._names[certificate.key] = certificate.name
        self._serials.add(certificate.serial)
        self._holders.update(dict.fromkeys(certificate.addresses, certificate.name))

    def _remove(self, holding: Holding) -> None:
        certificate = holding.certificate
        del self._holdings[certificate.name], self._names[certificate.key]
        self._serials.remove(certificate.serial)
        for address in certificate.addresses:
            del self._holders[address]


def _listed(certificate: NodeCertificate, now: int) -> Revoked:
    return Revoked(certificate.serial, now, certificate.not_after)
