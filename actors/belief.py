"""Who is believed about a network: the three modes of trust, each as one object that reads records and writes ours.

* `store`: whoever can write the store. Records are not signed.
* `pinned`: the peers that the configuration lists, by their keys. The store tells where they are, and nothing else.
* `authority`: whoever has a certificate of the network's authority. Whoever owns the store can withhold, and no more.

Not responsible for reading the store (`membership`), nor for what follows from a record (`records`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from holloway.actors.enrolled import Enrolled
from holloway.protocols.authorities import authorities_key
from holloway.protocols.certificates import CertificateProblem, NodeCertificate
from holloway.protocols.enrolment import EnrolProblem, Refused
from holloway.protocols.membership import NodeRecord, RecordProblem, decode_record, encode_record
from holloway.protocols.network_settings import settings_key
from holloway.protocols.renewal import is_due, make_renewal, read_renewed, renewal_key, renewed_key
from holloway.protocols.revocation import RevocationProblem
from holloway.protocols.signed_records import seal_record
from holloway.protocols.trust import revoked_key

SECOND_NS = 10**9


class Belief(Protocol):
    """One mode of trust."""

    claims_addresses: bool
    """Whether records settle who has an address. With certificates it is settled by the authority."""
    believes_others_now: bool = False
    """Whether records that were refused may be believed by now, since more was heard. Whoever reads them again unsets it."""

    def read(self, name: str | None, value: bytes) -> NodeRecord | RecordProblem:
        """The record that stands under a node's name (None: elsewhere), if it is believed; otherwise why not. Takes any bytes."""
        ...

    def seal(self, record: NodeRecord) -> bytes:
        """Our own record as it goes into the store. Raises `LocalError` when the others would refuse it."""
        ...

    def is_ours(self, record: NodeRecord | RecordProblem, own: NodeRecord) -> bool:
        """Whether what stands in a place of ours may be overwritten."""
        ...


class StoreBelief(Belief):
    """Whoever can write the store is believed."""

    def __init__(self, *, claims_addresses: bool = True) -> None:
        """`claims_addresses`: whether records claim them, because nobody else does (`address_keeper`)."""
        self.claims_addresses = claims_addresses

    def read(self, name: str | None, value: bytes) -> NodeRecord | RecordProblem:
        """See `Belief`."""
        return decode_record(name, value)

    def seal(self, record: NodeRecord) -> bytes:
        """See `Belief`."""
        return encode_record(record)

    def is_ours(self, record: NodeRecord | RecordProblem, own: NodeRecord) -> bool:
        """See `Belief`."""
        return isinstance(record, NodeRecord) and record.public_key == own.public_key


class PinnedBelief(StoreBelief):
    """The listed peers are believed."""

    def __init__(self, keys: Iterable[bytes], own_key: bytes) -> None:
        """`own_key`: what stands in a place of ours under it, we may take back."""
        super().__init__()
        self._keys = frozenset((*keys, own_key))

    def read(self, name: str | None, value: bytes) -> NodeRecord | RecordProblem:
        """See `Belief`."""
        record = super().read(name, value)
        if isinstance(record, NodeRecord) and record.public_key not in self._keys:
            return RecordProblem.NOT_PINNED
        return record


class AuthorityBelief(Belief):
    """Certificates are believed."""

    claims_addresses = False

    def __init__(self, enrolled: Enrolled, wall_ns: Callable[[], int]) -> None:
        self.enrolled = enrolled
        self._wall_ns = wall_ns
        network, name = enrolled.trust.network, enrolled.certificate.name
        self._take = {
            authorities_key(network): enrolled.take_bundle,
            revoked_key(network): lambda value, _: enrolled.take_revocations(value),
            settings_key(network): enrolled.take_settings,
        }
        self.renewal_key = renewal_key(network, name)
        self.renewed_key = renewed_key(network, name)

    @property
    def now(self) -> int:
        """Seconds since 1970."""
        return self._wall_ns() // SECOND_NS

    def read(self, name: str | None, value: bytes) -> NodeRecord | RecordProblem:
        """See `Belief`."""
        verified = self.enrolled.records.verify(name, value, self.now)
        return verified if isinstance(verified, RecordProblem) else verified.record

    def seal(self, record: NodeRecord) -> bytes:
        """See `Belief`. Under a serial number of its own."""
        enrolled = self.enrolled
        serial = enrolled.next_serial(self._wall_ns() // 1000)
        return seal_record(replace(record, serial=serial), enrolled.identity, enrolled.certificate)

    def is_ours(self, record: NodeRecord | RecordProblem, own: NodeRecord) -> bool:
        """See `Belief`. The name is ours by certificate, whatever somebody has put there."""
        return True

    # What else the authority says.

    @property
    def statement_keys(self) -> tuple[bytes, ...]:
        """Where it says it."""
        return tuple(self._take)

    def statements(self) -> dict[bytes, bytes]:
        """What the authority has said, as far as we know. Whoever has it may pass it on: it proves itself."""
        trust, network = self.enrolled.trust, self.enrolled.trust.network
        said = {authorities_key(network): trust.bundle.value, settings_key(network): self.enrolled.settings_value}
        if trust.revocations is not None:
            said[revoked_key(network)] = trust.revocations.der
        return said

    def hear(self, key: bytes, value: bytes) -> str | None:
        """Take what stands under one of `statement_keys`. Why it was not taken, or None."""
        trust = self.enrolled.trust
        bundle, was_blind = trust.bundle, self.list_problem is RevocationProblem.MISSING
        problem = self._take[key](value, self.now)
        if trust.bundle is not bundle or (was_blind and self.list_problem is not RevocationProblem.MISSING):
            self.believes_others_now = True
        return problem

    def problem(self) -> CertificateProblem | None:
        """Why the others do not believe us any more, or None."""
        return self.enrolled.trust.own_problem(self.enrolled.certificate, self.now)

    @property
    def days_left(self) -> int:
        """Whole days for which our certificate is still good."""
        return (self.enrolled.certificate.not_after - self.now) // 86_400

    @property
    def list_problem(self) -> RevocationProblem | None:
        """What is wrong with the revocation list that we have."""
        return self.enrolled.trust.list_problem(self.now)

    def renewal(self) -> bytes | None:
        """What to ask the authority for another certificate with, when it is time."""
        enrolled = self.enrolled
        issuer = enrolled.trust.bundle.authorities[-1].key.fingerprint
        if not is_due(enrolled.certificate, issuer, self.now):
            return None
        return make_renewal(enrolled.identity, enrolled.certificate)

    def hear_renewed(self, value: bytes) -> str | None:
        """Take another certificate of ours. Why it was not taken, or None."""
        enrolled = self.enrolled
        found = read_renewed(value, enrolled.certificate, enrolled.trust, self.now)
        match found:
            case NodeCertificate():
                enrolled.take_certificate(found)
                return None
            case Refused(reason):
                return reason.value
            case _:
                return None if found is EnrolProblem.OTHER_REQUEST else found.value
