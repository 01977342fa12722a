"""What one node trusts: the authorities of its network, and which certificates are taken back.

It only moves forward. Of bundles and of revocation lists the greatest number ever seen counts, so whoever deletes the newer
one from the store, or puts the older one back, brings back nobody. This has to outlive the process: keep `bundle.value`,
`revocations.der` and `list_number`, and begin with them. A machine that has just joined knows from its grant how far lists had come; until it
has seen one that is as new, it believes no certificate, because it cannot know who is not to be believed.

Certificates that were verified are remembered by their bytes, so each costs one signature. Time and revocation are looked at
every time.

Not responsible for what is signed with certified keys (`envelopes`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from holloway.protocols.authorities import Bundle, next_bundle
from holloway.protocols.certificates import (
    MAX_CERTIFICATE_BYTES,
    CertificateProblem,
    NodeCertificate,
    read_node,
    time_problem,
)
from holloway.protocols.membership import network_prefix
from holloway.protocols.revocation import RevocationList, RevocationProblem, read_list
from holloway.protocols.statements import (
    SETTINGS,
    Statement,
    StatementProblem,
    read_statement,
    statement_problem,
)

MAX_REMEMBERED = 4096


def revoked_key(network: str) -> bytes:
    """The registry key of the revocation list."""
    return network_prefix(network) + b"revoked"


class Trust:
    """What a node of one network trusts. Methods take any bytes, and `now` in seconds since 1970."""

    def __init__(self, bundle: Bundle, *, list_number: int = 0) -> None:
        """`list_number`: of a revocation list that is known to exist; an older one is never enough."""
        self._bundle = bundle
        self._list_number = list_number
        self._revocations: RevocationList | None = None
        self._settings: Statement | None = None
        self._remembered: OrderedDict[bytes, NodeCertificate] = OrderedDict()

    @property
    def network(self) -> str:
        return self._bundle.network

    @property
    def bundle(self) -> Bundle:
        """The authorities that are trusted now."""
        return self._bundle

    @property
    def revocations(self) -> RevocationList | None:
        """The newest list that was seen."""
        return self._revocations

    @property
    def list_number(self) -> int:
        """The number that a revocation list must have at least."""
        return self._list_number

    def take_bundle(self, value: bytes, now: int) -> StatementProblem | None:
        """Trust other authorities from now on, if those trusted until now say so. The same bundle again is fine."""
        bundle = next_bundle(self._bundle, value, now)
        if isinstance(bundle, StatementProblem):
            return bundle
        self._bundle = bundle
        return None

    def take_revocations(self, der: bytes) -> RevocationProblem | None:
        """Take a newer revocation list. The same list again is fine."""
        if self._revocations is not None and der == self._revocations.der:
            return None
        found = read_list(der, self._bundle.authorities)
        if isinstance(found, RevocationProblem):
            return found
        if found.number < self._list_number or (self._revocations is not None and found.number == self._list_number):
            return RevocationProblem.STALE
        self._revocations, self._list_number = found, found.number
        return None

    def list_problem(self, now: int) -> RevocationProblem | None:
        """Why somebody who was revoked may still be believed, or nobody is believed at all; None when all is as it should be.

        For people: the authority is away, or the store withholds its lists.
        """
        if self._revocations is None:
            return RevocationProblem.MISSING if self._list_number else None
        return RevocationProblem.OVERDUE if now > self._revocations.next_update else None

    def take_settings(self, value: bytes, now: int) -> str | StatementProblem:
        """The text of the network's settings, when an authority signed it and it is not older than one seen before."""
        statement = read_statement(value)
        if isinstance(statement, StatementProblem):
            return statement
        known = self._settings
        if known is not None and known.text != statement.text and statement.number <= known.number:
            return StatementProblem.STALE
        problem = statement_problem(SETTINGS, self.network, statement, self._bundle.authorities, now)
        if problem is not None:
            return problem
        self._settings = statement
        return statement.text

    def check(self, der: bytes, now: int) -> NodeCertificate | CertificateProblem:
        """What the certificate of a node says, if it is to be believed now."""
        if len(der) > MAX_CERTIFICATE_BYTES:
            return CertificateProblem.MALFORMED
        digest = hashlib.sha256(der).digest()
        certificate = self._remembered.get(digest)
        if certificate is None:
            found = read_node(der, self.network, self._bundle.authorities)
            if isinstance(found, CertificateProblem):
                return found
            certificate = self._remembered[digest] = found
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(digest)
        return self.problem(certificate, now) or certificate

    def problem(self, certificate: NodeCertificate, now: int) -> CertificateProblem | None:
        """Why a certificate that was believed once is not to be believed now, or None.

        For those who ask again while a session lives: authorities go, lists come and time passes.
        """
        found = self.own_problem(certificate, now)
        if found is None and self._revocations is None and self._list_number:
            return CertificateProblem.REVOCATIONS_MISSING
        return found

    def own_problem(self, certificate: NodeCertificate, now: int) -> CertificateProblem | None:
        """Why the others do not believe a certificate of ours any more, as far as we can know, or None.

        That we have not seen the revocation list, which keeps us from believing anybody, says nothing about what they have.
        """
        authority = next(
            (each for each in self._bundle.authorities if each.key.fingerprint == certificate.authority), None
        )
        if authority is None:
            return CertificateProblem.FOREIGN_AUTHORITY
        if self._revocations is not None and certificate.serial in self._revocations.serials:
            return CertificateProblem.REVOKED
        return time_problem(certificate, now) or time_problem(authority, now)
