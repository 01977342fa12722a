"""How a machine is let into a network: the two messages that go through the store.

    enrol/<id>    {"v":1,"terms":TEXT,"request":TEXT,"mac":BASE64}      by the machine
    grants/<id>   {"v":1,"grant":TEXT,"mac":BASE64}                     by the authority

Both macs are made with the secret of the invitation (`invitations`), which never comes near the store. So whoever owns the
store can read both and lose both; what he alters, makes himself or copies from elsewhere is no message. A grant names the request
that it answers by its hash, so an old refusal is none of a new request.

Not responsible for what a machine believes of a grant (`joiner`), who gets what (`issuer`), nor for the store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from holloway.protocols.certificates import (
    MAX_CERTIFICATE_BYTES,
)
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import (
    MAX_INTEGER,
    base64_text,
    compact,
    hexadecimal,
    integer,
    listed,
    octets,
    read_object,
    text,
)
from holloway.protocols.identity import PublicKey
from holloway.protocols.invitations import (
    MAX_TERMS_ADDRESSES,
    MAX_TERMS_CHARS,
    Terms,
    has_mac,
    invitation_secret,
    mac,
    read_ipv4,
    read_terms,
)
from holloway.protocols.issuing import MAX_REQUEST_BYTES, read_request
from holloway.protocols.membership import NAME, network_prefix
from holloway.protocols.statements import MAX_STATEMENT_BYTES

ENROLMENT_VERSION = 1
MAX_REQUEST_MESSAGE_BYTES = 24 * 1024
MAX_GRANT_BYTES = 65_536  # what a store takes under one key
_MAX_REQUEST_CHARS = 8 * 1024
_MAX_GRANT_CHARS = 60 * 1024
_MAC_BYTES = 32
HASH_BYTES = 32
NONCE_BYTES = 16


class EnrolProblem(Enum):
    """Why a request is refused or a message is not believed; the value is the name under which it is counted.

    Those up to `WRONG_PLACE` are about messages that may be anybody's and are never answered.
    """

    TOO_BIG = "enrolment_too_big"
    MALFORMED = "enrolment_malformed"
    WRONG_VERSION = "enrolment_wrong_version"
    NOT_AUTHENTIC = "enrolment_not_authentic"
    WRONG_PLACE = "enrolment_wrong_place"
    OTHER_REQUEST = "enrolment_other_request"
    FOREIGN_AUTHORITY = "enrolment_foreign_authority"
    BAD_CERTIFICATE = "enrolment_bad_certificate"
    NOT_IN_TIME = "enrolment_not_in_time"
    EXPIRED = "enrolment_expired"
    USED = "enrolment_used"
    BAD_KEY = "enrolment_bad_key"
    KEY_TAKEN = "enrolment_key_taken"
    KEY_REVOKED = "enrolment_key_revoked"
    BAD_NAME = "enrolment_bad_name"
    NOT_INVITED = "enrolment_not_invited"
    NAME_TAKEN = "enrolment_name_taken"
    ADDRESS_TAKEN = "enrolment_address_taken"
    ADDRESS_RESTING = "enrolment_address_resting"
    ADDRESS_RESERVED = "enrolment_address_reserved"
    PREFIX_RESERVED = "enrolment_prefix_reserved"
    NO_ADDRESS_LEFT = "enrolment_no_address_left"
    FULL = "enrolment_full"
    UNKNOWN = "enrolment_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of somebody who was invited. `hash`: SHA-256 of its text, which the grant repeats."""

    terms: Terms
    key: PublicKey | None
    name: str | None
    addresses: tuple[IPv4Address, ...]
    secret: bytes = field(repr=False)
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the authority answers to somebody who is let in, in DER and as it stands in the store.

    `list_number`: of the newest revocation list.
    """

    certificate: bytes
    authorities: bytes
    settings: bytes
    list_number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The authority says no, and that is certain. A wish for something else may be fulfilled where that is the reason."""

    reason: EnrolProblem


def request_key(network: str, invitation: bytes) -> bytes:
    """The registry key of the request of whoever has the invitation with this id."""
    return network_prefix(network) + b"enrol/" + invitation.hex().encode()


def grant_key(network: str, invitation: bytes) -> bytes:
    """The registry key of the answer."""
    return network_prefix(network) + b"grants/" + invitation.hex().encode()


def open_request(value: bytes, network: str, invitation: bytes, invitation_key: bytes) -> Request | EnrolProblem:
    """The request found under the id `invitation`, if whoever wrote it was invited by the owner of `invitation_key`.

    Takes any bytes. That the invitation is still good, and the wish can be fulfilled, is to be seen.
    """
    if len(value) > MAX_REQUEST_MESSAGE_BYTES:
        return EnrolProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_REQUEST_MESSAGE_BYTES)
        if integer(fields, "v", 0, MAX_INTEGER) != ENROLMENT_VERSION:
            return EnrolProblem.WRONG_VERSION
        agreed = text(fields, "terms", MAX_TERMS_CHARS)
        body = text(fields, "request", _MAX_REQUEST_CHARS)
        secret = invitation_secret(invitation_key, agreed)
        if not has_mac(secret, "request", body, octets(fields, "mac", _MAC_BYTES)):
            return EnrolProblem.NOT_AUTHENTIC
        terms = read_terms(agreed)
        if (terms.network, terms.id) != (network, invitation):
            return EnrolProblem.WRONG_PLACE
        request = read_object(body, _MAX_REQUEST_CHARS)
        name = text(request, "name", 63)
        hexadecimal(request, "nonce", NONCE_BYTES)
        return Request(
            terms=terms,
            key=read_request(octets(request, "csr", MAX_REQUEST_BYTES)),
            name=name if NAME.match(name) else None,
            addresses=listed(request, "addresses", MAX_TERMS_ADDRESSES, read_ipv4),
            secret=secret,
            hash=hashlib.sha256(body.encode()).digest(),
        )
    except ValueError:
        return EnrolProblem.MALFORMED


def make_request_message(terms: Terms, request: str, secret: bytes) -> bytes:
    """What to write under `enrol/<id>`: the text of a request, and the proof of the invitation."""
    tag = base64_text(mac(secret, "request", request))
    return compact({"v": ENROLMENT_VERSION, "terms": terms.text(), "request": request, "mac": tag}).encode()


def make_answer(request: Request, answer: Grant | Refused) -> bytes:
    """What to write under `grants/<id>` for somebody who was invited. Raises LocalError when it could not be read."""
    fields: dict[str, object] = {"request": request.hash.hex()}
    if isinstance(answer, Refused):
        fields["refused"] = answer.reason.value
    else:
        fields["certificate"] = base64_text(answer.certificate)
        fields["authorities"] = base64_text(answer.authorities)
        fields["settings"] = base64_text(answer.settings)
        fields["revoked"] = answer.list_number
    body = compact(fields)
    tag = base64_text(mac(request.secret, "grant", body))
    value = compact({"v": ENROLMENT_VERSION, "grant": body, "mac": tag}).encode()
    if open_answer(value, request.secret, request.hash) != answer:
        raise LocalError("nobody could read this grant", f"it has {len(value)} bytes of {MAX_GRANT_BYTES}")
    return value


def open_answer(value: bytes, secret: bytes, request: bytes) -> Grant | Refused | EnrolProblem:
    """What stands under `grants/<id>`: the answer to the request with this hash, or why it is none. Takes any bytes."""
    if len(value) > MAX_GRANT_BYTES:
        return EnrolProblem.TOO_BIG
    try:
        fields = read_object(value, MAX_GRANT_BYTES)
        if integer(fields, "v", 0, MAX_INTEGER) != ENROLMENT_VERSION:
            return EnrolProblem.WRONG_VERSION
        body = text(fields, "grant", _MAX_GRANT_CHARS)
        if not has_mac(secret, "grant", body, octets(fields, "mac", _MAC_BYTES)):
            return EnrolProblem.NOT_AUTHENTIC
        grant = read_object(body, _MAX_GRANT_CHARS)
        if hexadecimal(grant, "request", HASH_BYTES) != request:
            return EnrolProblem.OTHER_REQUEST
        if "refused" in grant:
            return Refused(EnrolProblem(text(grant, "refused", 64)))
        return Grant(
            certificate=octets(grant, "certificate", MAX_CERTIFICATE_BYTES),
            authorities=octets(grant, "authorities", MAX_STATEMENT_BYTES),
            settings=octets(grant, "settings", MAX_STATEMENT_BYTES),
            list_number=integer(grant, "revoked", 0, MAX_INTEGER),
        )
    except ValueError:
        return EnrolProblem.MALFORMED
