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


@dataclass(frozen=True, slots=True)
class Resting:
    """An address that was let go: until `until` (seconds since 1970) nobody but the key with this fingerprint gets it unasked."""

    key: bytes
    until: int


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
        self._resting: dict[IPv4Address, Resting] = {}

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

    @property
    def resting(self) -> Iterable[tuple[IPv4Address, Resting]]:
        """The addresses that were let go of late, the first first."""
        return self._resting.items()

    def is_resting(self, address: IPv4Address, key: PublicKey, now: int) -> bool:
        """Whether an address was let go too short a time ago for the owner of `key` to get it."""
        resting = self._resting.get(address)
        return resting is not None and now < resting.until and resting.key != key.fingerprint

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

    def hold(self, certificate: NodeCertificate, invitation: bytes, now: int, rest_s: int = 0) -> None:
        """Note that a certificate was issued. The one before it goes on counting, unless the new one says less. Addresses that it does
        not have any more rest for `rest_s` seconds.

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
            self._let_rest(old, now + rest_s)
        self._add(holding)

    def use(self, invitation: bytes, key: PublicKey, expires: int) -> None:
        """Note that an invitation, good until `expires`, was used."""
        self._used.setdefault(invitation, Used(key.fingerprint, expires))

    def end(self, name: str, reason: EndReason, now: int, rest_s: int = 0) -> Holding:
        """Take back the name and all that it has; its addresses rest for `rest_s` seconds. Raises LocalError when nobody has it, or the list is full."""
        holding = self._holdings.get(name)
        if holding is None:
            raise LocalError(f"no node {name} is in network {self.network}", "nobody has the name")
        serials = (*holding.earlier, _listed(holding.certificate, now))
        if len(self._ended) + len(serials) > MAX_REVOKED:
            raise LocalError(
                f"node {name} cannot be taken back",
                f"{len(self._ended)} certificates are listed of {MAX_REVOKED}",
                "wait until some of them have run out",
            )
        self._remove(holding)
        self._let_rest(holding, now + rest_s)
        self._take_back(holding, tuple(replace(each, at=now) for each in serials), reason)
        return holding

    def prune(self, now: int) -> None:
        """Forget what cannot matter any more. Certificates of an authority that is gone do, for as long as they last: whoever owns
        the store may keep from a node that it is gone.
        """
        # Kept for longer than it takes to expire: a clock that is set back must not make a used invitation new.
        self._used = {id_: used for id_, used in self._used.items() if now <= used.expires + KEPT_AFTER_EXPIRY_S}
        self._ended = {
            serial: each for serial, each in self._ended.items() if now <= each.revoked.expires + KEPT_AFTER_EXPIRY_S
        }
        self._resting = {address: each for address, each in self._resting.items() if now < each.until}

    def next_list(self) -> tuple[int, list[Revoked]]:
        """The number of the next revocation list, and what is on it."""
        self.list_number += 1
        self.is_list_due = False
        return self.list_number, [each.revoked for each in self._ended.values()]

    def restore(
        self,
        holdings: Iterable[Holding],
        ended: Iterable[Ended],
        used: Iterable[tuple[bytes, Used]],
        resting: Iterable[tuple[IPv4Address, Resting]] = (),
    ) -> None:
        """Fill an empty ledger with what was kept. Raises LocalError when two entries contradict each other."""
        for each in ended:
            self._ended[each.revoked.serial] = each
        for holding in holdings:
            if holding.certificate.name in self._holdings:
                raise LocalError(f"node {holding.certificate.name} is in the ledger twice", "each has one entry")
            self.hold(holding.certificate, holding.invitation, 0)
            self._holdings[holding.certificate.name] = holding
        self._used.update(used)
        self._resting.update(resting)

    def _take_back(self, holding: Holding, serials: Iterable[Revoked], reason: EndReason) -> None:
        certificate = holding.certificate
        for each in serials:
            self._ended[each.serial] = Ended(
                each, certificate.name, certificate.key.fingerprint, certificate.authority, reason
            )
            self.is_list_due = True

    def _let_rest(self, holding: Holding, until: int) -> None:
        for address in holding.addresses:
            self._resting[address] = Resting(holding.certificate.key.fingerprint, until)

    def _add(self, holding: Holding) -> None:
        certificate = holding.certificate
        self._holdings[certificate.name] = holding
        self._names[certificate.key] = certificate.name
        self._serials.add(certificate.serial)
        self._holders.update(dict.fromkeys(certificate.addresses, certificate.name))
        for address in holding.addresses:
            self._resting.pop(address, None)

    def _remove(self, holding: Holding) -> None:
        certificate = holding.certificate
        del self._holdings[certificate.name], self._names[certificate.key]
        self._serials.remove(certificate.serial)
        for address in certificate.addresses:
            del self._holders[address]


def _listed(certificate: NodeCertificate, now: int) -> Revoked:
    return Revoked(certificate.serial, now, certificate.not_after)
