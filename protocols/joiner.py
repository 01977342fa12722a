"""The side of a machine that wants to be let in: what it writes, and what it believes of the answer.

A grant counts when its mac proves that the authority made it for this request; when the authorities in it go back to the one that
the invitation names; and when the certificate is of the machine's own key and name. So neither whoever owns the store nor whoever
got hold of the authority's invitation key alone can have a machine believe anything.

Not responsible for the messages themselves (`enrolment`), nor for reading and writing the store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address

from holloway.protocols.authorities import Bundle, first_bundle
from holloway.protocols.certificates import CertificateProblem, NodeCertificate, read_node, time_problem
from holloway.protocols.enrolment import (
    NONCE_BYTES,
    EnrolProblem,
    Grant,
    Refused,
    grant_key,
    make_request_message,
    open_answer,
    request_key,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import base64_text, compact
from holloway.protocols.identity import Identity
from holloway.protocols.invitations import Invitation
from holloway.protocols.issuing import make_request
from holloway.protocols.membership import NAME
from holloway.protocols.statements import StatementProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The machine is in. `settings`: the signed text, as it stands in the store. `list_number`: see `trust.Trust`."""

    certificate: NodeCertificate
    bundle: Bundle
    settings: bytes
    list_number: int


class Joiner:
    """One attempt to join, with one key and one wish."""

    def __init__(
        self,
        invitation: Invitation,
        identity: Identity,
        nonce: bytes,
        *,
        name: str | None = None,
        addresses: tuple[IPv4Address, ...] = (),
    ) -> None:
        """`identity`: keep it from the first attempt on: an invitation that was used is good for the same key only.
        `name` and `addresses`: what the machine wishes for, where the invitation leaves it open; without a wish for an
        address it gets one. `nonce`: 16 random bytes, others at every attempt, so that an answer to an earlier one, which says
        how far revocation lists had come at that time, is none to this one.

        Raises LocalError when the invitation does not allow the wish.
        """
        terms = invitation.terms
        wished = name if name is not None else terms.name
        if wished is None or not NAME.match(wished) or (terms.name is not None and wished != terms.name):
            raise LocalError(
                f"this machine cannot join as {wished!r}",
                "the invitation is for another name"
                if terms.name is not None
                else "it needs a name that a node can have",
                f"join as {terms.name}"
                if terms.name is not None
                else "choose up to 63 letters, digits, dots and dashes",
            )
        if addresses and terms.addresses and addresses != terms.addresses:
            raise LocalError(
                "this machine cannot have these addresses",
                f"the invitation is for {', '.join(map(str, terms.addresses))}",
                "join without asking for addresses",
            )
        if len(nonce) != NONCE_BYTES:
            raise LocalError("no request was made", f"{len(nonce)} random bytes came in, {NONCE_BYTES} are needed")
        self._invitation = invitation
        self._identity = identity
        self._name = wished
        self._addresses = addresses or terms.addresses
        self._request = compact(
            {
                "csr": base64_text(make_request(identity)),
                "name": wished,
                "addresses": [str(address) for address in self._addresses],
                "nonce": nonce.hex(),
            }
        )

    @property
    def request_key(self) -> bytes:
        """Where the request goes."""
        return request_key(self._invitation.terms.network, self._invitation.terms.id)

    @property
    def grant_key(self) -> bytes:
        """Where the answer will be."""
        return grant_key(self._invitation.terms.network, self._invitation.terms.id)

    def request(self) -> bytes:
        """What to write under `request_key`. Writing it again does no harm."""
        return make_request_message(self._invitation.terms, self._request, self._invitation.secret)

    def read(self, value: bytes, now: int) -> Granted | Refused | EnrolProblem:
        """What stands under `grant_key`: the grant, the refusal, or why it is neither and is to be passed over.

        Takes any bytes; `now` in seconds since 1970.
        """
        hashed = hashlib.sha256(self._request.encode()).digest()
        answer = open_answer(value, self._invitation.secret, hashed)
        return self._believed(answer, now) if isinstance(answer, Grant) else answer

    def _believed(self, grant: Grant, now: int) -> Granted | EnrolProblem:
        network = self._invitation.terms.network
        bundle = first_bundle(grant.authorities, network, self._invitation.authority, now)
        if isinstance(bundle, StatementProblem):
            is_early = bundle is StatementProblem.NOT_IN_TIME
            return EnrolProblem.NOT_IN_TIME if is_early else EnrolProblem.FOREIGN_AUTHORITY
        certificate = read_node(grant.certificate, network, bundle.authorities)
        if isinstance(certificate, CertificateProblem):
            return EnrolProblem.BAD_CERTIFICATE
        if (certificate.key, certificate.name) != (self._identity.public, self._name):
            return EnrolProblem.BAD_CERTIFICATE
        if not certificate.addresses.issuperset(self._addresses):
            return EnrolProblem.BAD_CERTIFICATE
        if time_problem(certificate, now) is not None:
            return EnrolProblem.NOT_IN_TIME
        return Granted(certificate=certificate, bundle=bundle, settings=grant.settings, list_number=grant.list_number)
