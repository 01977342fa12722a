"""The list of certificates that are taken back: a CRL (RFC 5280, section 5) with a number that only grows.

One list for the whole network: serial numbers are 128 random bits, so what a list names is taken back whichever authority
issued it. A list is believed when an authority trusted now has signed it, however old it is: what was taken back stays so.
Its "next update" is told, not enforced, because a store that withholds lists could otherwise silence the network.

Not responsible for which list a node has seen (`trust`), nor for what is to be taken back (`ledger`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtensionOID

from holloway.protocols.certificates import HOSTILE, AuthorityCertificate, is_signed
from holloway.protocols.errors import LocalError
from holloway.protocols.hostile_json import MAX_INTEGER
from holloway.protocols.issuing import DETERMINISTIC, Authority, moment

MAX_LIST_BYTES = 65_536  # what a store takes under one key
MAX_REVOKED = 1536
LIST_LIFETIME_S = 7 * 86_400
KEPT_AFTER_EXPIRY_S = 7 * 86_400
"""What is taken back stays in the list for so long after its certificate has run out: for nodes whose clock is late."""
_HANDLED = {ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER}


class RevocationProblem(Enum):
    """Why a list is not taken, and what is wrong with the one that there is; the value is the name for which `status` has it.

    A list that is known to exist is `MISSING` until it was seen; one is `OVERDUE` once its authority meant to have made another.
    """

    TOO_BIG = "revocations_too_big"
    MALFORMED = "revocations_malformed"
    FOREIGN_AUTHORITY = "revocations_foreign_authority"
    STALE = "revocations_stale"
    MISSING = "revocations_missing"
    OVERDUE = "revocations_overdue"


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that is taken back: its serial number, since when, and when it would have run out (s since 1970)."""

    serial: int
    at: int
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """What a list says. `next_update`: when its authority meant to have made another, in seconds since 1970."""

    number: int
    serials: frozenset[int]
    next_update: int
    der: bytes = field(repr=False)


def still_listed(revoked: Iterable[Revoked], now: int) -> tuple[Revoked, ...]:
    """Those whose certificates have not run out long ago, by serial number."""
    kept = (one for one in revoked if now <= one.expires + KEPT_AFTER_EXPIRY_S)
    return tuple(sorted(kept, key=lambda one: one.serial))


def make_list(
    authority: Authority, number: int, revoked: Iterable[Revoked], *, now: int, lifetime_s: int = LIST_LIFETIME_S
) -> RevocationList:
    """A list with this number, signed. Raises LocalError when others would not take it."""
    listed = still_listed(revoked, now)
    if not 0 < number <= MAX_INTEGER or len(listed) > MAX_REVOKED:
        raise LocalError(
            "no revocation list was made",
            f"number {number} and {len(listed)} certificates; a list has a number from 1 on and up to {MAX_REVOKED} "
            "certificates",
            "roll over to a new authority: certificates of one that is gone need not be listed",
        )
    key = authority.identity.public.key
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(moment(now))
        .next_update(moment(now + lifetime_s))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
    )
    for one in listed:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(moment(one.at))
        builder = builder.add_revoked_certificate(entry.build())
    signed = builder.sign(authority.identity.private, hashes.SHA256(), ecdsa_deterministic=DETERMINISTIC)
    made = read_list(signed.public_bytes(serialization.Encoding.DER), [authority.certificate])
    assert isinstance(made, RevocationList), made  # MAX_REVOKED entries of the longest kind fit
    return made


def read_list(der: bytes, authorities: Iterable[AuthorityCertificate]) -> RevocationList | RevocationProblem:
    """The list in `der`, signed by one of `authorities`. Takes any bytes."""
    if len(der) > MAX_LIST_BYTES:
        return RevocationProblem.TOO_BIG
    try:
        found = x509.load_der_x509_crl(der)
        if not any(found.issuer == known.subject and is_signed(found, known.key) for known in authorities):
            return RevocationProblem.FOREIGN_AUTHORITY
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        # A critical extension would say that the list is not of everything (RFC 5280, sections 5.2.4 and 5.2.5).
        is_whole = all(extension.oid in _HANDLED or not extension.critical for extension in found.extensions)
        next_update = found.next_update_utc
        if not is_whole or not 0 < number <= MAX_INTEGER or next_update is None:
            return RevocationProblem.MALFORMED
        return RevocationList(
            number=number,
            serials=frozenset(entry.serial_number for entry in found),
            next_update=int(next_update.timestamp()),
            der=der,
        )
    except HOSTILE:
        return RevocationProblem.MALFORMED
